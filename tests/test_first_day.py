"""What new users typed: it works, or the message has the line to type, across the rooms."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.sparse
import torch

import invsolve as iv
from invsolve.errors import FileError, InputError, InputTypeError, InvsolveError, OperatorError
from invsolve.priors.training import train
from invsolve.results.warnings import shortfalls
from invsolve.solving.validation import derivative_warning, level_warnings

ops, pri, F64 = iv.operators, iv.priors, torch.float64
FIELD = pri.GaussianFieldPrior((16, 8), pri.Matern(std=1.0, length=0.3))
COMPLEX = pri.GaussianFieldPrior((16, 8), pri.Matern(std=1.0, length=0.3), kind="complex")
UNIT = pri.GaussianPrior(torch.zeros(8, dtype=F64), torch.eye(8, dtype=F64))
BLUR = ops.GaussianBlur(1.0, (16, 8))
MASK = np.arange(128).reshape(16, 8) % 3 == 0
MAPS = np.random.default_rng(0).normal(size=(5, 16, 8)) + 0j
WIDTH = iv.LogNormal(median=1.0, factor=2.0)
H = np.random.default_rng(1).normal(size=(5, 8))
SIMULATED = pri.independent(a=WIDTH, b=WIDTH)


def blur(std):
    return ops.GaussianBlur(std, (16, 8))


def rough(std):
    return pri.GaussianFieldPrior((16, 8), pri.Matern(std=std, length=0.3))


def stacked(a, b):
    return torch.stack([a, b])


def noise(seed, number):
    return torch.as_tensor(np.random.default_rng([seed, number]).normal(size=(16, 8, 3)))


class Physics:
    """Has what deepinv's operators have."""

    def A_adjoint(self, y):
        return y


