"""What to cite for a result: the papers behind its strategy, sampler and prior, and the origin of embedded data."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
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


@cache
def papers() -> dict[str, Citation]:
    """The references of ``references.bib``, by key."""
    text = resources.files("invsolve.results").joinpath("references.bib").read_text(encoding="utf-8")
    found = {}
    for key, body in re.findall(r"^@misc\{(\S+),\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL):
        entry = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, flags=re.MULTILINE))
        found[key] = Citation(
            key=key,
            authors=entry["author"],
            title=entry["title"].strip("{}"),
            venue=entry["howpublished"],
            year=int(entry["year"]),
            arxiv=entry.get("eprint", ""),
            doi=entry.get("doi", ""),
        )
    return found


# By the names of classes, and of the functions that build strategies; data by the names of their functions.
SOURCES: dict[str, tuple[str, ...]] = {
    "DPS": ("chung2023dps",),
    "FunDPS": ("yao2025fundps",),
    "DiffusionPDE": ("huang2024diffusionpde",),
    "MultiResolution": ("yao2025fundps", "rozet2024mmps"),
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
    return tuple(papers()[key] for key in keys)


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
