"""The elliptic benchmark of Aristoff and Bangerth."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.problems.cell_coefficient import CellCoefficient
from invsolve.testing import check_operator


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_keeps_its_contract(blocks, dtype):
    check_operator(CellCoefficient(blocks, elements=6, points=3, dtype=dtype))


def test_another_precision_stays_where_it_is():
    A = CellCoefficient(2, elements=4, points=3).to(device="meta")
    assert A.to(dtype=torch.float32)._rows.device.type == "meta"


def test_another_coefficient_is_another_scale():
    A = CellCoefficient(4, elements=8, points=5)
    x = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(A(x + math.log(7.0)), A(x) / 7, rtol=1e-12)
    assert torch.allclose(A(x.mT), A(x).mT, rtol=1e-11)  # by symmetry


def test_points_between_nodes_are_interpolated():
    # of a = 1 the middle of the membrane is 10 * 0.0736713532815 (Fourier series), to second order
    gaps = [abs(float(CellCoefficient(1, elements=n, points=1)(_flat())[0, 0, 0]) - 0.736713532815) for n in (8, 16)]
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.1)
    # a third of the way lies between the nodes of 4 elements: what is linear there is met
    A = CellCoefficient(1, elements=4, points=2)
    at = A._rows @ torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    assert float(at[0]) == pytest.approx(1 / 3)


def _flat():
    return torch.zeros(1, 1, 1, dtype=torch.float64)


def test_the_problem_is_the_published_one():
    case = iv.problems.elliptic()
    assert case.truth.exp().unique().tolist() == pytest.approx([0.1, 1.0, 10.0])
    # three of the published measurements, which come from another program: to a hundredth of their noise, 0.05
    data = case.problem.data[0]
    for place, value in (((0, 0), 0.06076511762259369), ((2, 3), 0.8175712861756428), ((12, 12), 0.1067965550010013)):
        assert float(data[place]) == pytest.approx(value, abs=5e-4)
    assert float(case.prior.mean.unique()) == 4.0
    draws = case.prior.sample(2000, seed=0)
    # the density of a is exp(-ln(a)^2 / 8): the mean of ln a is that of a normal number with e^x beside it
    assert float(draws.mean()) == pytest.approx(4, abs=4.5 * 2 / (2000 * 64) ** 0.5)
    assert float(draws.std()) == pytest.approx(2, rel=4.5 / (2 * 2000 * 64) ** 0.5)
    assert "2102.07263" in repr(case)


def test_other_data_are_drawn_from_the_prior():
    case = iv.problems.elliptic(elements=8)
    truths, problem = case.simulate(3, seed=1)
    clean = case.problem.operator(truths)
    left = (problem.data - clean) / 0.05
    assert float(left.square().mean()) == pytest.approx(1, abs=4.5 * (2 / left.numel()) ** 0.5)
    again, _ = case.simulate(3, seed=1)
    assert torch.equal(truths, again)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: iv.problems.elliptic(elements=12), InputError, "a multiple of blocks, 8"),
        (lambda: CellCoefficient(0), InputError, "blocks"),
        (lambda: CellCoefficient(8, dtype=torch.int64), InputTypeError, "float32 or torch.float64"),
        (lambda: iv.problems.elliptic(elements=8).simulate(0), InputError, "count"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
