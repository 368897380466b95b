"""What every strategy promises: rows do not see each other, seeds, units, noise levels, kinds, and honest refusals."""

from __future__ import annotations

import pytest
import torch
from strategy_cases import WALKS
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.progress import Progress

N = 8
SPECTRAL = {"DDNM", "DDNM, official", "DDNM, inversebench", "DDRM", "LanPaint", "MCGDiff", "FPS"}
# By design: no noise level enters, data are taken as exact, or what is drowned gets no noise.
NOT_NOISE_AWARE = {"DPS, paper", "REDDiff, published", "DDNM", "DDNM, official", "DDNM, inversebench", "DDRM"}
FIELDS = {"FunDPS", "DiffusionPDE"}
NOT_NOISE_AWARE |= FIELDS

each = pytest.mark.parametrize("name", WALKS)


def prior(dtype: torch.dtype = torch.float64, unit: float = 1.0) -> iv.priors.GaussianPrior:
    r = (torch.arange(N)[:, None] - torch.arange(N)).abs().double()
    mean = torch.linspace(-1, 1, N, dtype=torch.float64)
    if dtype.is_complex:
        mean = torch.complex(mean, -mean)
    made = iv.priors.GaussianPrior(mean=unit * mean, covariance=unit**2 * 0.7**r)
    return made.to(dtype=torch.float32) if dtype in (torch.float32, torch.complex64) else made


def masks() -> iv.operators.Mask:
    keep = torch.tensor([[1, 0, 1, 1, 0, 1, 0, 1], [0, 1, 1, 0, 1, 1, 1, 0], [1, 1, 0, 0, 1, 0, 1, 1]]).bool()
    return iv.operators.Mask(mask=keep, in_shape=(N,))


