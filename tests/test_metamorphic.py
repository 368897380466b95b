"""Relations between two solves that must hold whatever the answer is: units, order, redundancy, basis, batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

import invsolve as iv
from invsolve.core.conjugate_gradients import direction, norm
from invsolve.operators import Matrix
from invsolve.priors import GaussianFieldPrior, GaussianMixturePrior, GaussianPrior, Laplace, Matern, SparsePrior
from invsolve.strategies import MMPS, SMC, TMPD, Exact, NoiseMCMC, PiGDM
from invsolve.strategies.noise_levels import information, noise_levels

DTYPE = torch.float64
STRATEGIES = {
    "exact": Exact(),
    "mmps, law": MMPS(covariance="law"),
    "mmps, jacobian": MMPS(covariance="jacobian"),
    "smc": SMC(),
    "tmpd": TMPD(),
    "pigdm": PiGDM(),
    "noise mcmc": NoiseMCMC(),
    "auto": "auto",
}
# All random numbers belong to the signal, so that what is done to the data alone changes samples by rounding only.
SIGNAL_DRAWS = ("mmps, law", "mmps, jacobian", "smc", "pigdm", "noise mcmc")
BASIS_FREE = ("exact", "mmps, law", "mmps, jacobian", "smc")  # PiGDM and TMPD know the signal or the data by entries

# Priors that chains reach through a flow, whose coefficients are logarithms: a rounding in them flips what is accepted,
# so that samples are other ones of the same law.
FLOWS = ("mixture", "denoiser")
DIAGONAL = ("gaussian", "field", "sparse")  # priors whose covariances SMC keeps as a diagonal in modes

N, STD, BATCH = 6, 0.2, 2
LAGS = torch.arange(N, dtype=DTYPE)
MEAN, COVARIANCE = torch.linspace(-1, 1, N, dtype=DTYPE), torch.exp(-(LAGS[:, None] - LAGS).abs() / 3)
# Four averages over neighbours: positive and narrow, which TMPD needs in order to be stable.
SENSORS = torch.zeros(4, N, dtype=DTYPE)
for row, first in enumerate((0, 1, 3, 4)):
    SENSORS[row, first : first + 2] = torch.tensor([1.0, 0.4])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


DATA = (MEAN + normal(0, BATCH, N)) @ SENSORS.mT + STD * normal(1, BATCH, len(SENSORS))


def denoiser(unit: float, dtype: torch.dtype) -> iv.priors.Prior:
    """Entries that are -1 or 1 with a std of 0.5."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        variance = (0.5 * unit) ** 2 + sigma**2
        centre = unit * torch.tanh(unit * x / variance)
        return (x * (0.5 * unit) ** 2 + centre * sigma**2) / variance

    return iv.priors.from_denoiser(denoise, shape=(N,), scale=1.12 * unit, detail=0.3 * unit, dtype=dtype)


def gaussian(unit: float, dtype: torch.dtype) -> GaussianPrior:
    return GaussianPrior(mean=(unit * MEAN).to(dtype), covariance=(unit**2 * COVARIANCE).to(dtype))


def mixture(unit: float, dtype: torch.dtype) -> GaussianMixturePrior:
    means = unit * torch.stack([MEAN - 1, MEAN + 1])
    return GaussianMixturePrior(
        weights=torch.tensor([0.4, 0.6], dtype=dtype),
        means=means.to(dtype),
        covariances=(0.3 * unit**2 * COVARIANCE).to(dtype),
    )


PRIORS: dict[str, Callable[[float, torch.dtype], iv.priors.Prior]] = {
    "gaussian": gaussian,
    "field": lambda unit, dtype: GaussianFieldPrior(shape=(N,), spectrum=Matern(std=unit, length=0.4), dtype=dtype),
    "mixture": mixture,
    "sparse": lambda unit, dtype: SparsePrior(
        shape=(N,), coefficients=Laplace(scale=0.7 * unit), transform="dct", dtype=dtype
    ),
    "denoiser": denoiser,
}


def supported(prior: str, strategy: str) -> bool:
    problem = iv.Problem(Matrix(matrix=SENSORS), DATA, noise=STD)
    chosen = STRATEGIES[strategy]
    if strategy == "noise mcmc" and prior in FLOWS:
        return False
    return isinstance(chosen, str) or not chosen.missing(problem, PRIORS[prior](1.0, DTYPE))


