"""Design 5.1: what a sample depends on, and what it does not, to the bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.priors.base import Prior

SHAPE = (8, 8)


def field(dtype: torch.dtype = torch.float64) -> iv.priors.GaussianPrior:
    i = torch.arange(64, dtype=torch.float64)
    d2 = (i[:, None] // 8 - i // 8) ** 2 + (i[:, None] % 8 - i % 8) ** 2
    return iv.priors.GaussianPrior(
        mean=torch.zeros(SHAPE, dtype=dtype),
        covariance=torch.exp(-d2 / 8).to(dtype) + 1e-4 * torch.eye(64, dtype=dtype),
    )


class Convolutional(Prior):
    """A denoiser made of torch's convolutions, as a network is."""

    def __init__(self, dtype: torch.dtype) -> None:
        rng = torch.Generator().manual_seed(0)
        self.shape, self.mean, self.scale = SHAPE, torch.zeros(SHAPE, dtype=dtype), 1.0
        self.first = torch.randn(16, 1, 3, 3, generator=rng, dtype=dtype) / 6
        self.last = torch.randn(1, 16, 3, 3, generator=rng, dtype=dtype) / 24

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        gain = 1 / (1 + sigma**2)
        hidden = torch.nn.functional.conv2d((gain.sqrt() * x)[:, None], self.first, padding=1)
        return (
            gain * x + sigma * gain.sqrt() * 0.1 * torch.nn.functional.conv2d(hidden.tanh(), self.last, padding=1)[:, 0]
        )


def sparse(dtype: torch.dtype) -> iv.operators.LinearOperator:
    import scipy.sparse

    matrix = scipy.sparse.random(20, 64, density=0.2, random_state=0, format="csr", dtype=float)
    operator = iv.operators.from_scipy(matrix, in_shape=SHAPE, out_shape=(20,))
    return operator.to(dtype=dtype)


def dense(dtype: torch.dtype) -> iv.operators.LinearOperator:
    matrix = torch.randn(20, 64, generator=torch.Generator().manual_seed(1), dtype=dtype) / 8
    return iv.operators.from_callable(
        lambda x: x.flatten(1) @ matrix.mT, SHAPE, (20,), kind="linear", adjoint=lambda y: (y @ matrix).view(-1, *SHAPE)
    )


def blur(dtype: torch.dtype) -> iv.operators.LinearOperator:
    return iv.operators.GaussianBlur(std=1.0, in_shape=SHAPE, boundary="zero").to(dtype=dtype)


OPERATORS = {"dense": dense, "csr": sparse, "convolution": blur}