SAID = {
    # --- axes of channels
    "a photograph": (
        lambda: iv.solve(BLUR, np.ones((16, 8, 3)), FIELD, noise=0.1),
        InputError,
        r"`y` must be of shape \(batch, 16, 8\), got \(16, 8, 3\). .*, a batch of 3: np.moveaxis\(y, -1, 0\), or y.movedim",
    ),
    "coils last": (
        lambda: iv.solve(ops.MRI(MASK, (16, 8), maps=MAPS), np.ones((16, 8, 5), dtype=complex), COMPLEX, noise=0.1),
        InputError,
        r"`y` must be of shape \(batch, 5, 16, 8\), got \(16, 8, 5\). .*np.moveaxis\(y, -1, 0\)",
    ),
    "maps with coils last": (
        lambda: ops.MRI(MASK, (16, 8), maps=np.moveaxis(MAPS, 0, -1)),
        InputError,
        r"`maps` must be of shape \(coils, 16, 8\) .*np.moveaxis\(maps, -1, 0\)",
    ),
    "the shape of k-space for that of the image": (
        lambda: ops.MRI(MASK, (16, 8, 5)),
        InputError,
        r"`mask` must be broadcastable to .* in_shape is that of the image alone, \(H, W\): coils come with maps=",
    ),
    "a mask transposed": (
        lambda: ops.Mask(MASK.T, in_shape=(16, 8)),
        InputError,
        r"`mask` must be of shape \(16, 8\) .*np.moveaxis\(mask, -1, 0\)",
    ),
    "a blur that mixes colours": (
        lambda: ops.GaussianBlur(2.0, (16, 8, 3)),
        InputError,
        r"`std` must be given for each axis of \(16, 8, 3\), of which axis 2 looks like channels, got 2.0 for all of "
        r"them. .*in_shape=\(16, 8\), y=np.moveaxis\(photo, -1, 0\). Or .*: \(2.0, 2.0, 0.0\) leaves them apart",
    ),
    "blocks that mix colours": (
        lambda: ops.Downsample(2, (3, 16, 8)),
        InputError,
        r"`factor` must be given for each axis of \(3, 16, 8\), of which axis 0 .*y=photo. Or .*: \(1, 2, 2\) leaves",
    ),
    "training signals with a last axis of 1": (
        lambda: train(np.zeros((20, 16, 8, 1)), steps=1),
        InputError,
        r"train: `data` must be .* got signals \(16, 8, 1\), which would be 16 channels .* Write signals\[..., 0\].",
    ),
    "colours last in training signals": (
        lambda: train(lambda numbers, seed: torch.stack([noise(seed, n) for n in numbers]), steps=1),
        InputError,
        r"got signals \(16, 8, 3\), which would be 16 channels of \(8, 3\). Write np.moveaxis\(signal, -1, 0\).",
    ),
    # --- missing data
    "NaN that is measured": (
        lambda: iv.solve(ops.Matrix(H), [np.nan, 1.0, 2.0, 3.0, 4.0], UNIT, noise=0.1),
        InputError,
        r"`y` must be finite, .* iv.operators.Mask\(np.isfinite\(y\), in_shape=\(5,\)\) @ A takes y as it is",
    ),
    "a picture": (
        lambda: iv.solve(BLUR, "p.png", FIELD, noise=0.1),
        InputTypeError,
        r"`y` must be .*, got 'p.png'. Read it first, by matplotlib.pyplot.imread\('p.png'\)",
    ),
    "a real prior of a complex image": (
        lambda: iv.solve(ops.MRI(MASK, (16, 8)), MASK + 0j, FIELD, noise=0.1),
        InputError,
        r"`prior` must be complex, as MRI takes, got real. .* has kind='complex', .* build the operator with in_kind='real'",
    ),
    "a complex prior of a real image": (
        lambda: iv.solve(BLUR, MASK, COMPLEX, noise=0.1),
        InputError,
        r"`prior` must be real, as GaussianBlur takes, got complex. .* build the operator with kind='complex'",
    ),
    "a mask that is no file": (lambda: ops.Mask("m.npy"), FileError, "Mask: `mask`: there is no file 'm.npy'"),
    # --- distributions
    "a width that is not known": (
        lambda: ops.GaussianBlur(std=WIDTH, in_shape=(16, 8)),
        InputTypeError,
        r"`std\[0\]` must be a real number, got LogNormal. .* iv.operators.Family\(make, "
        r"std=iv.LogNormal\(median=1.0, factor=2.0\)\), where make\(std\) returns the operator, .* GaussianBlur\(std=std",
    ),
    "an array that is not known": (lambda: ops.Matrix(WIDTH), InputTypeError, r"Family\(make, matrix=iv.LogNormal"),
    "a length that may be negative": (
        lambda: pri.Matern(std=1.0, length=iv.Normal(0.3, 0.1)),
        InputError,
        r"Matern: `length` must be a distribution of positive numbers, got Normal.* Use iv.LogNormal or iv.LogUniform",
    ),
    "a gain that is not known": (lambda: WIDTH * BLUR, InputTypeError, r"Family\(lambda gain: gain \* A, gain=iv.LogNorm"),
    "counts that are not known": (
        lambda: iv.noise.Poisson(counts_per_unit=WIDTH),
        InputTypeError,
        r"`counts_per_unit` must be a number, got LogNormal\(.*iv.operators.Family\(lambda gain: gain \* A",
    ),
    "a budget that is a distribution": (
        lambda: iv.solve(BLUR, np.ones((16, 8)), FIELD, noise=0.1, budget=WIDTH),
        InputTypeError,
        "`budget` must be a number of seconds or an iv.Budget, got LogNormal.$",
    ),
    # --- families
    "another name": (
        lambda: ops.Family(blur, width=WIDTH),
        InputError,
        "`make` must be a function with the arguments width, the unknown scalars, got one with std. What is known needs",
    ),
    "another name, of a prior": (lambda: pri.Family(rough, width=WIDTH), InputError, "the arguments width, .* with std"),
    "a number": (
        lambda: ops.Family(blur, std=2.0),
        InputTypeError,
        r"`std` must be a distribution .*, got float. What is known is left to .* functools.partial\(make, std=...\)",
    ),
    "no mapping": (
        lambda: ops.Family(blur, [WIDTH]),
        InputTypeError,
        r"`scalars` must be a mapping of names to distributions, got list. Or by name: Family\(make, width=...\)",
    ),
    # --- in the place of an operator
    "a sparse matrix for a dense one": (
        lambda: ops.Matrix(scipy.sparse.csr_matrix(H)),
        InputTypeError,
        r"`matrix` must be a dense .*, got a sparse one, csr_matrix. Write matrix.toarray\(\); .* iv.operators.from_scipy",
    ),
    "a sparse tensor": (lambda: ops.Matrix(torch.eye(3).to_sparse()), InputTypeError, r"Write matrix.to_dense\(\)"),
    "a sparse matrix": (
        lambda: iv.solve(scipy.sparse.csr_matrix(H), np.ones(5), UNIT, noise=0.1),
        InputTypeError,
        r"got csr_matrix. Wrap it: iv.operators.from_scipy\(A\)",
    ),
    "an array": (
        lambda: iv.calibrate(H, UNIT, noise=0.1),
        InputTypeError,
        r"calibrate: `A` must be .*, got ndarray. A matrix is iv.operators.Matrix\(A\)",
    ),
    "a class": (
        lambda: iv.testing.check_operator(ops.Mask),
        InputTypeError,
        r"got the class Mask. Call it, with its parameters: Mask\(...\)",
    ),
    "an operator of deepinv": (lambda: iv.Problem(Physics(), H, noise=0.1), InputTypeError, r"from_deepinv\(A, in_shape"),
    # --- named parameters
    "a field beside scalars": (
        lambda: pri.independent(a=WIDTH, field=FIELD),
        InputTypeError,
        r"`field` must be a distribution of one number, got a prior, GaussianFieldPrior. .*prior=field and "
        r"A=iv.operators.Family\(make, alpha",
    ),
    "a parameter that is known": (lambda: pri.independent(a=2.0), InputTypeError, r"functools.partial\(f, a=...\)"),
    "parameters in columns": (
        lambda: ops.from_simulator(stacked, SIMULATED.layout, (2,), kind="nonlinear")(torch.ones(3, 2)),
        OperatorError,
        r"must return a tensor of shape \(3, 2\), got \(2, 3\). With kind='nonlinear' .* torch.stack\(\[...\], dim=-1\)",
    ),
    # --- functions of one signal
    "a shape without rows": (
        lambda: ops.from_callable(lambda x: x[0, :5], (8,), (5,))(torch.ones(2, 8)),
        OperatorError,
        r"must return shape \(2, 5\) .* got \(5,\). It gets a batch \(rows, \*shape\) .* batched=False",
    ),
    "another shape for one signal": (
        lambda: ops.from_callable(lambda x: x[:4], (8,), (5,), batched=False)(torch.ones(2, 8)),
        OperatorError,
        r"must return shape \(5,\) for one input of shape \(8,\), got \(4,\)",
    ),
    "batched neither True nor False": (
        lambda: ops.from_callable(abs, (8,), (8,), batched=1),
        InputTypeError,
        "`batched` must be True or False, got int",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), SAID.values(), ids=SAID)