PAIRS = [(p, s) for p in PRIORS for s in STRATEGIES if supported(p, s)]
SIGNAL_PAIRS = [(p, s) for p, s in PAIRS if s in SIGNAL_DRAWS]


def solved(
    prior: iv.priors.Prior,
    strategy: str,
    *,
    matrix: Tensor = SENSORS,
    data: Tensor = DATA,
    noise: object = STD,
    num_samples: int = 8,
) -> iv.Result:
    result = iv.solve(
        Matrix(matrix=matrix), data, prior, noise=noise, strategy=STRATEGIES[strategy], num_samples=num_samples
    )
    assert not any("do not fit" in warning for warning in result.warnings)
    return result


def in_units(prior: str, strategy: str, dtype: torch.dtype, signal: float, data: float) -> Tensor:
    """Samples over their unit, with the signal measured in ``1 / signal`` and the data in ``1 / data``."""
    result = solved(
        PRIORS[prior](signal, dtype),
        strategy,
        matrix=(SENSORS * (data / signal)).to(dtype),
        data=(data * DATA).to(dtype),
        noise=data * STD,
    )
    return result.samples.to(DTYPE) / signal


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two sets of samples, in their std."""
    return float(((a - b) / b.std(0)).abs().max())


def z_scores(a: iv.Result, b: iv.Result, back: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """How far means and stds of two independent results are apart, in standard errors; ``back`` maps b's signals."""
    found = []
    for result, samples in ((a, a.samples), (b, back(b.samples))):
        w = (
            torch.full(samples.shape[:2], 1 / len(samples), dtype=DTYPE)
            if result.log_weights is None
            else result.weights
        )
        w = w.view(*w.shape, *([1] * (samples.ndim - 2)))
        mean = (w * samples).sum(0)
        variance, fourth = ((w * (samples - mean) ** k).sum(0) for k in (2, 4))
        # Where particles were resampled, few founders count, not the weights that were made equal again.
        number = (
            float(torch.minimum(result.ess, result.info["founders"][0]).min()) if "founders" in result.info else len(w)
        )
        found.append((mean, variance / number, variance, (fourth - variance**2) / number))
    (m1, e1, v1, f1), (m2, e2, v2, f2) = found
    return torch.cat([((m1 - m2) / (e1 + e2).sqrt()).flatten(), ((v1 - v2) / (f1 + f2).sqrt()).flatten()])


def within_noise(z: Tensor) -> bool:
    """No z-score beyond what the largest of so many exceeds once in a thousand times (Bonferroni)."""
    return bool(z.abs().max() < stats.norm.isf(1e-3 / (2 * z.numel())))