def data(A: iv.operators.LinearOperator, dtype: torch.dtype, batch: int = 2) -> Tensor:
    return torch.randn(batch, *A.out_shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


STRATEGIES = {
    "law": iv.strategies.MMPS(num_steps=12),
    "jacobian": iv.strategies.MMPS(num_steps=6, covariance="jacobian"),
    "pigdm": iv.strategies.PiGDM(num_steps=12),
    "tmpd": iv.strategies.TMPD(num_steps=12),
    "exact": iv.strategies.Exact(),
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_a_batch_of_two_is_two_singles(make, strategy):
    """To 1e-10 of the prior's std; a published method that runs away (TMPD, dense data) fails alike in both."""
    A = make(torch.float64)
    y = data(A, torch.float64)
    options = dict(noise=0.1, strategy=strategy, num_samples=3, throw=False)
    both = iv.solve(A, y, field(), item_ids=["a", "b"], **options)
    for b, name in enumerate("ab"):
        alone = iv.solve(A, y[b : b + 1], field(), item_ids=[name], **options)
        assert torch.equal(both.failed[:, b], alone.failed[:, 0])
        good = ~alone.failed[:, 0]
        assert good.all() or strategy.name == "TMPD"
        assert (both.samples[good, b] - alone.samples[good, 0]).abs().sum() <= 1e-10 * max(1, 64 * int(good.sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize(
    "strategy", [STRATEGIES["law"], STRATEGIES["jacobian"], STRATEGIES["exact"]], ids=["law", "jacobian", "exact"]
)
def test_reproducible_is_bitwise_for_any_batch_position_and_neighbours(make, strategy, dtype):
    A = make(dtype)
    y = data(A, dtype, batch=3)

    def run(y, ids, k):
        options = dict(strategy=strategy, num_samples=k, item_ids=ids, reproducible=True)
        return iv.solve(A, y, field(dtype), noise=0.1, **options).samples

    all_three = run(y, [7, 8, 9], 4)
    assert torch.equal(run(y[2:], [9], 4)[:, 0], all_three[:, 2])
    assert torch.equal(run(y[[2, 0]], [9, 7], 2)[:, 0], all_three[:2, 2])  # another position, fewer samples
    other = torch.cat([y[:1] + 100, y[2:]])
    assert torch.equal(run(other, [1, 9], 4)[:, 1], all_three[:, 2])


@pytest.mark.parametrize("n", [9, 25, 64])
@pytest.mark.parametrize("mixture", [False, True])
def test_statistics_of_closed_forms_are_bitwise_too(n, mixture):
    """Of any neighbours, in any order, alone too: products of matrices round differently with the rows beside."""
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, generator=rng)
    covariance = root @ root.mT + torch.eye(n)
    prior = iv.priors.GaussianPrior(torch.zeros(n), covariance)
    if mixture:
        means = torch.randn(2, n, generator=rng)
        prior = iv.priors.GaussianMixturePrior(torch.full((2,), 0.5), means, covariance.expand(2, n, n))
    A = iv.operators.Matrix(torch.randn(n // 2, n, generator=rng))
    y = torch.randn(11, n // 2, generator=rng)

    def run(index):
        options = {"item_ids": index, "num_samples": 1, "reproducible": True, "strategy": iv.strategies.Exact()}
        result = iv.solve(A, y[index], prior, noise=0.3, **options)
        return torch.stack([result.mean, result.std, result.quantile(0.3)], 1)

    every = run(list(range(11)))
    for index in ([0], [4], [10, 3], [9, 1, 8]):
        assert torch.equal(run(index), every[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reproducible_is_bitwise_with_a_convolutional_prior(dtype):
    prior, A = Convolutional(dtype), blur(dtype)
    y, strategy = data(A, dtype, batch=3), iv.strategies.MMPS(num_steps=6, covariance="jacobian")

    def run(y, ids, k):
        options = dict(strategy=strategy, num_samples=k, item_ids=ids, reproducible=True)
        return iv.solve(A, y, prior, noise=0.1, **options).samples

    assert torch.equal(run(y[1:2], [1], 5)[:, 0], run(y, [0, 1, 2], 5)[:, 1])


def test_sample_k_does_not_depend_on_num_samples_or_chunk():
    A = blur(torch.float64)
    y = data(A, torch.float64)
    run = lambda **options: iv.solve(A, y, field(), noise=0.1, strategy=STRATEGIES["law"], seed=0, **options).samples  # noqa: E731
    ten = run(num_samples=10)
    assert (run(num_samples=3) - ten[:3]).abs().max() < 1e-10
    assert (run(num_samples=10, chunk=3) - ten).abs().max() < 1e-10
    assert torch.equal(run(num_samples=10), ten)
    assert not torch.equal(
        iv.solve(A, y, field(), noise=0.1, strategy=STRATEGIES["law"], seed=1, num_samples=10).samples, ten
    )


def test_no_global_generator_is_read_or_written():
    A = blur(torch.float64)
    y = data(A, torch.float64)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = iv.solve(A, y, field(), noise=0.1, strategy=STRATEGIES["law"], num_samples=2).samples
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(iv.solve(A, y, field(), noise=0.1, strategy=STRATEGIES["law"], num_samples=2).samples, first)


class Poisoned(Prior):
    """The prior of `field`, with NaN put into one row of the batch once the level falls below ``below``."""

    def __init__(self, row: int | None, below: float = 1.0) -> None:
        self.inner, self.row, self.below = field(), row, below
        self.shape, self.mean, self.scale, self.law, self.exact_law = (
            SHAPE,
            self.inner.mean,
            self.inner.scale,
            self.inner.law,
            True,
        )
        self.detail = self.inner.detail

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        out = self.inner._denoise(x, sigma)
        if self.row is not None and float(sigma.max()) < self.below:
            out = out.clone()
            out[self.row] = math.nan
        return out


@pytest.mark.parametrize(
    "strategy",
    [STRATEGIES["law"], STRATEGIES["jacobian"], STRATEGIES["pigdm"], STRATEGIES["tmpd"]],
    ids=["law", "jacobian", "pigdm", "tmpd"],
)
def test_nan_in_one_of_sixteen_rows_leaves_the_others_bitwise(strategy):
    A = blur(torch.float64)
    y = data(A, torch.float64, batch=1)[0]
    clean = iv.solve(A, y, Poisoned(None), noise=0.1, strategy=strategy, num_samples=16)
    with pytest.raises(iv.errors.SolveError, match=r"1 of 16 samples failed"):
        iv.solve(A, y, Poisoned(5), noise=0.1, strategy=strategy, num_samples=16)
    bad = iv.solve(A, y, Poisoned(5), noise=0.1, strategy=strategy, num_samples=16, throw=False)
    keep = torch.arange(16) != 5
    assert torch.equal(bad.samples[keep], clean.samples[keep])
    assert bad.samples[5].isnan().all() and bad.failed.tolist() == [k == 5 for k in range(16)]
    assert bad.status is iv.Status.SOME_FAILED
    assert torch.isfinite(bad.mean).all() and torch.isfinite(bad.std).all()


class Killed(BaseException):
    """What a kill looks like from inside: not an Exception, so nothing may swallow it."""


@dataclass
class KillAt(iv.progress.Progress):
    """Dies after so many calls."""

    calls: int

    def init(self, total: int) -> None: ...

    def step(self, done: int, total: int) -> None:
        self.calls -= 1
        if self.calls == 0:
            raise Killed

    def close(self) -> None: ...


@pytest.mark.parametrize("kill", torch.randint(2, 36, (5,), generator=torch.Generator().manual_seed(0)).tolist())
@pytest.mark.parametrize("sampler", [iv.samplers.SDEDPMSolver2M(), iv.samplers.UniPC(order=3)], ids=["sde-2m", "unipc"])
def test_resume_after_a_kill_is_bitwise(tmp_path, kill, sampler):
    """Three chunks of twelve steps, killed at five random steps (and between a step and its checkpoint)."""
    A, y = blur(torch.float64), data(blur(torch.float64), torch.float64)
    options = dict(noise=0.1, strategy=iv.strategies.MMPS(num_steps=12, sampler=sampler), num_samples=3, chunk=2)
    plain = iv.solve(A, y, field(), **options)
    saved = iv.Checkpoint(path=tmp_path / "run.ckpt", every_steps=2)
    with pytest.raises(Killed):
        iv.solve(A, y, field(), **options, checkpoint=saved, progress=KillAt(kill))
    resumed = iv.solve(A, y, field(), **options, checkpoint=saved)
    assert torch.equal(resumed.samples, plain.samples)
    assert torch.equal(resumed.chi2, plain.chi2)
    again = iv.solve(A, y, field(), **options, checkpoint=saved)  # a finished run is read, not run again
    assert torch.equal(again.samples, plain.samples)
    assert again.nfe == plain.nfe


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"noise": 0.2}, "noise"),
        ({"seed": 1}, "seed"),
        ({"num_samples": 4}, "num_samples"),
        ({"chunk": 3}, "chunk"),
        ({"strategy": iv.strategies.MMPS(num_steps=13)}, "strategy"),
        ({"item_ids": [5, 6]}, "item_ids"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path, change, named):
    A, y = blur(torch.float64), data(blur(torch.float64), torch.float64)
    options = dict(
        noise=0.1,
        strategy=iv.strategies.MMPS(num_steps=12),
        num_samples=3,
        chunk=2,
        seed=0,
        checkpoint=str(tmp_path / "run.ckpt"),
    )
    iv.solve(A, y, field(), **options)
    with pytest.raises(iv.errors.CheckpointError, match=named):
        iv.solve(A, y, field(), **(options | change))
    with pytest.raises(iv.errors.CheckpointError, match="y"):
        iv.solve(A, y + 1, field(), **options)


class Hungry(Prior):
    """Runs out of memory on batches above eight rows."""

    def __init__(self) -> None:
        self.inner, self.shape = field(), SHAPE
        self.mean, self.scale, self.law, self.exact_law = self.inner.mean, self.inner.scale, self.inner.law, True
        self.detail = self.inner.detail

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        if len(x) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.inner._denoise(x, sigma)


def test_chunks_are_halved_when_memory_runs_out():
    A, y = blur(torch.float64), data(blur(torch.float64), torch.float64)
    fed = iv.solve(A, y, Hungry(), noise=0.1, strategy=STRATEGIES["law"], num_samples=15)
    assert fed.settings["chunk"] == 7 and "memory ran out" in " ".join(fed.warnings)
    plain = iv.solve(A, y, field(), noise=0.1, strategy=STRATEGIES["law"], num_samples=15)
    assert (fed.samples - plain.samples).abs().max() < 1e-10


def test_memory_that_runs_out_for_one_row_is_an_error():
    class Starved(Hungry):
        def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
            raise MemoryError("out of memory")

    A, y = blur(torch.float64), data(blur(torch.float64), torch.float64)
    with pytest.raises(MemoryError):
        iv.solve(A, y, Starved(), noise=0.1, strategy=STRATEGIES["law"], num_samples=2)


def test_a_grid_does_not_depend_on_the_neighbours():
    """Levels come from a power iteration: a row that is done must not move because another is not."""
    from invsolve.strategies.noise_levels import information

    rng = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 20, 64, generator=rng, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1])[:, None, None]
    y = torch.randn(3, 20, generator=rng, dtype=torch.float64)

    def found(rows):
        B = iv.operators.Matrix(matrix=matrices[rows]) @ iv.operators.Subsample(index=torch.arange(64), in_shape=SHAPE)
        return information(iv.Problem(B, y[rows], noise=0.1), field())

    assert torch.allclose(found([0, 1, 2])[:1], found([0]), rtol=1e-10)  # it was 6 % off while rows waited for rows


def test_checkpoints_are_written_between_short_chunks(tmp_path):
    """One step a chunk: the clock must run on from chunk to chunk."""
    A, y = blur(torch.float64), data(blur(torch.float64), torch.float64)
    options = dict(noise=0.1, strategy=iv.strategies.Exact(), num_samples=6, chunk=2)
    saved = iv.Checkpoint(path=tmp_path / "run.ckpt", every_steps=3)
    with pytest.raises(Killed):
        iv.solve(A, y, field(), **options, checkpoint=saved, progress=KillAt(5))
    assert saved.path.exists()
    resumed = iv.solve(A, y, field(), **options, checkpoint=saved)
    assert torch.equal(resumed.samples, iv.solve(A, y, field(), **options).samples)