def test_the_message_has_the_line_to_type(call, kind, words):
    with pytest.raises(InvsolveError, match=words) as caught:
        call()
    assert type(caught.value) is kind


def test_missing_data_may_be_nan():
    """Entries that were not measured count for nothing, whatever they hold: also in a mask that the message proposes."""
    A = ops.MRI(MASK, (16, 8))
    k = A(COMPLEX.sample(1, seed=3))[0] + 0.1
    zeros = torch.where(torch.as_tensor(MASK), k, 0)
    found = iv.solve(A, torch.where(torch.as_tensor(MASK), k, torch.nan), COMPLEX, noise=0.1, num_samples=3)
    assert torch.equal(found.samples, iv.solve(A, zeros, COMPLEX, noise=0.1, num_samples=3).samples)
    y = np.array([np.nan, 1.0, 2.0, 3.0, 4.0])
    seen = iv.solve(ops.Mask(np.isfinite(y), in_shape=(5,)) @ ops.Matrix(H), y, UNIT, noise=0.1)
    assert torch.allclose(seen.mean, iv.solve(ops.Matrix(H[1:]), y[1:], UNIT, noise=0.1).mean, atol=1e-9)


def test_masks_and_matrices_of_files(tmp_path):
    """Read without pickle: a file of objects is refused."""
    for name, array in (("m", MASK), ("h", H), ("i", np.array([3, 1])), ("o", np.array([{}], dtype=object))):
        np.save(tmp_path / f"{name}.npy", array)
    path = {name: str(tmp_path / f"{name}.npy") for name in "mhio"}
    assert torch.equal(ops.Mask(path["m"]).mask, torch.as_tensor(MASK))
    assert ops.MRI(tmp_path / "m.npy", (16, 8)).fingerprint() == ops.MRI(MASK, (16, 8)).fingerprint()
    assert torch.equal(ops.Matrix(path["h"]).matrix, torch.as_tensor(H))
    assert ops.Subsample(path["i"], (8,)).index.tolist() == [3, 1]
    with pytest.raises(FileError, match="is no .npy file of numbers"):
        ops.Mask(path["o"])