# --- units -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, DTYPE], ids=str)
@pytest.mark.parametrize(("prior", "strategy"), PAIRS)
def test_units_of_signal_and_data_do_not_matter(prior, strategy, dtype):
    """Powers of two near 1e-6 and 1e6 round nothing, so that the same seeds give the same samples in other units."""
    base = in_units(prior, strategy, dtype, 1.0, 1.0)
    for signal, data in ((2**-20, 2**20), (2**20, 2**-10), (2**-10, 2**-20)):
        assert apart(in_units(prior, strategy, dtype, signal, data), base) < (1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize(("prior", "strategy"), [(p, s) for p, s in PAIRS if p in ("gaussian", "denoiser")])
def test_decimal_units_change_the_last_digits_only(prior, strategy):
    base = in_units(prior, strategy, DTYPE, 1.0, 1.0)
    for signal, data in ((1e-6, 1e3), (1e6, 1e-3)):
        assert apart(in_units(prior, strategy, DTYPE, signal, data), base) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("prior", FLOWS)
def test_units_of_chains_through_a_flow(prior):
    """Independent draws of one law, to standard errors."""
    made = []
    for signal, data in ((1.0, 1.0), (2**-20, 2**20)):
        result = iv.solve(
            Matrix(matrix=(SENSORS * (data / signal)).float()),
            (data * DATA).float(),
            PRIORS[prior](signal, torch.float32),
            noise=data * STD,
            strategy=NoiseMCMC(chains=256),
            num_samples=256,
        )
        made.append(result)
    assert within_noise(z_scores(*made, lambda x: x * 2**20))


def nonlinear(signal: float, data: float) -> iv.operators.Operator:
    matrix = SENSORS.float()
    return iv.operators.from_callable(lambda x: data * torch.tanh(x / signal / 2) @ matrix.mT, (N,), (len(matrix),))


@pytest.mark.parametrize(
    "strategy",
    [MMPS(covariance="law", num_steps=8), MMPS(covariance="jacobian", num_steps=8), SMC(num_steps=8)],
    ids=str,
)
def test_units_with_a_curved_operator(strategy):
    y = torch.tanh(MEAN / 2)[None] @ SENSORS.mT + STD * normal(1, BATCH, len(SENSORS))

    def run(signal: float, data: float) -> Tensor:
        result = iv.solve(
            nonlinear(signal, data),
            (data * y).float(),
            gaussian(signal, torch.float32),
            noise=data * STD,
            strategy=strategy,
            num_samples=4,
        )
        assert not any("derivative" in warning for warning in result.warnings)
        return result.samples.to(DTYPE) / signal

    base = run(1.0, 1.0)
    for signal, data in ((2**-20, 2**20), (2**20, 2**-20)):
        assert apart(run(signal, data), base) < 1e-3


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("ratio", [1e-6, 1.0, 1e6])
def test_noise_levels_scale_with_the_signal_in_single_precision(unit, ratio):
    """The power iteration multiplies by ``A^H G^-1 A``, whose squares are far outside of float32 here."""
    problem = iv.Problem(Matrix(matrix=(SENSORS / unit).float()), DATA.float(), noise=ratio)
    found = float(information(problem, gaussian(unit, torch.float32)))
    assert found * unit * ratio == pytest.approx(float(torch.linalg.matrix_norm(SENSORS, 2)), rel=0.05)
    high, low = noise_levels(problem, gaussian(unit, torch.float32))
    high_1, low_1 = noise_levels(iv.Problem(Matrix(matrix=SENSORS), DATA, noise=ratio), gaussian(1.0, DTYPE))
    assert (high / unit, low / unit) == pytest.approx((high_1, low_1), rel=1e-3)


def test_information_of_data_that_say_nothing_is_zero():
    problem = iv.Problem(Matrix(matrix=torch.zeros(2, N)), torch.zeros(1, 2), noise=1.0)
    assert float(information(problem, gaussian(1.0, torch.float32))) == 0.0


@pytest.mark.parametrize("unit", [1e-15, 1e-8, 1e8, 1e15])
def test_norm_of_an_operator_in_any_unit(unit):
    """``|A^H A x|^2`` is the fourth power of the norm: it leaves float32 at 1e-12 and at 1e9."""
    A = Matrix(matrix=(unit * SENSORS).float())
    assert float(A.norm()) / unit == pytest.approx(float(torch.linalg.matrix_norm(SENSORS, 2)), rel=0.02)


def test_rows_of_zeros_have_no_direction_and_small_ones_have():
    x = torch.tensor([[0.0, 0.0], [3e-30, 4e-30], [3e30, 4e30]])
    assert torch.allclose(direction(x), torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.6, 0.8]]))
    assert norm(torch.complex(x, x))[1:].tolist() == pytest.approx([5e-30 * math.sqrt(2), 5e30 * math.sqrt(2)])