def data(dtype: torch.dtype = torch.float64) -> Tensor:
    y = torch.randn(3, N, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return (
        masks().mask * y
        if not dtype.is_complex
        else iv.operators.Mask(mask=masks().mask, in_shape=(N,), kind="complex")(y)
    )


def run(name: str, y: Tensor, A: iv.operators.Operator | None = None, **options: object) -> Tensor:
    settings = {"noise": 0.3, "num_samples": 3, "seed": 0} | options
    law = settings.pop("prior", prior())
    return iv.solve(A or masks(), y, law, strategy=WALKS[name], **settings).samples


@each
def test_rows_do_not_see_each_other(name):
    y = data()
    other = y.clone()
    other[1] = 100 * masks().mask[1]
    both, changed = run(name, y), run(name, other)
    assert torch.equal(both[:, [0, 2]], changed[:, [0, 2]])
    assert not torch.equal(both[:, 1], changed[:, 1])
    alone = run(name, y[2:], masks().take(torch.tensor([2])), item_ids=[2])
    assert torch.allclose(alone[:, 0], both[:, 2], atol=1e-9)  # kernels change last bits with the batch


@each
def test_more_samples_do_not_change_the_first_and_seeds_do(name):
    y = data()
    few, same, other = run(name, y), run(name, y), run(name, y, seed=1)
    assert torch.equal(few, same)
    # Of a Gaussian prior the two evaluations of REDDiff cancel all noise.
    assert torch.allclose(few, other, atol=1e-6) == (name == "REDDiff")
    if name not in ("MCGDiff", "FPS"):  # particles of an item see each other
        assert torch.allclose(run(name, y, num_samples=5)[:3], few, atol=1e-9)


@each
@pytest.mark.parametrize("unit", [1e-4, 250.0])
def test_units_do_not_matter(name, unit):
    one = run(name, data())
    two = run(name, unit * data(), prior=prior(unit=unit), noise=0.3 * unit)
    assert torch.allclose(two / unit, one, atol=2e-5)  # the seed of a power iteration and rounding of grids


@each
def test_units_of_the_data_do_not_matter_where_the_noise_level_enters(name):
    A = iv.operators.Matrix(matrix=torch.linspace(-1, 1, 40, dtype=torch.float64).view(5, N).cos())
    y = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one = run(name, y, A)
    two = run(name, 7 * y, iv.operators.Matrix(matrix=7 * A.matrix), noise=2.1)
    same = torch.allclose(two, one, atol=2e-5)
    # DDNM's scalar forms compare the level of the signal with the noise of the data; LanPaint has no noise at all.
    assert same == (name not in {"DPS, paper", "REDDiff, published", "DDNM, official", "DDNM, inversebench"})


@each
def test_drowned_data_are_no_data(name):
    """sigma_y -> infinity: what the method gives without any data, of the same seeds."""
    drowned = run(name, data(), noise=1e5)
    nothing = iv.operators.Mask(mask=torch.zeros(3, N, dtype=torch.bool), in_shape=(N,))
    without = run(name, torch.zeros(3, N, dtype=torch.float64), nothing)
    same = torch.allclose(drowned, without, atol=1e-3)
    assert same == (name not in NOT_NOISE_AWARE)


@pytest.mark.parametrize("name", [n for n in WALKS if n not in FIELDS | {"DAPS, pCN"}])  # weights; moves at random
def test_certain_data_are_met(name):
    """sigma_y -> 0: A x = y, up to the jitter of a step of constant length in the paper's DPS."""
    y = data()
    x = run(name, y, noise=1e-3)
    miss = ((x - y) * masks().mask).abs().max()
    few = {"LGD": 0.3, "MCGDiff": 0.1, "PnPDM, sampler": 0.5, "REDDiff, published": 0.3}  # points, steps, moves
    limit = {"DPS, paper": 2.0} | few
    assert miss < limit.get(name, 0.02)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
def test_kinds_and_precisions_are_kept(name, dtype):
    A = iv.operators.Mask(mask=masks().mask, in_shape=(N,), kind="complex" if dtype.is_complex else "real")
    x = run(name, data(dtype), A, prior=prior(dtype))
    assert x.dtype == dtype and x.shape == (3, 3, N)
    assert bool(torch.view_as_real(x).isfinite().all() if x.is_complex() else x.isfinite().all())


class Bent(iv.operators.Operator):
    """A mildly non-linear map."""

    in_shape = (N,)
    out_shape = (N,)

    def _apply(self, x: Tensor) -> Tensor:
        return x + 0.05 * x**3


@each
def test_non_linear_operators_are_fitted_or_refused(name):
    y = torch.randn(2, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if name in SPECTRAL:
        with pytest.raises(iv.errors.UnsupportedError, match=r"needs .* linear operator"):
            run(name, y, Bent())
        return
    x = run(name, y, Bent(), noise=0.1)
    misfit = float((Bent()(x.flatten(0, 1)) - y.repeat(3, 1)).square().mean().sqrt())
    assert misfit < (2.0 if name in {"DPS, paper"} | FIELDS else 0.5)  # prior draws: 1.5


@each
def test_the_prior_may_be_a_denoiser_only(name):
    law = prior()
    other = iv.priors.from_denoiser(lambda x, s: law._denoise(x, s), shape=(N,), mean=law.mean, scale=law.scale)
    assert bool(run(name, data(), prior=other).isfinite().all())


@each
def test_options_are_frozen_and_in_the_fingerprint(name):
    strategy = WALKS[name]
    with pytest.raises(AttributeError):
        strategy.num_steps = 3
    assert strategy.fingerprint() == WALKS[name].fingerprint()


class Cut(Progress):
    """Ends a solve in its middle."""

    def init(self, total: int) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", ["DPS", "REDDiff", "PnPDM", "MCGDiff"])
def test_a_checkpoint_holds_the_whole_state(name, tmp_path):
    saved = iv.Checkpoint(path=tmp_path / "run.ckpt", every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        run(name, data(), checkpoint=saved, progress=Cut())
    assert (tmp_path / "run.ckpt").exists()
    assert torch.equal(run(name, data(), checkpoint=saved), run(name, data()))


@each
def test_counts_are_followed_or_refused(name):
    """Poisson data of 20 counts a unit: the posterior mean of chains, which know the law, within half a posterior std."""
    law = iv.priors.GaussianPrior(mean=torch.full((N,), 3.0, dtype=torch.float64), covariance=0.36 * prior().covariance)
    A = iv.operators.Mask(mask=torch.ones(N, dtype=torch.bool))
    noise = iv.noise.Poisson(counts_per_unit=20.0)
    y = torch.poisson(20 * law.sample(1, seed=3), generator=torch.Generator().manual_seed(0)).double()
    if name in SPECTRAL | FIELDS or name == "REDDiff, published":
        with pytest.raises(iv.errors.UnsupportedError, match="Gaussian noise"):
            run(name, y, A, prior=law, noise=noise)
        return
    chains = iv.solve(A, y, law, noise=noise, strategy=ivs.NoiseMCMC(chains=128, islands=4), num_samples=512)
    x = run(name, y, A, prior=law, noise=noise, num_samples=256)
    assert bool(x.isfinite().all())
    away = ((x.mean(0) - chains.mean) / chains.std).square().mean().sqrt()
    few = {"DPS, paper": 3.0, "PnPDM, sampler": 1.5}  # no noise level; few moves
    assert away < few.get(name, 0.5)


def test_the_papers_form_of_dps_knows_two_laws_of_noise():
    with pytest.raises(iv.errors.UnsupportedError, match="Gaussian or Poisson noise, or form='widened'"):
        run("DPS, paper", data(), noise=iv.noise.Laplace(scale=0.3))


@pytest.mark.parametrize(
    "strategy",
    [
        ivs.DPS.published("inpainting"),
        ivs.DDNM.published(),
        ivs.DDRM.published(num_steps=50),
        ivs.REDDiff.published(),
        ivs.DiffPIR.published("super_resolution"),
        ivs.DiffPIR.published("inversebench"),
        ivs.DAPS.published("motion_blur"),
        ivs.PnPDM.published(rho_min=0.1),
    ],
    ids=lambda s: s.name,
)
def test_published_settings_run_and_are_in_units(strategy):
    """In units of the signal: twice the unit is twice the levels, and twice the samples."""
    assert strategy.num_steps >= 20
    if strategy.name in ("DAPS", "PnPDM"):
        return  # minutes; their steps are tested elsewhere
    y, unit = data(), 4.0
    one = iv.solve(masks(), y, prior(), noise=0.3, strategy=strategy, num_samples=2)
    options = {"DPS": ("inpainting",), "DDRM": (), "DDNM": (), "REDDiff": (), "DiffPIR": None}[strategy.name]
    if options is None:
        options = ("super_resolution",) if strategy.num_steps < 1000 else ("inversebench",)
    more = {"num_steps": 50} if strategy.name == "DDRM" else {}
    other = type(strategy).published(*options, unit=unit, **more)
    two = iv.solve(masks(), unit * y, prior(unit=unit), noise=0.3 * unit, strategy=other, num_samples=2)
    assert torch.allclose(two.samples / unit, one.samples, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ivs.DPS.published("a task"),
        lambda: ivs.DAPS.published("a task"),
        lambda: ivs.DiffPIR.published("a task"),
        lambda: ivs.DPS(form="mine"),
        lambda: ivs.DPS(scale=0.0),
        lambda: ivs.DPS(unit=-1.0),
        lambda: ivs.LGD(clouds=0),
        lambda: ivs.LGD(trust=-1.0),
        lambda: ivs.DDNM(eta=1.5),
        lambda: ivs.DDNM(form="mine"),
        lambda: ivs.DDRM(eta_b=-0.1),
        lambda: ivs.DiffPIR(zeta=2.0),
        lambda: ivs.DiffPIR(lam=0.0),
        lambda: ivs.REDDiff(weight="mine"),
        lambda: ivs.REDDiff(loss="mine"),
        lambda: ivs.REDDiff(lam=-1.0),
        lambda: ivs.REDDiff(learning_rate=0.0),
        lambda: ivs.DAPS(inner="mine"),
        lambda: ivs.DAPS(ode_steps=0),
        lambda: ivs.DAPS(tau=-1.0),
        lambda: ivs.PnPDM(prior_step="mine"),
        lambda: ivs.PnPDM(data_step="mine"),
        lambda: ivs.PnPDM(rho_min=0.0),
        lambda: ivs.PnPDM(decay=1.5),
        lambda: ivs.PnPDM(rho_max=0.1, rho_min=1.0),
        lambda: ivs.PnPDM(num_steps=0),
        lambda: ivs.LanPaint(inner=-1),
        lambda: ivs.LanPaint(lam=-1.0),
        lambda: ivs.LanPaint(eta=0.0),
        lambda: ivs.MCGDiff(kappa=0.0),
        lambda: ivs.MCGDiff(resample_below=2.0),
        lambda: ivs.FPS(eta=-0.5),
        lambda: ivs.DPS(num_steps=1),
        lambda: ivs.PiGDM(form="mine"),
        lambda: ivs.PiGDM(form="published", sampler=iv.samplers.Euler()),
        lambda: ivs.PiGDM(form="published", eta=3.0),
        lambda: ivs.DPS(grid=torch.ones(2, 3)),
        lambda: iv.samplers.vp_grid(4, last=2.0),
        lambda: iv.samplers.ddpm_grid(1),
        lambda: iv.samplers.ddpm_grid(4, spacing="mine"),
        lambda: iv.samplers.ddpm_grid(4, beta_max=2.0),
    ],
)
def test_wrong_options_are_refused_where_they_are_written(make):
    with pytest.raises(iv.errors.InputError):
        make()


def test_what_a_prior_or_problem_lacks_is_said():
    box = iv.operators.from_callable(lambda x: x, (N,), (N,), kind="black box")
    for name in ("DPS", "LGD", "DiffPIR", "REDDiff", "DAPS", "PnPDM"):
        with pytest.raises(iv.errors.UnsupportedError, match="black box.*advise"):
            run(name, data()[:1], box)
    law = prior()
    denoiser = iv.priors.from_denoiser(lambda x, s: law._denoise(x, s), shape=(N,), mean=law.mean, scale=law.scale)
    with pytest.raises(iv.errors.UnsupportedError, match="closed-form posterior.*prior_step='sde'"):
        iv.solve(masks(), data(), denoiser, noise=0.3, strategy=ivs.PnPDM(prior_step="exact"), num_samples=1)
    for strategy in (ivs.DAPS(inner="exact"), ivs.PnPDM(data_step="exact")):
        with pytest.raises(iv.errors.UnsupportedError, match="not a LinearOperator.*langevin"):
            iv.solve(Bent(), data(), prior(), noise=0.3, strategy=strategy, num_samples=1)
    field = iv.priors.GaussianFieldPrior(shape=(N,), spectrum=iv.priors.Matern(std=1.0, length=0.3)).to(
        dtype=torch.float64
    )
    assert field.white_noise or "white" in ivs.DDRM().missing(iv.Problem(masks(), data(), noise=0.3), field)
    wide = iv.operators.Matrix(matrix=torch.zeros(2, 5000))
    assert "4096" in ivs.DDRM().missing(
        iv.Problem(wide, torch.zeros(1, 2), noise=1.0),
        iv.priors.from_denoiser(lambda x, s: x, shape=(5000,), mean=torch.zeros(5000), scale=1.0),
    )
    per_entry = iv.Problem(masks(), data(), noise=torch.rand(N, dtype=torch.float64) + 0.5)
    assert "one noise std" in ivs.DDRM().missing(per_entry, prior())


# --- what a review found ----------------------------------------------------------------------------------------------
AWARE = [
    n
    for n in WALKS
    if n not in NOT_NOISE_AWARE | {"LanPaint", "MCGDiff", "FPS", "PnPDM, sampler", "DAPS, Langevin", "DAPS, pCN"}
]


@pytest.mark.parametrize("name", AWARE)
@pytest.mark.parametrize("kind", ["blur", "downsample"])
def test_smooth_images_do_not_run_away(name, kind):
    """A field whose top mode has ten times the std of an entry, seen through an operator that sees that mode."""
    field = iv.priors.GaussianFieldPrior(shape=(16, 16), spectrum=iv.priors.Matern(std=1.0, length=0.3)).to(
        dtype=torch.float64
    )
    kernel = torch.ones(3, 3, dtype=torch.float64) / 9
    A: iv.operators.LinearOperator = iv.operators.Blur(kernel=kernel, in_shape=(16, 16), boundary="periodic")
    if kind == "downsample":
        A = iv.operators.Downsample(in_shape=(16, 16), factor=4)
    x = field.sample(1, seed=5)
    y = A(x) + 0.05 * torch.randn(1, *A.out_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r = iv.solve(A, y, field, noise=0.05, strategy=WALKS[name], num_samples=2)
    # A prior draw has 400 on the blur; REDDiff has few steps, LGD few points.
    limit = {"LGD": 60.0, "REDDiff": 30.0}.get(name, 10.0)
    assert float(r.chi2.max()) < limit


@pytest.mark.parametrize("strategy", [ivs.PiGDM(), ivs.MMPS(), ivs.DPS()], ids=lambda s: s.name)
def test_defaults_do_not_run_away_on_smooth_images(strategy):
    field = iv.priors.GaussianFieldPrior(shape=(32, 32), spectrum=iv.priors.Matern(std=1.0, length=0.3))
    kernel = torch.ones(5, 5) / 25
    A = iv.operators.Blur(kernel=kernel, in_shape=(32, 32), boundary="periodic")
    y = A(field.sample(1, seed=5)) + 0.05 * torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(iv.solve(A, y, field, noise=0.05, strategy=strategy, num_samples=2).chi2.max()) < 4


@pytest.mark.parametrize("strategy", [ivs.PnPDM(), ivs.REDDiff(), ivs.DAPS()], ids=lambda s: s.name)
def test_moduli_of_a_prior_of_mean_zero_are_fitted(strategy):
    """The Jacobian of |B x| vanishes at the mean, where the levels and steps were once taken from."""
    B = torch.randn(24, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = iv.operators.PhaseRetrieval(operator=iv.operators.Matrix(matrix=B))
    law = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=torch.float64), covariance=prior().covariance)
    x = law.sample(1, seed=2)
    y = A(x) + 0.1 * torch.randn(1, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    r = iv.solve(A, y, law, noise=0.1, strategy=strategy, num_samples=16, throw=False)
    # Of 500 of prior draws; an optimiser finds a mode from some of its starts only.
    assert float(r.chi2.min() if strategy.name == "REDDiff" else r.chi2.nanmedian()) < 40
    assert float(r.samples.abs().max()) > 0.1


@pytest.mark.parametrize("name", sorted(SPECTRAL))
def test_items_of_images_with_a_dense_decomposition(name):
    """Levels of their own for every item, coordinates with fewer axes than the signal."""
    shape = (3, 4)
    law = iv.priors.GaussianPrior(
        mean=torch.zeros(shape, dtype=torch.float64), covariance=torch.eye(12, dtype=torch.float64)
    )
    matrix = torch.randn(7, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = iv.operators.from_callable(lambda x: x.flatten(1) @ matrix.mT, shape, (7,), kind="linear")
    y = torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.tensor([0.1, 0.3, 1.0], dtype=torch.float64).view(3, 1)
    r = iv.solve(flat, y, law, noise=noise, strategy=WALKS[name], num_samples=4)
    assert r.samples.shape == (4, 3, 3, 4) and bool(r.samples.isfinite().all())


@each
def test_no_number_is_drawn_twice(name):
    """Every use of the keyed numbers has a (step, index) of its own."""
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    class Recorded:
        def __init__(self, inner) -> None:
            self.inner = inner

        def normal(self, shape, dtype, *, step, index=0):
            seen.append((step, index, tuple(shape)))
            return self.inner.normal(shape, dtype, step=step, index=index)

        def take(self, rows):
            return Recorded(self.inner.take(rows))

    from invsolve.core.random import Draws

    def draws(items, samples):
        return Recorded(Draws.for_rows(0, list(items), list(samples), torch.device("cpu")))

    run(name, data(), draws=draws)
    if name == "FPS":  # the path is drawn from the rows of the first samples, with an index of its own
        assert len({i for _, i, _ in seen}) >= 2
    assert len(seen) == len(set(seen))


def test_options_that_would_have_no_effect_are_refused():
    with pytest.raises(iv.errors.InputError, match="eta"):
        ivs.PiGDM(eta=0.5)
    with pytest.raises(iv.errors.InputError, match="num_steps"):
        ivs.PiGDM(num_steps=0)
    with pytest.raises(iv.errors.UnsupportedError, match="Gaussian noise, or tau=None"):
        iv.solve(masks(), data(), prior(), noise=iv.noise.Laplace(scale=0.2), strategy=ivs.DAPS(tau=0.1), num_samples=1)


@pytest.mark.parametrize("name", [n for n in WALKS if n not in SPECTRAL and n != "REDDiff, published"])
def test_units_do_not_matter_where_the_diffusion_noise_is_coloured(name):
    def solved(unit: float) -> Tensor:
        field = iv.priors.GaussianFieldPrior(
            shape=(N,),
            spectrum=iv.priors.Matern(std=unit, length=0.3),
            noise_spectrum=iv.priors.Matern(std=unit, length=0.05),
        ).to(dtype=torch.float64)
        return run(name, unit * data(), prior=field, noise=0.3 * unit) / unit

    one, two = solved(1.0), solved(1e4)
    assert torch.allclose(two, one, atol=1e-4)


@each
def test_data_that_do_not_exist_may_hold_anything(name):
    y = data()
    junk = torch.where(masks().mask, y, 100.0)
    assert torch.equal(run(name, junk), run(name, y))