def test_unknown_scalars_in_a_mapping():
    """By position, beside others by name, also under the name of the argument."""
    for family, make in ((ops.Family, blur), (pri.Family, rough)):
        given = [family(make, std=WIDTH), family(make, {"std": WIDTH}), family(make, scalars={"std": WIDTH})]
        assert {str(f) for f in given} == {str(given[0])}
        assert set(family(make, {"std": WIDTH}).unknown) == {"std"}
    both = ops.Family(lambda std, gain: gain * blur(std), {"gain": WIDTH}, std=WIDTH)
    assert set(both.unknown) == {"std", "gain"}
    assert set(ops.Family(lambda scalars: blur(scalars), scalars=WIDTH).unknown) == {"scalars"}
    assert ops.Family(functools.partial(lambda std, gain: gain * blur(std), gain=2.0), std=WIDTH).in_shape == (16, 8)


def one(x):  # (8,) -> (5,)
    return torch.as_tensor(H) @ x**2


def one_vjp(x, v):
    return 2 * x * (torch.as_tensor(H).T @ v)


@pytest.mark.parametrize(
    "A",
    [
        ops.from_callable(one, (8,), (5,), batched=False, dtype=F64),
        ops.from_callable(
            lambda x: H @ x.numpy() ** 2, (8,), (5,), batched=False, dtype=F64, vjp=one_vjp, jvp=lambda x, dx: H @ (2 * x * dx).numpy()
        ),
    ],
    ids=["torch", "numpy"],
)  # fmt: skip
def test_a_function_of_one_signal(A):
    """Values and derivatives are those of the function of a batch."""
    batched = ops.from_callable(lambda x: (x**2) @ torch.as_tensor(H).T, (8,), (5,))
    x, v = torch.randn(3, 8, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5, dtype=F64)
    assert torch.allclose(A(x), batched(x)) and A(x[:0]).shape == (0, 5)
    assert torch.allclose(A.vjp(x)[1](v), batched.vjp(x)[1](v))
    assert torch.allclose(A.jvp(x, x + 1)[1], batched.jvp(x, x + 1)[1])
    assert iv.testing.check_operator(A).passed
    linear = ops.from_callable(
        lambda x: H @ x.numpy(), (8,), (5,), kind="linear", adjoint=lambda y: H.T @ y.numpy(), batched=False
    )
    assert iv.testing.check_operator(linear.to(dtype=F64)).passed
    assert torch.allclose(linear(x), x @ torch.as_tensor(H).T)
    box = ops.from_callable(lambda x: H @ x.numpy(), (8,), (5,), kind="black box", batched=False)
    assert torch.allclose(box(x), linear(x)) and box.fingerprint() != linear.fingerprint()


def test_what_goes_wrong_inside_of_a_function_says_what_it_was_called_with():
    """The user's exception stays what it is."""
    A = ops.from_callable(lambda x: torch.linalg.inv(x), (8,), (8,), kind="linear")
    with pytest.raises(RuntimeError, match="must be batches of square matrices") as caught:
        A(torch.ones(1, 8, dtype=F64))
    said = "was called with torch tensors (1, 8); code in numpy takes x.numpy(). It gets a batch (rows, *shape)"
    assert said in caught.value.__notes__[0] and "batched=False" in caught.value.__notes__[0]
    report = iv.testing.check_operator(A, throw=False)
    assert said.replace("(1, 8)", "(3, 8)") in str(report)
    one = ops.from_callable(lambda x: np.linalg.inv(x), (8,), (8,), kind="black box", batched=False)
    with pytest.raises(np.linalg.LinAlgError) as alone:
        one(torch.ones(2, 8))
    assert "was called with torch tensors (8,); code in numpy takes x.numpy()" in alone.value.__notes__[0]
    simulator = ops.from_simulator(lambda a, b: np.linalg.inv(a + b), ["a", "b"], (2,), kind="nonlinear")
    with pytest.raises(np.linalg.LinAlgError) as other:
        simulator(torch.ones(3, 2))
    assert "with a tensor (rows,) for each parameter" in other.value.__notes__[0]