# --- the data ------------------------------------------------------------------------------------------------------
def split(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix, data and stds with sensor k as two, each noisier by sqrt 2, that found the same."""
    std = torch.full((len(SENSORS) + 1,), STD, dtype=DTYPE)
    std[k] = std[-1] = STD * math.sqrt(2)
    return torch.cat([SENSORS, SENSORS[k : k + 1]]), torch.cat([DATA, DATA[:, k : k + 1]], 1), std


ORDER = torch.tensor([2, 0, 3, 1])
IDLE = torch.cat([SENSORS, torch.zeros(1, N, dtype=DTYPE)])
SAME_POSTERIOR = {
    "order of the data": (SENSORS[ORDER], DATA[:, ORDER], STD),
    "a sensor that sees nothing": (IDLE, torch.cat([DATA, STD * normal(2, BATCH, 1)], 1), STD),
    "a sensor as two": split(1),
}


@pytest.mark.parametrize("change", SAME_POSTERIOR)
@pytest.mark.parametrize(("prior", "strategy"), SIGNAL_PAIRS)
def test_equivalent_data_give_the_same_samples(prior, strategy, change):
    matrix, data, std = SAME_POSTERIOR[change]
    made = PRIORS[prior](1.0, DTYPE)
    noise = iv.noise.Gaussian(std=std)
    if strategy == "smc" and prior in DIAGONAL and change != "a sensor that sees nothing":
        # A square root of the covariance is made from a factor in data space: other draws of the same law.
        other = solved(made, strategy, matrix=matrix, data=data, noise=noise, num_samples=4000)
        assert within_noise(z_scores(other, solved(made, strategy, num_samples=4000)))
        return
    other = solved(made, strategy, matrix=matrix, data=data, noise=noise)
    assert apart(other.samples, solved(made, strategy).samples) < 1e-6


@pytest.mark.parametrize("change", ["order of the data", "a sensor that sees nothing"])
@pytest.mark.parametrize("prior", ["gaussian", "sparse"])
def test_row_sums_do_not_know_the_order_nor_idle_sensors(prior, change):
    """TMPD; a sensor as two changes the row sums of the others: it is not invariant under that."""
    matrix, data, std = SAME_POSTERIOR[change]
    made = PRIORS[prior](1.0, DTYPE)
    other = solved(made, "tmpd", matrix=matrix, data=data, noise=std)
    assert apart(other.samples, solved(made, "tmpd").samples) < 1e-6


@pytest.mark.parametrize("change", SAME_POSTERIOR)
@pytest.mark.parametrize("prior", ["gaussian", "field", "mixture"])
@pytest.mark.parametrize("strategy", ["exact", "auto"])
def test_equivalent_data_have_one_closed_form(prior, strategy, change):
    """Closed forms to rounding; their draws, which simulate the data too, to standard errors."""
    matrix, data, std = SAME_POSTERIOR[change]
    made = PRIORS[prior](1.0, DTYPE)
    noise = iv.noise.Gaussian(std=std)
    first, second = (
        made.posterior(Matrix(matrix=a), y, s) for a, y, s in ((SENSORS, DATA, STD), (matrix, data, noise))
    )
    assert torch.allclose(first.mean, second.mean, atol=1e-12) and torch.allclose(first.std, second.std, atol=1e-12)
    samples = [
        solved(made, strategy, num_samples=1000),
        solved(made, strategy, matrix=matrix, data=data, noise=noise, num_samples=1000),
    ]
    assert within_noise(z_scores(*samples))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_two_batches_of_data_are_one(unit):
    """The posterior of the first batch as the prior of the second."""
    made = gaussian(unit, DTYPE)
    A, y = SENSORS / unit, DATA[0]
    at_once = made.posterior(Matrix(matrix=A), y, STD)
    first = made.posterior(Matrix(matrix=A[:2]), y[:2], STD)
    between = GaussianPrior(mean=first.mean[0], covariance=first.covariance)
    second = between.posterior(Matrix(matrix=A[2:]), y[2:], STD)
    assert torch.allclose(second.mean / unit, at_once.mean / unit, atol=1e-10)
    assert torch.allclose(second.covariance / unit**2, at_once.covariance / unit**2, atol=1e-10)
    evidence = first.log_evidence + second.log_evidence  # the chain rule of probability
    assert torch.allclose(evidence, at_once.log_evidence, atol=1e-9)


# --- the signal ----------------------------------------------------------------------------------------------------
ROTATION = torch.linalg.qr(normal(5, N, N)).Q


def rotated(prior: str) -> iv.priors.Prior:
    made = PRIORS[prior](1.0, DTYPE)
    if isinstance(made, GaussianPrior):
        return GaussianPrior(mean=ROTATION @ made.mean, covariance=ROTATION @ made.covariance @ ROTATION.mT)
    assert isinstance(made, GaussianMixturePrior)
    return GaussianMixturePrior(
        weights=made.weights, means=made.means @ ROTATION.mT, covariances=ROTATION @ made.covariances @ ROTATION.mT
    )


@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
@pytest.mark.parametrize("strategy", BASIS_FREE)
def test_an_orthogonal_change_of_basis_turns_the_posterior(prior, strategy):
    count = 1000
    straight = solved(PRIORS[prior](1.0, DTYPE), strategy, num_samples=count)
    turned = solved(rotated(prior), strategy, matrix=SENSORS @ ROTATION.mT, num_samples=count)
    assert within_noise(z_scores(straight, turned, lambda x: x @ ROTATION))


@pytest.mark.parametrize("strategy", BASIS_FREE)
def test_a_complex_problem_is_its_real_and_imaginary_parts(strategy):
    A, mean = torch.complex(SENSORS, SENSORS.flip(0) / 2), torch.complex(MEAN, -MEAN)
    y = (mean + torch.complex(normal(3, BATCH, N), normal(4, BATCH, N))) @ A.mT
    whole = GaussianPrior(mean=mean, covariance=COVARIANCE)
    parts = GaussianPrior(mean=torch.cat([mean.real, mean.imag]), covariance=torch.block_diag(COVARIANCE, COVARIANCE))
    stacked = torch.cat([torch.cat([A.real, -A.imag], 1), torch.cat([A.imag, A.real], 1)])
    flat = torch.cat([y.real, y.imag], 1)
    closed = whole.posterior(Matrix(matrix=A), y, STD), parts.posterior(Matrix(matrix=stacked), flat, STD)
    assert torch.allclose(torch.cat([closed[0].mean.real, closed[0].mean.imag], 1), closed[1].mean, atol=1e-12)
    assert torch.allclose(closed[0].log_evidence, closed[1].log_evidence, atol=1e-10)
    a = solved(parts, strategy, matrix=stacked, data=flat, num_samples=1000)
    b = solved(whole, strategy, matrix=A, data=y, num_samples=1000)
    assert within_noise(z_scores(a, b, lambda x: torch.cat([x.real, x.imag], -1)))


# --- extremes ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, DTYPE], ids=str)
@pytest.mark.parametrize("ratio", [1e-6, 1e6])
@pytest.mark.parametrize(
    ("prior", "strategy"),
    [(p, s) for p, s in PAIRS if p in ("gaussian", "mixture") and s not in ("tmpd", "pigdm", "auto")],
)
def test_signal_to_noise_of_a_million_and_of_a_millionth(strategy, prior, ratio, dtype):
    """Against the closed form in float64. ``ratio`` = 1e6: the prior; 1e-6: a constraint, at some ten float32 roundings.

    MMPS with 50 levels over eight decades is some 5 % too wide where the noise is 1e-6 (discretisation of the sampler).
    """
    count = 1000
    y = (MEAN + normal(0, BATCH, N)) @ SENSORS.mT + ratio * normal(1, BATCH, len(SENSORS))
    exact = PRIORS[prior](1.0, DTYPE).posterior(Matrix(matrix=SENSORS), y, ratio)
    result = solved(
        PRIORS[prior](1.0, dtype), strategy, matrix=SENSORS.to(dtype), data=y.to(dtype), noise=ratio, num_samples=count
    )
    number = float(result.ess.min())
    # Chains are not independent draws: they state by how much their means and stds are off.
    mean_error, std_error = (
        result.info[name][0].to(DTYPE)[:, None] if name in result.info else torch.zeros(BATCH, 1, dtype=DTYPE)
        for name in ("mean_error", "std_error")
    )
    assert within_noise((result.mean.to(DTYPE) - exact.mean) / exact.std / (1 / number + mean_error**2).sqrt())
    # Of a mixture of two equal, nearly normal humps, as of a normal law, the relative s.e. of a std is at most this.
    bias = 0.1 if strategy.startswith("mmps") else 0.0
    ratios = ((result.std.to(DTYPE) / exact.std - 1).abs() - bias) / (1 / (2 * number) + std_error**2).sqrt()
    assert float(ratios.max()) < stats.norm.isf(1e-3 / (2 * ratios.numel()))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_weights_are_not_rounding_where_the_noise_is_about_that(offset):
    """SMC in float32: at levels below the rounding of the signal, also of a large mean, weights are rounding."""
    std = 1e-6 if offset == 0 else 1e-3
    made = GaussianPrior(mean=(MEAN + offset).float(), covariance=COVARIANCE.float())
    y = (MEAN + offset + normal(0, BATCH, N)) @ SENSORS.mT
    result = iv.solve(
        Matrix(matrix=SENSORS.float()), y.float(), made, noise=std, strategy=SMC(resample_below=0.0), num_samples=500
    )
    # 482 and 484 of 500 with levels above ten roundings (float64: 490), 67 and 95 with levels below them (measured).
    assert float(result.ess.min()) > 350
