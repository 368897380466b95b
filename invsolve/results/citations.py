"""What to cite for a result: the papers behind its strategy, sampler and prior, and the origin of embedded data."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import final

from invsolve.errors import invalid, invalid_type
from invsolve.priors.base import Prior
from invsolve.results.result import Result
from invsolve.samplers.base import Sampler
from invsolve.strategies.base import Strategy
from invsolve.strategies.guidance.guided import Guidance


@final
@dataclass(frozen=True, kw_only=True)
class Citation:
    """One reference; ``str()`` is its BibTeX entry.

    Parameters
    ----------
    key, authors, title, venue : str
        As in BibTeX, authors joined by "and".
    year : int
        Of publication.
    arxiv, doi : str
        '' where there is none.
    """

    key: str
    authors: str
    title: str
    venue: str
    year: int
    arxiv: str = ""
    doi: str = ""

    def __str__(self) -> str:
        lines = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "howpublished": self.venue,
            "year": str(self.year),
        }
        lines |= {"eprint": self.arxiv, "archiveprefix": "arXiv"} if self.arxiv else {}
        lines |= {"doi": self.doi} if self.doi else {}
        return f"@misc{{{self.key},\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in lines.items()) + "}"


def _paper(key: str, authors: str, title: str, venue: str, arxiv: str = "", doi: str = "") -> Citation:
    where, year = venue.rsplit(" ", 1)
    return Citation(key=key, authors=authors, title=title, venue=where, year=int(year), arxiv=arxiv, doi=doi)


_CHUNG, _SONG = "Hyungjin Chung", "Jiaming Song"
_PAPERS = {
    p.key: p
    for p in (
        _paper(
            "chung2023dps",
            f"{_CHUNG} and Jeongsol Kim and Michael T. McCann and Marc L. Klasky and Jong Chul Ye",
            "Diffusion Posterior Sampling for General Noisy Inverse Problems",
            "ICLR 2023",
            "2209.14687",
        ),
        _paper(
            "song2023pigdm",
            f"{_SONG} and Arash Vahdat and Morteza Mardani and Jan Kautz",
            "Pseudoinverse-Guided Diffusion Models for Inverse Problems",
            "ICLR 2023",
        ),
        _paper(
            "wang2023ddnm",
            "Yinhuai Wang and Jiwen Yu and Jian Zhang",
            "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model",
            "ICLR 2023",
            "2212.00490",
        ),
        _paper(
            "kawar2022ddrm",
            f"Bahjat Kawar and Michael Elad and Stefano Ermon and {_SONG}",
            "Denoising Diffusion Restoration Models",
            "NeurIPS 2022",
            "2201.11793",
        ),
        _paper(
            "zhu2023diffpir",
            "Yuanzhi Zhu and Kai Zhang and Jingyun Liang and Jiezhang Cao and Bihan Wen and Radu Timofte "
            "and Luc Van Gool",
            "Denoising Diffusion Models for Plug-and-Play Image Restoration",
            "CVPR Workshops 2023",
            "2305.08995",
        ),
        _paper(
            "mardani2024reddiff",
            f"Morteza Mardani and {_SONG} and Jan Kautz and Arash Vahdat",
            "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
            "ICLR 2024",
            "2305.04391",
        ),
        _paper(
            "zhang2025daps",
            "Bingliang Zhang and Wenda Chu and Julius Berner and Chenlin Meng and Anima Anandkumar and Yang Song",
            "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing",
            "CVPR 2025",
            "2407.01521",
        ),
        _paper(
            "wu2024pnpdm",
            "Zihui Wu and Yu Sun and Yifan Chen and Bingliang Zhang and Yisong Yue and Katherine L. Bouman",
            "Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play Priors",
            "NeurIPS 2024",
            "2405.18782",
        ),
        _paper(
            "zheng2025lanpaint",
            "Candi Zheng and Yuan Lan and Yang Wang",
            "LanPaint: Training-Free Diffusion Inpainting with Asymptotically Exact and Fast Conditional Sampling",
            "Transactions on Machine Learning Research 2025",
            "2502.03491",
        ),
        _paper(
            "cardoso2024mcgdiff",
            "Gabriel Cardoso and Yazid Janati El Idrissi and Sylvain Le Corff and Eric Moulines",
            "Monte Carlo guided Diffusion for Bayesian linear inverse problems",
            "ICLR 2024",
            "2308.07983",
        ),
        _paper(
            "dou2024fps",
            "Zehao Dou and Yang Song",
            "Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective",
            "ICLR 2024",
        ),
        _paper(
            "song2023lgd",
            f"{_SONG} and Qinsheng Zhang and Hongxu Yin and Morteza Mardani and Ming-Yu Liu and Jan Kautz "
            "and Yongxin Chen and Arash Vahdat",
            "Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation",
            "ICML 2023",
        ),
        _paper(
            "rozet2024mmps",
            "François Rozet and Gérôme Andry and François Lanusse and Gilles Louppe",
            "Learning Diffusion Priors from Observations by Expectation Maximization",
            "NeurIPS 2024",
            "2405.13712",
        ),
        _paper(
            "boys2024tmpd",
            "Benjamin Boys and Mark Girolami and Jakiw Pidstrigach and Sebastian Reich and Alan Mosca and "
            "O. Deniz Akyildiz",
            "Tweedie Moment Projected Diffusions For Inverse Problems",
            "TMLR 2024",
            "2310.06721",
        ),
        _paper(
            "wu2023tds",
            "Luhuan Wu and Brian L. Trippe and Christian A. Naesseth and David M. Blei and John P. Cunningham",
            "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models",
            "NeurIPS 2023",
            "2306.17775",
        ),
        _paper(
            "cotter2013mcmc",
            "Simon L. Cotter and Gareth O. Roberts and Andrew M. Stuart and David White",
            "MCMC Methods for Functions: Modifying Old Algorithms to Make Them Faster",
            "Statistical Science 28(3), 424-446 2013",
            "1202.0709",
            "10.1214/13-STS421",
        ),
        _paper(
            "neal2011hmc",
            "Radford M. Neal",
            "MCMC Using Hamiltonian Dynamics",
            "Handbook of Markov Chain Monte Carlo 2011",
            "1206.1901",
        ),
        _paper(
            "cao2024deqir",
            "Jiezhang Cao and Yue Shi and Kai Zhang and Yulun Zhang and Radu Timofte and Luc Van Gool",
            "Deep Equilibrium Diffusion Restoration with Parallel Sampling",
            "CVPR 2024",
            "2311.11600",
        ),
        _paper(
            "shih2023parallel",
            "Andy Shih and Suneel Belkhale and Stefano Ermon and Dorsa Sadigh and Nima Anari",
            "Parallel Sampling of Diffusion Models",
            "NeurIPS 2023",
            "2305.16317",
        ),
        _paper(
            "jolicoeur2021fast",
            "Alexia Jolicoeur-Martineau and Ke Li and Rémi Piché-Taillefer and Tal Kachman and Ioannis Mitliagkas",
            "Gotta Go Fast When Generating Data with Score-Based Models",
            "arXiv 2021",
            "2105.14080",
        ),
        _paper(
            "ho2020ddpm",
            "Jonathan Ho and Ajay Jain and Pieter Abbeel",
            "Denoising Diffusion Probabilistic Models",
            "NeurIPS 2020",
            "2006.11239",
        ),
        _paper(
            "song2021ddim",
            f"{_SONG} and Chenlin Meng and Stefano Ermon",
            "Denoising Diffusion Implicit Models",
            "ICLR 2021",
            "2010.02502",
        ),
        _paper(
            "song2021sde",
            "Yang Song and Jascha Sohl-Dickstein and Diederik P. Kingma and Abhishek Kumar and Stefano Ermon "
            "and Ben Poole",
            "Score-Based Generative Modeling through Stochastic Differential Equations",
            "ICLR 2021",
            "2011.13456",
        ),
        _paper(
            "karras2022edm",
            "Tero Karras and Miika Aittala and Timo Aila and Samuli Laine",
            "Elucidating the Design Space of Diffusion-Based Generative Models",
            "NeurIPS 2022",
            "2206.00364",
        ),
        _paper(
            "lu2022dpmsolverpp",
            "Cheng Lu and Yuhao Zhou and Fan Bao and Jianfei Chen and Chongxuan Li and Jun Zhu",
            "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
            "arXiv 2022",
            "2211.01095",
        ),
        _paper(
            "zhao2023unipc",
            "Wenliang Zhao and Lujia Bai and Yongming Rao and Jie Zhou and Jiwen Lu",
            "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
            "NeurIPS 2023",
            "2302.04867",
        ),
        _paper(
            "cui2023ersde",
            "Qinpeng Cui and Xinyi Zhang and Zongqing Lu and Qingmin Liao",
            "Elucidating the solution space of extended reverse-time SDE for diffusion models",
            "arXiv 2023",
            "2309.06169",
        ),
        _paper(
            "zhang2023deis",
            "Qinsheng Zhang and Yongxin Chen",
            "Fast Sampling of Diffusion Models with Exponential Integrator",
            "ICLR 2023",
            "2204.13902",
        ),
        _paper(
            "lindgren2011spde",
            "Finn Lindgren and Håvard Rue and Johan Lindström",
            "An explicit link between Gaussian fields and Gaussian Markov random fields: the stochastic partial "
            "differential equation approach",
            "Journal of the Royal Statistical Society B 73(4), 423-498 2011",
            doi="10.1111/j.1467-9868.2011.00777.x",
        ),
        _paper(
            "garyfallidis2014dipy",
            "Eleftherios Garyfallidis and Matthew Brett and Bagrat Amirbekian and Ariel Rokem and "
            "Stefan van der Walt and Maxime Descoteaux and Ian Nimmo-Smith and {Dipy Contributors}",
            "Dipy, a library for the analysis of diffusion MRI data",
            "Frontiers in Neuroinformatics 8:8 2014",
            doi="10.3389/fninf.2014.00008",
        ),
    )
}

# By the names of classes, and of the functions that build strategies; data by the names of their functions.
SOURCES: dict[str, tuple[str, ...]] = {
    "DPS": ("chung2023dps",),
    "PiGDM": ("song2023pigdm",),
    "PublishedPiGDM": ("song2023pigdm",),
    "PseudoinverseGuidance": ("song2023pigdm",),
    "DDNM": ("wang2023ddnm",),
    "DDRM": ("kawar2022ddrm",),
    "DiffPIR": ("zhu2023diffpir",),
    "REDDiff": ("mardani2024reddiff",),
    "DAPS": ("zhang2025daps",),
    "PnPDM": ("wu2024pnpdm",),
    "LanPaint": ("zheng2025lanpaint",),
    "MCGDiff": ("cardoso2024mcgdiff",),
    "FPS": ("dou2024fps",),
    "LGD": ("song2023lgd",),
    "MMPS": ("rozet2024mmps",),
    "MomentMatching": ("rozet2024mmps",),
    "TMPD": ("boys2024tmpd",),
    "TweedieMoment": ("boys2024tmpd",),
    "SMC": ("wu2023tds", "rozet2024mmps"),
    "NoiseMCMC": ("cotter2013mcmc", "neal2011hmc"),
    "DeqParallel": ("cao2024deqir", "shih2023parallel", "song2021ddim"),
    "AdaptiveSDE": ("jolicoeur2021fast",),
    "Ancestral": ("ho2020ddpm",),
    "Euler": ("song2021ddim",),
    "Heun": ("karras2022edm",),
    "Churn": ("karras2022edm",),
    "DPMSolver2M": ("lu2022dpmsolverpp",),
    "DPMSolver3M": ("lu2022dpmsolverpp",),
    "SDEDPMSolver2M": ("lu2022dpmsolverpp",),
    "UniPC": ("zhao2023unipc",),
    "ERSDE": ("cui2023ersde",),
    "DEIS": ("zhang2023deis",),
    "PredictorCorrector": ("song2021sde",),
    "Matern": ("lindgren2011spde",),
    "EDM": ("karras2022edm",),
    "t1_slice": ("garyfallidis2014dipy",),
}

# Textbook formulas and plain composition: nothing to cite beyond the parts.
OWN = frozenset({"Exact", "Guided", "NoGuidance", "Unconditional"})


def cite(*what: Result | Strategy | Guidance | Sampler | Prior | str) -> tuple[Citation, ...]:
    r"""The references behind a result, each once: of its strategy with guidance and sampler, and of its prior.

    ``print(*iv.cite(result), sep="\n\n")`` is a BibTeX file.

    Parameters
    ----------
    *what : Result, Strategy, Guidance, Sampler, Prior or str
        Results and the parts of them, or names: ``"DPS"``, or ``"t1_slice"`` for the embedded sample, which a result
        does not remember. What is yours gives nothing. A result that was read from a file knows the names of its
        strategy and guidance only.

    Returns
    -------
    tuple of Citation

    Raises
    ------
    InputError, InputTypeError
        For a name that is not known, or another object.

    Examples
    --------
    >>> from invsolve.samplers import UniPC
    >>> [c.arxiv for c in cite(UniPC())]
    ['2302.04867']
    """
    keys: dict[str, None] = {}
    for one in what:
        if not isinstance(one, (Result, Strategy, Guidance, Sampler, Prior, str)):
            raise invalid_type("cite", "what", "results, strategies, samplers, priors or names", one)
        if isinstance(one, str) and one not in SOURCES and one not in OWN:
            near = get_close_matches(one, [*SOURCES, *OWN], n=1)
            raise invalid(
                "cite",
                "what",
                f"names such as {', '.join(sorted(SOURCES))}",
                repr(one),
                f"Did you mean {near[0]!r}?" if near else "",
            )
        for name in _names(one):
            keys |= dict.fromkeys(SOURCES.get(name, ()))
    return tuple(_PAPERS[key] for key in keys)


def _names(value: object) -> list[str]:
    """The names that an object stands for: its class's, and those of the parts it is made of."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Result):
        parts: list[object] = [value.strategy_object, value.prior]
        if value.strategy_object is None:  # a file keeps names: "DeqParallel, MMPS"
            parts += value.strategy.split(", ")
        return [name for part in parts if part is not None for name in _names(part)]
    names = [type(value).__name__] if type(value).__module__.split(".")[0] == "invsolve" else []
    if is_dataclass(value):
        inside = (getattr(value, f.name, None) for f in fields(value))
        names += [n for v in inside if is_dataclass(v) and not isinstance(v, type) for n in _names(v)]
    return names