class Fixed(torch.nn.Module):
    """A network that fixes a precision inside."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv1d(1, 1, 1)

    def forward(self, x, time):
        return self.layer(x.float())


def test_a_network_of_a_fixed_precision_says_what_it_was_called_with():
    prior = pri.NetworkPrior(Fixed(), shape=(8,), scale=1.0, sigma_range=(0.01, 50.0))
    A, y = ops.Identity(), torch.zeros(8)
    assert (
        iv.solve(A, y, prior, noise=1.0, strategy=iv.strategies.DPS(num_steps=2), num_samples=1)
        .samples.isfinite()
        .all()
    )
    with pytest.raises(RuntimeError, match="should be the same") as caught:
        iv.solve(A, y.double(), prior, noise=1.0, strategy=iv.strategies.DPS(num_steps=2), num_samples=1)
    (note,) = caught.value.__notes__
    assert "`network` (Fixed) was called with (1, 1, 8) and (1,) of torch.float64, the precision of the data" in note
    assert "x.to(weight.dtype)" in note and "y.astype(np.float32)" in note
    with pytest.raises(RuntimeError) as other:
        pri.NetworkPrior(torch.nn.Bilinear(2, 2, 2), shape=(8,), scale=1.0, sigma_range=(0.01, 50.0)).denoise(
            y[None], 0.5
        )
    assert other.value.__notes__[0].endswith("was called with (1, 1, 8) and (1,) of torch.float32.")


class Leaning(ops.LinearOperator):
    """An adjoint that is off by ``error``."""

    in_shape = out_shape = (64,)

    def __init__(self, error):
        self.error = error

    def _apply(self, x):
        return x

    def _adjoint(self, y):
        return (1 + self.error) * y


def test_warnings_say_what_follows_and_what_to_do():
    off = derivative_warning(iv.Problem(Leaning(1e-2), torch.zeros(64), noise=1.0), UNIT)
    assert len(off) == 1 and "the adjoint of Leaning is off by " in off[0] and "samples may be off by as much" in off[0]
    assert "iv.testing.check_operator(A)" in off[0]
    (text,) = shortfalls({"cg_residual": torch.tensor([0.02, 0.3])})
    assert "a linear system, by which the guidance weighs data against prior" in text and "residual of 0.3 only" in text
    assert "info['cg_residual']" in text and "result.check()" in text and "raise max_iter" in text
    high = iv.strategies.MMPS(grid=torch.tensor([99.0, 1.0, 0.0]))
    narrow = pri.from_denoiser(
        lambda x, s: x / (1 + s**2), shape=(8,), mean=torch.zeros(8), scale=1.0, sigma_range=(0.1, 9)
    )
    (text,) = level_warnings(narrow, high)
    assert "the grid goes from 99 to 1, the prior was made for 9 to 0.1" in text and "Leave grid out" in text


def test_files_of_named_arrays_are_read_by_name():
    A, prior = iv.operators.Identity((4,)), iv.priors.GaussianPrior(torch.zeros(4), torch.eye(4))
    for path, how in (("y.npz", "numpy.load"), ("y.nc", "xarray.open_dataset"), ("y.mat", "scipy.io.loadmat")):
        with pytest.raises(iv.errors.InputTypeError, match=rf"Read it first, by {how}\('{path}'\)\[name\]"):
            iv.solve(A, path, prior, noise=0.1)


def test_a_member_that_cannot_be_says_which():
    """A width that its distribution allows and the boundary does not; the message was of a kernel that nobody gave."""
    family = iv.operators.Family(
        lambda width: iv.operators.GaussianBlur(width, (12, 12), boundary="reflect"), width=iv.LogNormal(2.0, 1.6)
    )
    with pytest.raises(iv.errors.InputError, match="kernel") as caught:
        family.at(width=20.0)
    assert "of the member at width=20" in caught.value.__notes__[0] and "LogUniform" in caught.value.__notes__[0]


def test_a_certified_result_prints_what_it_warns_of():
    """Exact under a prior of another unit: the line said certified, and chi^2 was to be looked for."""
    prior = iv.priors.GaussianPrior(torch.zeros(64), torch.eye(64))
    result = iv.solve(iv.operators.Identity((64,)), torch.full((64,), 100.0), prior, noise=0.1)
    assert result.certified_word == "certified" and "\n  warning: " in str(result) and "chi^2" in str(result)
