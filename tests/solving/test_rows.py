"""At which place of a tile a row runs: `reproducible=True` is bitwise because it never depends on the other rows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.solving.rows import TILE, in_order, tiled


def places(keys: list[int], samples: int) -> dict[tuple[int, int], tuple[int, int]]:
    """(key of the item, sample) -> place of the item in its group, of the row in its tile; every row once."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for group in tiled(keys, samples):
        assert len(group.items) == TILE and len(group.rows) % TILE == 0
        for n, row in enumerate(group.rows):
            if row is None:
                continue
            k, b = divmod(row, len(keys))
            assert (keys[b], k) not in found
            found[keys[b], k] = group.items.index(b) if b != group.items[0] else keys[b] % TILE, n % TILE
            assert group.items[keys[b] % TILE] == b
        assert all(any(r is not None for r in group.rows[t : t + TILE]) for t in range(0, len(group.rows), TILE))
    assert len(found) == len(keys) * samples
    return found


def test_a_row_stands_at_one_place_whatever_else_there_is():
    keys = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 24, -3, 2**62 + 5]
    everything = places(keys, 11)
    for own in ([9], [24, 8], [-3, 5, 2**62 + 5], keys[::-1]):
        for samples in (1, 8, 11):
            for row, place in places(own, samples).items():
                assert everything[row] == place == (row[0] % TILE, (row[0] + row[1]) % TILE)


def test_usual_batches_fill_their_tiles():
    for items, samples in ((1, 16), (64, 1), (16, 3), (8, 5)):
        groups = tiled(range(items), samples)
        assert sum(len(g.rows) for g in groups) == items * samples, (items, samples)
        assert len(groups) == -(-items // TILE)
    (group,) = in_order(3, 2)
    assert list(group.items) == [0, 1, 2] and list(group.rows) == [0, 1, 2, 3, 4, 5]


class Placed(iv.priors.Prior):
    """N(0, I), with a denoiser whose roundings depend on the place and number of rows, as those of a product may."""

    shape, mean, scale = (3,), torch.zeros(3), 1.0

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2) + 1e-6 * torch.arange(1.0, len(x) + 1)[:, None] / len(x)


class PlacedMatrix(iv.operators.LinearOperator):
    """The identity with such roundings, of what is bound for all items and of chi^2 too."""

    in_shape = out_shape = (3,)

    def _apply(self, x: Tensor) -> Tensor:
        return x * (1 + 1e-6 * torch.arange(1.0, len(x) + 1)[:, None] / len(x))

    _adjoint = _apply


@pytest.mark.parametrize(
    "strategy", [iv.strategies.MMPS(num_steps=4), iv.strategies.DiffPIR(num_steps=4), iv.strategies.DPS(num_steps=4)],
    ids=lambda s: s.name,
)  # fmt: skip
def test_kernels_that_see_places_see_the_same_in_every_batch(strategy):
    y = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    ids = [*range(8), "a", "b", 40]

    def run(rows: list[int], samples: int) -> iv.Result:
        options = dict(noise=0.5, strategy=strategy, num_samples=samples, reproducible=True)
        return iv.solve(PlacedMatrix(), y[rows], Placed(), item_ids=[ids[r] for r in rows], **options)

    whole = run(list(range(11)), 5)
    assert len(whole.samples.flatten().unique()) == whole.samples.numel()
    for rows, samples in (([0], 5), ([10, 3], 9), ([9, 8, 1, 0], 2)):
        part, both = run(rows, samples), min(samples, 5)
        assert torch.equal(part.samples[:both], whole.samples[:both, rows])
        assert torch.equal(part.chi2[:both], whole.chi2[:both, rows])


SIZES = """
import warnings; warnings.simplefilter("ignore")
import torch
import invsolve as iv

def dense(n, m, M):
    return iv.operators.Matrix(M)

def csr(n, m, M):
    S = (M * (M.abs() < 0.1)).to_sparse_csr()
    return iv.operators.Sparse(
        crow=S.crow_indices(), col=S.col_indices(), values=S.values(), in_shape=(n,), out_shape=(m,)
    )

def convolution(n, m, M):
    kernel = M.flatten()[: min(n, 7) // 2 * 2 + 1]
    return iv.operators.from_callable(
        lambda x: torch.nn.functional.conv1d(x[:, None], kernel[None, None], padding="same")[:, 0], (n,), (n,),
        kind="linear")

def gaussian(n, dtype, g):
    L = torch.randn(n, n, generator=g, dtype=dtype) / n**0.5
    return iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=dtype), covariance=L @ L.mT + torch.eye(n, dtype=dtype))

def mixture(n, dtype, g):
    eye = torch.eye(n, dtype=dtype).expand(2, n, n)
    means = torch.randn(2, n, generator=g, dtype=dtype)
    return iv.priors.GaussianMixturePrior(weights=torch.tensor([0.4, 0.6], dtype=dtype), means=means, covariances=eye)

def network(n, dtype, g):
    W = torch.randn(19, n, generator=g, dtype=dtype) / n**0.5
    def D(x, s):
        return x / (1 + s**2) + 0.02 * s / (1 + s) ** 2 * torch.tanh(x / (1 + s) @ W.mT) @ W
    return iv.priors.from_denoiser(D, shape=(n,), scale=1.0, dtype=dtype)

checked, different = 0, []
for dtype in (torch.float32, torch.float64):
    for i, (n, m) in enumerate([(25, 11), (9, 9)][: 1 + (dtype == torch.float32)]):
        for make in (dense, csr, convolution):
            g = torch.Generator().manual_seed(i)
            A = make(n, m, torch.randn(m, n, generator=g, dtype=dtype) / n**0.5)
            y = torch.randn(3, *A.out_shape, generator=g, dtype=dtype)
            for prior, strategy in ((gaussian, "auto"), (mixture, iv.strategies.MMPS(num_steps=3)),
                                    (network, iv.strategies.MMPS(num_steps=3))):
                options = dict(noise=0.3, strategy=strategy, reproducible=True)
                prior = prior(n, dtype, g)
                all = iv.solve(A, y, prior, num_samples=7, item_ids=[5, 6, 7], **options)
                one = iv.solve(A, y[1:2], prior, num_samples=8, item_ids=[6], **options)
                two = iv.solve(A, y[[2, 0]], prior, num_samples=4, item_ids=[7, 5], **options)
                checked += 1
                if not (torch.equal(one.samples[:7], all.samples[:, 1:2])
                        and torch.equal(two.samples, all.samples[:4, [2, 0]])
                        and torch.equal(two.chi2, all.chi2[:4, [2, 0]])):
                    different.append((dtype, n, m, make.__name__, all.strategy))
print(checked, different)
"""


def test_odd_sizes_are_bitwise_where_products_depend_on_the_place():
    """Under instructions (of every x86 CPU of today) that add the rows of a block of eight in different orders."""
    environment = os.environ | {
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run([sys.executable, "-c", SIZES], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split(maxsplit=1) == ["27", "[]\n"], run.stdout
