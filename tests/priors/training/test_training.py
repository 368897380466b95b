"""Training: identities of the loss, keyed data, averages, resume, processes, laws; small networks, few steps."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import CheckpointError, FileError, InputError, InputTypeError, SolveError, UnsupportedError
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.priors import GaussianFieldPrior, Matern, NetworkPrior
from invsolve.priors.networks import UNetConfig
from invsolve.priors.training import (
    Finite,
    Made,
    NoiseLaw,
    Options,
    Selection,
    Signals,
    Source,
    Stored,
    estimate_law,
    train,
)
from invsolve.priors.training.command import _compiles, command
from invsolve.priors.training.data import _order, as_source, split
from invsolve.priors.training.ema import WIDTHS, Snapshot, combine, exponent, update
from invsolve.priors.training.heads import Heads
from invsolve.priors.training.loss import Uncertainty, denoising_loss
from invsolve.priors.training.pictures import card_text, samples_figure
from invsolve.priors.training.state import State
from invsolve.priors.training.validation import candidates, choose

D = torch.float64
SMALL = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=False)
FEW = Options(batch=4, warmup=2, log_every=2, save_every=1e6)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows(values):
    return torch.tensor(list(values), dtype=torch.float32)[:, None].expand(-1, 3) ** 2 + 1


def weights(prior):
    return torch.cat([p.flatten() for p in prior.network.state_dict().values()])


# --- the loss ---------------------------------------------------------------------------------------------------------
def test_a_network_that_returns_zero_has_loss_one_at_every_level():
    """Karras et al. 2022 (arXiv 2206.00364): the weighted error of EDM at initialisation is 1 per component for centred data of unit std."""
    w, noise = normal(400, 1, 8, 8, dtype=D), normal(400, 1, 8, 8, seed=1, dtype=D)
    for sigma in (1e-3, 0.1, 1.0, 30.0, 1e3):
        loss = denoising_loss(Zero(), w, torch.full((400,), sigma, dtype=D), noise)
        assert abs(float(loss.mean()) - 1) < 5 * (2 / w.numel()) ** 0.5


class Zero(torch.nn.Module):
    def forward(self, x, c):
        return 0 * x


def test_the_loss_is_the_weighted_denoising_error():
    class Some(torch.nn.Module):
        def forward(self, x, c):
            return torch.tanh(x) + c.view(-1, 1, 1, 1)

    w, noise, sigma = (
        normal(5, 1, 4, 4, dtype=D),
        normal(5, 1, 4, 4, seed=1, dtype=D),
        torch.tensor([1e-2, 0.3, 1, 5, 60], dtype=D),
    )
    s = sigma.view(-1, 1, 1, 1)
    made = iv.priors.EDM().denoise(Some(), w + s * noise, sigma, 1e-9, 1e9)
    want = ((made - w).square() * (s**2 + 1) / s**2).flatten(1).mean(1)
    assert torch.allclose(denoising_loss(Some(), w, sigma, noise), want, rtol=1e-9)


def test_the_loss_beside_a_law_is_the_denoising_error_in_units_of_what_the_law_leaves():
    field = GaussianFieldPrior(shape=(6, 6), spectrum=Matern(std=1.0, length=0.3), basis="periodic", mean=0.5).to(
        dtype=D
    )
    w, sigma = field.sample(400, seed=0), torch.logspace(-3, 3, 400, dtype=D)
    noise, law = normal(400, 1, 6, 6, seed=1, dtype=D), replace(field.law, mean=field.law.mean[None])
    x = w[:, None] + sigma.view(-1, 1, 1, 1) * noise
    zero = denoising_loss(Zero(), w[:, None], sigma, noise, law)
    assert abs(float(zero.mean()) - 1) < 5 * float(zero.std()) / 20  # at every level the law leaves its own rms
    first = denoising_loss(Zero(), w[:200, None], sigma[:200], noise[:200], law)
    assert abs(float(first.mean()) - 1) < 5 * float(first.std()) / 200**0.5

    class Some(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x, c):
            return torch.tanh(self.weight * x) + c.view(-1, 1, 1, 1)

    prior = NetworkPrior(
        network=Some(),
        shape=(6, 6),
        scale=3.0,
        sigma_range=(1e-9, 1e9),
        law=field.law,
        prediction=iv.priors.BesideLaw(),
    ).to(dtype=D)
    made = prior.denoise(x[:, 0], sigma)
    want = ((made - w) / field.law.left(sigma).view(-1, 1, 1)).square().flatten(1).mean(1)
    assert torch.allclose(denoising_loss(Some(), w[:, None], sigma, noise, law), want, rtol=1e-6)
    # The same signals in other units are the same training: the prior's unit stands between.
    scaled = replace(field.law, mean=3 * field.law.mean, variances=9 * field.law.variances)
    big = replace(prior, unit=3.0, law=scaled, mean=None, scale=9.0, sigma_range=(3e-9, 3e9))
    assert torch.allclose(big.denoise(3 * x[:, 0], 3 * sigma), 3 * made, rtol=1e-6, atol=1e-6)


def test_noise_levels_follow_their_law():
    law = NoiseLaw(mean=-1.0, std=0.5, low=1e-2, high=1e2, far=0.2)
    draws = law.draw(20000, torch.Generator().manual_seed(0)).log()
    assert float(draws.min()) >= math.log(1e-2) and float(draws.max()) <= math.log(1e2)
    outside = (draws + 1).abs() > 2.0  # four stds: of the uniform part
    share = 0.2 * (1 - 4.0 / math.log(1e4))
    assert abs(float(outside.double().mean()) - share) < 5 * (share / 20000) ** 0.5


def test_the_uncertainty_learns_the_log_of_the_loss():
    u = Uncertainty()
    optimiser = torch.optim.Adam(u.parameters(), lr=0.05)
    c = torch.linspace(-1.5, 1.5, 64)
    loss = (1 + c).exp()
    for _ in range(400):
        optimiser.zero_grad()
        (loss / u(c).exp() + u(c)).mean().backward()
        optimiser.step()
    assert float((u(c) - loss.log()).detach().abs().max()) < 0.1


# --- averages ---------------------------------------------------------------------------------------------------------
def test_widths_of_the_card():
    assert exponent(0.05) == pytest.approx(16.97, abs=0.01) and exponent(0.10) == pytest.approx(6.94, abs=0.01)
    with pytest.raises(InputError, match="between 0 and 0.28"):
        exponent(0.3)


def test_averages_are_what_their_profile_says():
    g, average = exponent(0.10), {"a": torch.zeros(1, dtype=D)}
    path = normal(300, dtype=D)
    for t in range(1, 301):
        update(average, {"a": path[t - 1 : t]}, t, 0.10)
    weight = torch.arange(1, 301, dtype=D)
    weight = weight ** (g + 1) - (weight - 1) ** (g + 1)  # of the steps, up to 1/t
    want = float((path * weight).sum() / 300 ** (g + 1))
    assert float(average["a"]) == pytest.approx(want, abs=0.02)


def test_other_averages_from_snapshots():
    """Karras et al. 2024, section 3.2: two widths in snapshots give any width, here of weights that drift and wobble."""
    t = torch.arange(1, 2001, dtype=D)
    path = torch.stack([t / 2000, (t / 300).sin(), (t / 90).cos()], 1)
    averages = {r: {"a": torch.zeros(3, dtype=D)} for r in (0.05, 0.10)}
    brute = {r: {"a": torch.zeros(3, dtype=D)} for r in (0.03, 0.075, 0.14)}
    kept = []
    for step in range(1, 2001):
        now = {"a": path[step - 1]}
        for r, average in {**averages, **brute}.items():
            update(average, now, step, r)
        if step % 250 == 0:
            kept += [Snapshot(step=step, width=r, weights={"a": a["a"].clone()}) for r, a in averages.items()]
    for r, average in brute.items():
        error = (combine(kept, 2000, r)["a"] - average["a"]).abs()
        # The last wobbles within the shortest of these averages, which eight snapshots do not resolve.
        assert float(error[: 2 if r == 0.03 else 3].max()) < 0.02
    with pytest.raises(InputError, match="at least one Snapshot"):
        combine([], 1, 0.05)


# --- data -------------------------------------------------------------------------------------------------------------
def test_a_finite_source_is_shuffled_by_epochs():
    source = Signals(torch.arange(10.0)[:, None])
    epochs = source.read(range(30), 3)[:, 0].view(3, 10)
    assert all(torch.equal(e.sort().values, torch.arange(10.0)) for e in epochs) and not torch.equal(
        epochs[0], epochs[1]
    )
    assert torch.equal(source.read([25, 4], 3)[:, 0], torch.stack([epochs[2, 5], epochs[0, 4]]))
    assert not torch.equal(source.read(range(10), 4)[:, 0], epochs[0])


def test_what_is_held_out():
    values = torch.arange(50.0)[:, None]
    kept, held = split(Signals(values), 128, 3)
    assert held is not None and held.size == 5 and kept.size == 45 and kept.shape == (1,) and not held.complex
    seen = [set(part.read(range(2 * part.size), 1)[:, 0].tolist()) for part in (kept, held)]
    assert not seen[0] & seen[1] and seen[0] | seen[1] == set(range(50))
    assert split(Signals(values), 2, 3)[1].size == 2 and not set(split(Signals(values), 5, 4)[1].places) == set(
        held.places
    )
    few, none = Signals(values[:19]), Made(lambda numbers, seed: values[list(numbers)] + seed / 2)
    some = Made(pool_of_blanks)  # keyed, though most of its signals are alike
    assert some.shape == (2, 2)
    assert split(few, 128, 3) == (few, None) and split(none, 128, 3) == (none, None)
    # Heads keep their random phases: of number and seed, not of place.
    heads = Heads(grid=16, size=20, fine=32)
    part = split(heads, 128, 0)[0]
    assert part.complex and torch.equal(part.read([3], 1), heads.at([part.places[_order([3], 18, 1)[0]]], [3], 1))


def pool_of_blanks(numbers, seed):
    pool = torch.cat([torch.zeros(9, 2, 2), torch.arange(84.0).view(21, 2, 2)])
    return pool[[int(np.random.default_rng([seed, i]).integers(30)) for i in numbers]]


def test_on_a_cpu_signals_are_made_in_turn():
    """A thread of their own would make the network's wait."""
    threads = []

    def make(numbers, seed):
        threads.append(threading.current_thread())
        return torch.stack([normal(8, 8, seed=1000 * seed + i) for i in numbers])

    train(make, steps=3, network=SMALL, options=FEW)
    assert set(threads) == {threading.main_thread()}


def test_held_out_signals_are_never_trained_on():
    read: dict[int, set[int]] = {}

    class Watched(Finite):
        shape, complex, size = (8, 8), False, 40

        def at(self, places, numbers, seed):
            read.setdefault(seed, set()).update(places)
            return normal(40, 8, 8)[list(places)]

    card = train(Watched(), steps=30, network=SMALL, options=replace(FEW, seed=5)).card["training"]
    held = split(Watched(), 128, 5)[1]
    assert card["held out"] == 4 and read[7] == set(held.places)  # seed + 2: what chooses the average
    assert read[5] == read[6] == set(range(40)) - read[7]  # of the training, and of its covariance


@pytest.mark.parametrize("n", [400, 100])
def test_over_fitting_is_on_the_card(n):
    """A network that knows the training signals by heart: against its loss on thousands of signals."""
    values = normal(n, 4, 4)
    kept, held = split(Signals(values), 128, 0)
    levels = NoiseLaw(low=0.3, high=3.0)
    options = Options(batch=64, warmup=0, skip="white", levels=levels, learning_rate=1e-9)
    network = ByHeart(kept.read(range(kept.size), 0))
    prior = train(values, steps=5, network=network, options=options)
    card = prior.card["training"]
    assert card["held out"] == held.size and card["over-fitting"] > 4 * card["over-fitting error"]
    rng, losses = torch.Generator().manual_seed(9), []
    for signals in (normal(3000, 4, 4, seed=8), kept.read(range(3000), 0)):
        w = ((signals - prior.offset) / prior.unit)[:, None]
        sigma = levels.draw(3000, torch.Generator().manual_seed(7))
        losses.append(denoising_loss(network, w, sigma, torch.randn(w.shape, generator=rng)).double().log())
    gap = (losses[0] - losses[1]).detach()
    error = (card["over-fitting error"] ** 2 + float(gap.var()) / 3000) ** 0.5
    assert abs(card["over-fitting"] - float(gap.mean())) < 4 * error
    assert f"error of {held.size} signals held out; +{card['over-fitting']:.3f} +- " in card_text(prior, "mine")


def test_over_fitting_to_a_pool_inside_a_function():
    def pool(numbers, seed):
        return torch.stack([normal(4, 4, seed=1000 * seed + i % 30) for i in numbers])

    options = Options(batch=64, warmup=0, skip="white", levels=NoiseLaw(low=0.3, high=3.0), learning_rate=1e-9)
    card = train(pool, steps=2, network=ByHeart(pool(range(30), 0)), options=options).card["training"]
    assert card["held out"] == 0 and card["over-fitting"] > 4 * card["over-fitting error"]
    few = train(pool, steps=1, network=ByHeart(pool(range(30), 0)), options=replace(options, batch=4)).card["training"]
    assert "over-fitting" not in few  # of four signals that were trained on nothing can be said


class Sized(Source):
    shape, complex, size = (3,), False, 9

    def read(self, numbers, seed):
        return torch.zeros(len(numbers), 3)


def test_of_few_signals_none_is_held_out():
    prior = train(normal(19, 8, 8), steps=2, network=SMALL, options=FEW)
    assert prior.card["training"]["held out"] == 0 and "over-fitting" not in prior.card["training"]
    assert "denoising error of the training signals\n" in card_text(prior, "mine")


def test_the_average_of_least_validation_loss_is_taken():
    given = {"last weights": 3.0, "short": 1.0, "long": 2.0, "training signals": 7.0}
    named = {name: {"w": torch.tensor(value)} for name, value in given.items() if name != "training signals"}
    kept, held = split(Signals(normal(80, 8, 8)), 8, 0)
    calls = []

    def loss(weights, signals):
        calls.append(signals)
        return torch.full((len(signals),), float(weights["w"]) if len(calls) <= 3 else 7.0, dtype=D)

    chosen = choose(named, loss, kept, held, seen=8, options=FEW, selection=Selection(held_out=8))
    assert chosen.name == "short" and chosen.weights is named["short"] and chosen.loss == 1.0
    assert chosen.over["over-fitting"] == -6.0 and chosen.over["over-fitting error"] == 0.0
    assert all(torch.equal(c, calls[0]) for c in calls[:3])
    assert torch.equal(calls[3], kept.read(range(8), FEW.seed))  # signals that were trained on
    calls.clear()
    assert not choose(named, loss, kept, held, seen=7, options=FEW, selection=Selection(held_out=8)).over  # too few
    calls.clear()
    with pytest.raises(SolveError, match="no longer finite: the learning rate, 0.002, is too large"):
        choose({"a": {"w": torch.tensor(torch.nan)}}, loss, kept, held, seen=8, options=FEW, selection=Selection())


def test_the_candidates_are_the_last_weights_and_averages():
    """Of a training they are on the card; with one snapshot there is nothing to combine."""
    few = train(normal(80, 8, 8), steps=4, network=SMALL, options=FEW, selection=Selection(snapshots=1))
    assert few.card["training"]["weights"] in ("last weights", *(f"average of width {r}" for r in WIDTHS))
    state = State.begin(torch.nn.Linear(1, 1), Uncertainty())
    assert list(candidates(state, Selection())) == ["last weights", *(f"average of width {r}" for r in WIDTHS)]
    for state.step in (1, 2):
        state.take_snapshot(None)
    more = list(candidates(state, Selection(widths=(0.06,))))
    assert more[3:] == ["average of width 0.06, from snapshots"]


class ByHeart(torch.nn.Module):
    """The mean of the signals that it holds, given a noisy one."""

    def __init__(self, signals):
        super().__init__()
        self.signals = torch.nn.Parameter((signals - signals.mean()) / signals.std())

    def forward(self, x, c):
        sigma = torch.exp(4 * c)[:, None]
        w = x.flatten(1) * (1 + sigma**2) ** 0.5
        known = self.signals.flatten(1)
        mean = torch.softmax(-(torch.cdist(w, known) ** 2) / (2 * sigma**2), 1) @ known
        return ((mean - w / (1 + sigma**2)) * (1 + sigma**2) ** 0.5 / sigma).view(x.shape)


class Flat(torch.nn.Module):
    """A network of flat signals and the level."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, c):
        return self.inner(torch.cat([x.flatten(1), c[:, None]], 1)).view(x.shape)


def test_files_are_read_in_pieces(tmp_path):
    import h5py

    values = normal(7, 3, 4).numpy()
    for name, data in (
        ("a.h5", {"x": values}),
        ("b.nc", {"x": values, "z": values + 1j * values}),
        ("c.hdf5", {"n": np.arange(21).reshape(7, 3)}),
        ("d.h5", {"x": values.astype(">f4"), "z": (values + 1j * values).astype(">c8")}),
    ):
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in data.items():
                file[key] = value
    source = Stored(tmp_path / "a.h5")
    assert source.shape == (3, 4) and not source.complex and source.size == 7
    assert torch.equal(source.read(range(14), 1), Signals(torch.from_numpy(values)).read(range(14), 1))
    for key in ("x", "z"):  # big-endian, as some programs write it
        assert torch.equal(Stored(tmp_path / "d.h5", key).read([4], 1), Stored(tmp_path / "b.nc", key).read([4], 1))
    assert Stored(tmp_path / "b.nc", "z").complex and Stored(tmp_path / "c.hdf5").read([0], 0).dtype == torch.float32
    with pytest.raises(FileError, match="`name` must be given"):
        Stored(tmp_path / "b.nc")
    with pytest.raises(FileError, match="no variable 'y'"):
        Stored(tmp_path / "a.h5", "y")


def test_files_that_cannot_be(tmp_path):
    import h5py

    (tmp_path / "bad.h5").write_bytes(b"no")
    with pytest.raises(FileError, match="no HDF5 file"):
        Stored(tmp_path / "bad.h5")
    with pytest.raises(FileError, match="there is no file"):
        Stored(tmp_path / "none.h5")
    (tmp_path / "x.csv").write_text("1")
    with pytest.raises(FileError, match="must end in"):
        Stored(tmp_path / "x.csv")
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["t"] = np.full((3, 3), b"ab")
        file["e"] = np.zeros((0, 3))
    with pytest.raises(FileError, match="not numbers"):
        Stored(tmp_path / "text.h5", "t")
    with pytest.raises(FileError, match="is empty"):
        Stored(tmp_path / "text.h5", "e")
    (tmp_path / "a.zarr").mkdir()
    try:
        import zarr  # noqa: F401
    except ImportError:
        with pytest.raises(FileError, match="needs the package zarr"):
            Stored(tmp_path / "a.zarr")


def test_arrays_lists_and_npy_files_are_signals_in_single_precision(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (4, 3))
    np.save(tmp_path / "signals.npy", values)
    expected = torch.tensor(values).float()
    forms = (values, values.astype(float), values.tolist(), torch.tensor(values), tmp_path / "signals.npy")
    for form in forms:
        assert torch.equal(as_source(form).read(range(4), 0), as_source(expected).read(range(4), 0))
    assert as_source(torch.tensor(values).double()).read([0], 0).dtype == torch.float64

    def made(numbers, seed):
        return np.stack([np.random.default_rng([seed, n]).standard_normal(3) for n in numbers])

    assert torch.equal(as_source(made).read([5], 1), torch.tensor(made([5], 1)).float())


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, InputTypeError, "a tensor"),
        ("signals.txt", FileError, "no file"),
        ("signals.npy", FileError, "there is no file 'signals.npy'"),
        ([["a"]], InputTypeError, "`data` must be numbers, in rows of one length"),
        (torch.zeros(3), InputError, r"\(n, \*shape\)"),
        (torch.full((2, 3), math.nan), InputError, "finite|NaN"),
        (lambda numbers, seed: rows(numbers), InputError, "the same, or a number further"),
        (lambda numbers, seed: rows(i - seed for i in numbers), InputError, "the same, or a number further"),
        (lambda numbers, seed: rows(i + seed for i in numbers), InputError, "the same, or a number further"),
        (lambda numbers, seed: normal(len(numbers), 3, seed=seed), InputError, "from its own number"),
        (lambda numbers, seed: normal(len(numbers), 3, seed=9 * seed + numbers[0]), InputError, "from its own number"),
        (lambda numbers, seed: torch.rand(len(numbers), 3), InputError, "same signals for the same numbers and seed"),
        (lambda numbers, seed: torch.full((1, 3), math.nan), InputError, "finite|NaN"),
        (Sized(), InputTypeError, "a Finite source"),
        (lambda numbers, seed: 3, InputTypeError, "a function"),
        (lambda numbers, seed: torch.zeros(2, 3), InputTypeError, "for one number"),
    ],
)
def test_data_that_cannot_be(data, error, message):
    with pytest.raises(error, match=message):
        train(data, steps=1)
    with pytest.raises(InputError, match="returning shape"):
        Made(lambda numbers, seed: torch.zeros(1, 3)).read([0, 1], 0)


# --- the law ----------------------------------------------------------------------------------------------------------
def test_stationary_law_of_a_field():
    for kind in ("real", "complex"):
        field = GaussianFieldPrior(
            shape=(12, 9), spectrum=Matern(std=1.0, length=0.3), basis="periodic", mean=2.0, kind=kind, dtype=D
        )
        law = estimate_law(field.sample(4000, seed=0))
        assert isinstance(law.modes, SpectralModes)
        count = 4000 * (2 if kind == "complex" else 1)
        # A variance from n squares errs by sqrt(2 / n), pairs by less; the largest of 108 by 4 of those.
        assert float((law.variances / field.law.variances - 1).abs().max()) < 5 * (2 / count) ** 0.5
        assert float((law.mean - 2.0).abs().max()) < 5 * field.scale / 4000**0.5
        x, z = torch.eye(108, dtype=D).view(108, 12, 9), field.law
        dense = law.modes.synthesis(law.variances * law.modes.analysis(x)).reshape(108, 108)
        true = z.modes.synthesis(z.variances * z.modes.analysis(x)).reshape(108, 108)
        assert float((dense - true).abs().max()) < 5 * (2 / count) ** 0.5 * float(true.diagonal().max())


def test_low_rank_law():
    S = normal(20, 3, dtype=D)
    x = normal(5000, 3, seed=1, dtype=D) @ S.mT + 0.1 * normal(5000, 20, seed=2, dtype=D) + 1.0
    law = estimate_law(x, form="low rank", rank=3)
    dense = (law.modes.matrix * law.variances) @ law.modes.matrix.mT
    want = S @ S.mT + 0.01 * torch.eye(20, dtype=D)
    assert float((dense - want).norm() / want.norm()) < 5 * (20 / 5000) ** 0.5
    with pytest.raises(InputError, match="'stationary' for more than"):
        estimate_law(torch.randn(3, 3000), form="low rank")


def test_means_that_count():
    ramp = torch.linspace(0, 3, 50, dtype=D)
    law = estimate_law(ramp + 0.1 * normal(200, 50, dtype=D))
    assert float((law.mean - ramp).abs().max()) < 5 * 0.1 / 200**0.5
    phases = torch.polar(
        torch.ones(200, 50, dtype=D),
        2 * math.pi * torch.rand(200, 1, dtype=D, generator=torch.Generator().manual_seed(0)),
    )
    assert torch.equal(estimate_law(phases).mean, torch.zeros(50, dtype=torch.complex128))
    for bad, message in ((torch.zeros(1, 3), "at least two"), (torch.ones(3, 3), "all the same")):
        with pytest.raises(InputError, match=message):
            estimate_law(bad)


# --- training ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_it_learns(tmp_path):
    """One number under noise: the denoiser of N(0, 1) is x / (1 + sigma^2), and 300 steps come near."""
    data = normal(4096, 4, 4) * torch.ones(1, 1, 1)
    prior = train(
        data,
        steps=300,
        network=UNetConfig(width=16, multipliers=(1,), blocks=1, attention=False),
        options=Options(batch=32, warmup=10, learning_rate=3e-3, log_every=50),
        out=tmp_path,
    )
    x = normal(256, 4, 4, seed=9)
    for sigma in (0.3, 1.0, 3.0):
        noisy = x * (1 + sigma**2) ** 0.5
        assert float((prior.denoise(noisy, sigma) - noisy / (1 + sigma**2)).square().mean().sqrt()) < 0.1
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(50, 301, 50)) and lines[-1]["loss"] < 1.05
    assert {"levels", "learning_rate", "signals_per_second", "seconds"} <= lines[0].keys()
    back = iv.priors.load(tmp_path / "prior.safetensors")
    assert torch.equal(weights(back), weights(prior)) and back.card["training"]["steps"] == 300
    assert torch.allclose(back.denoise(x, 1.0), prior.denoise(x, 1.0), atol=1e-6)  # kernels of another memory format
    assert prior.unit == pytest.approx(1.0, abs=0.05) and prior.law is not None


@pytest.mark.slow
def test_stopped_and_resumed_is_bitwise_the_same(tmp_path):
    data = normal(64, 8, 8)
    whole = train(data, steps=9, network=SMALL, options=FEW, out=tmp_path / "a")
    for stop in (2, 5, 6):
        train(data, steps=9, network=SMALL, options=FEW, out=tmp_path / "b", stop_after=stop)
    parts = train(data, steps=9, network=SMALL, options=FEW, out=tmp_path / "b")
    assert torch.equal(weights(whole), weights(parts))
    assert whole.card == parts.card
    assert torch.equal(weights(whole), weights(train(data, steps=9, network=SMALL, options=FEW)))  # with no folder


def test_another_training_in_the_folder_is_refused(tmp_path):
    data = normal(64, 8, 8)
    train(data, steps=2, network=SMALL, options=FEW, out=tmp_path)
    with pytest.raises(CheckpointError, match="options"):
        train(data, steps=2, network=SMALL, options=Options(batch=8), out=tmp_path)
    with pytest.raises(CheckpointError, match="steps"):
        train(data, steps=3, network=SMALL, options=FEW, out=tmp_path)
    held = split(Signals(data), 128, 0)[1].places[0]
    for other, text in ((data[:40], "64 signals of shape .* in the file, 40 signals"), (data.clone(), "held out")):
        other[held % len(other)] *= 2
        with pytest.raises(CheckpointError, match=text):
            train(other, steps=2, network=SMALL, options=FEW, out=tmp_path)


# With a second argument it is killed at its 20th step, after a checkpoint of every step before.
KILLED = """
import os, signal, sys, torch
from invsolve.priors.networks import UNetConfig
from invsolve.priors.training import Finite, Options, train
data = torch.randn(64, 8, 8, generator=torch.Generator().manual_seed(0))
small = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=False)
class Deadly(Finite):
    shape, complex, size = (8, 8), False, 64
    def at(self, places, numbers, seed):
        if "killed" in sys.argv and seed == 0 and numbers[0] >= 4 * 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return data[torch.tensor(places)]
options = Options(batch=4, warmup=2, log_every=2, save_every=0.0)
train(Deadly(), steps=60, network=small, options=options, out=sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_bitwise(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(iv.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    killed = subprocess.run([*run, "killed"], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "a" / "state.safetensors").exists() and not (tmp_path / "a" / "prior.safetensors").exists()
    subprocess.run(run, env=environment, check=True)
    subprocess.run([*run[:-1], str(tmp_path / "b")], env=environment, check=True)
    one, two = (iv.priors.load(tmp_path / name / "prior.safetensors") for name in "ab")
    assert torch.equal(weights(one), weights(two))


TWO = """
import sys, torch
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
from invsolve.priors.networks import UNetConfig
from invsolve.priors.training import Options, train
data = torch.randn(64, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
small = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=False)
train(data, steps=5, network=small, options=Options(batch=4, warmup=2, log_every=2, save_every=1e6), out=sys.argv[1])
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """To 1e-10 in float64: gradients of half batches are averaged, draws are keyed by the step."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    environment = os.environ | {"PYTHONPATH": str(Path(iv.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
        str(tmp_path / "a"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = iv.priors.load(tmp_path / "a" / "prior.safetensors")
    data = torch.randn(64, 8, 8, generator=torch.Generator().manual_seed(0), dtype=D)
    one = train(data, steps=5, network=SMALL, options=FEW)
    assert float((weights(one) - weights(two)).abs().max()) < 1e-10


def test_progressive_resolution():
    coarse = train(normal(64, 8, 8), steps=3, network=SMALL, options=FEW)
    before = weights(coarse).clone()
    fine = train(normal(64, 16, 16), steps=1, start=coarse, options=Options(batch=4, learning_rate=1e-12, log_every=1))
    assert fine.shape == (16, 16) and torch.allclose(weights(fine), before, atol=1e-6)
    assert torch.equal(weights(coarse), before)  # not touched
    with pytest.raises(InputError, match="left out with `start`"):
        train(normal(8, 8, 8), steps=1, start=coarse, network=SMALL)
    with pytest.raises(InputTypeError, match="a NetworkPrior"):
        train(normal(8, 8, 8), steps=1, start=3)


def test_any_network_complex_signals_and_hours():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x, c):
            return self.layer(x) * c.view(-1, 1, 1, 1)

    data = torch.complex(normal(32, 8, 8), normal(32, 8, 8, seed=1))
    prior = train(data, hours=1 / 3600, network=Own(), options=FEW)
    assert prior.kind == "complex" and prior.card["training"]["steps"] >= 1
    assert prior.denoise(data[:2], 1.0).dtype == torch.complex64
    signals = train(normal(16, 3, 8, 8), steps=1, network=SMALL, options=FEW)
    assert signals.channels == "first" and signals.network.config.channels == 3


def test_what_cannot_be_written_is_refused_before_training():
    x = normal(16, 8, 8)
    for card in ({"date": np.float32(1)}, {"set": {1}}, [1]):
        with pytest.raises(InputTypeError, match=r"train: `card` must be"):
            train(x, steps=1, network=SMALL, options=FEW, card=card)
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(InputTypeError, match="single or double precision"):
            train(x.to(dtype), steps=1, network=SMALL, options=FEW)
    with pytest.raises(InputTypeError, match="Options"):
        train(x, steps=1, options={"batch": 4})
    with pytest.raises(InputTypeError, match="NoiseLaw"):
        Options(levels=3)
    for law, name in (({"low": 10.0, "high": 1.0}, "low"), ({"far": 5.0}, "far")):
        with pytest.raises(InputError, match=f"NoiseLaw: `{name}`"):
            NoiseLaw(**law)
    with pytest.raises(InputError, match="signals of one axis"):
        train(normal(16, 32), steps=1, options=FEW)
    with pytest.raises(InputError, match="at least two signals"):
        train(x[:1], steps=1, network=SMALL, options=FEW)


def test_weights_that_are_not_finite_are_an_error():
    with pytest.raises(SolveError, match="no longer finite: the learning rate, 1e"):
        train(normal(16, 8, 8), steps=6, network=SMALL, options=replace(FEW, learning_rate=1e30, warmup=0))


def test_a_start_must_predict_what_is_trained():
    x = normal(16, 8, 8)
    white = train(x, steps=1, network=SMALL, options=replace(FEW, skip="white"))
    with pytest.raises(InputError, match=r"EDM.*skip='white'"):
        train(x, steps=1, start=white, options=FEW)
    with pytest.raises(InputError, match="complex signals with 2 channels"):
        train(torch.complex(x, x), steps=1, start=white, options=replace(FEW, skip="white"))


def test_own_modules_train_with_files_and_stay_as_they_were(tmp_path):
    """A norm that counts batches, a file for the state but none for the prior; the module given is not the one trained."""

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.BatchNorm2d(1)

        def forward(self, x, c):
            return self.norm(self.conv(x))

    own = Own()
    before = own.conv.weight.clone()
    made = train(normal(16, 8, 8), steps=3, network=own, options=FEW, out=tmp_path)
    assert torch.equal(own.conv.weight, before) and not torch.equal(made.network.conv.weight, before)
    assert (tmp_path / "state.safetensors").exists() and not (tmp_path / "prior.safetensors").exists()
    assert (tmp_path / "log.jsonl").exists()


def test_few_signals_have_no_mean_image():
    """Read once each: signals counted twice would make chance look like a mean."""
    made = train(normal(64, 8, 8), steps=1, network=SMALL, options=FEW)
    assert bool((made.mean == made.mean.flatten()[0]).all())


def test_training_is_found_and_nothing_else():
    code = (
        "import invsolve as iv, sys; a = 'invsolve.priors.training' in sys.modules; iv.priors.training.train; print(a)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="has no attribute 'trainings'"):
        iv.priors.trainings  # noqa: B018


def test_the_command_is_one_process(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnsupportedError, match="one process"):
        command("gaussian-field", resolution=16, hours=0.001, out=tmp_path)


def test_the_command_shows_ct_in_the_windows_of_bone_and_of_brain(monkeypatch, tmp_path):
    """And trains on lower noise than elsewhere: brain differs by one per cent of what bone and air make."""
    from invsolve.priors.training import command as module

    seen, drawn = [], []
    monkeypatch.setattr(module, "train", lambda *a, **k: seen.append(k["options"]) or train(*a, **k))
    monkeypatch.setattr(module, "samples_figure", lambda *a: drawn.append(samples_figure(*a)) or drawn[-1])
    images = np.random.default_rng(0).normal(size=(24, 16, 16)).astype(np.float16)
    np.save(tmp_path / "heads-ct-16.npy", images)
    command("heads-ct", resolution=16, hours=1e-4, out=tmp_path, width=8, say=lambda text: None)
    assert seen[0].levels.mean < NoiseLaw().mean - 1
    limits = [ax.images[0].get_clim() for ax in drawn[0].axes]
    assert limits[::6] == [(-1000, 1500)] * 2 + [(-20, 80)] * 2 and len(limits) == 24
    assert [ax.get_ylabel() for ax in drawn[0].axes[::6]][-1] == "training\n-20 to 80"


def test_the_command_trains_fields_that_are_the_same_on_every_grid(tmp_path, monkeypatch):
    from invsolve.priors.training import command as module

    monkeypatch.setattr(module, "_DARCY_FINE", 32)
    monkeypatch.setattr(module, "_DARCY_FIELDS", 200)
    monkeypatch.setattr(module, "samples_figure", lambda *a: samples_figure(torch.zeros(6, 16, 16), *a[1:]))
    said = []
    made = command("darcy", resolution=16, hours=1e-5, out=tmp_path, width=8, say=said.append)
    found = iv.priors.load(tmp_path / "prior.safetensors").on((10, 12))
    assert made.field.shape == (16, 16)
    assert found.shape == (10, 12)
    assert float(found.mean.mean()) == pytest.approx(7.5, abs=0.5)
    # 3 or 12: variance 4.5^2, of which the noise-free field has nearly all
    assert float(found.field.law.modes.mean_square(found.field.law.variances[None]) * found.unit**2) == pytest.approx(
        4.5**2, rel=0.25
    )


@pytest.mark.slow
@pytest.mark.skipif(not _compiles(), reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_is_the_same_training():
    x = normal(16, 8, 8)
    plain, compiled = (train(x, steps=3, network=SMALL, options=replace(FEW, compile=c)) for c in (False, True))
    # Adam's first steps are of one size whatever the gradient: where that is rounding, its sign is free.
    assert torch.allclose(plain.denoise(x, 0.5), compiled.denoise(x, 0.5), atol=1e-3)
    assert set(plain.network.state_dict()) == set(compiled.network.state_dict())


@pytest.mark.parametrize("skip", ["law", "white"])
def test_either_skip_is_stated_in_the_prior(skip):
    made = train(normal(16, 8, 8), steps=2, network=SMALL, options=replace(FEW, skip=skip))
    assert made.prediction == {"law": iv.priors.BesideLaw(), "white": iv.priors.EDM()}[skip]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "given, or `hours`"),
        ({"steps": 1, "hours": 1.0}, "not both"),
        ({"steps": 0}, "steps"),
        ({"hours": -1.0}, "hours"),
        ({"steps": 1, "network": "unet"}, "UNetConfig"),
    ],
)
def test_refusals(options, message):
    with pytest.raises((InputError, InputTypeError), match=message):
        train(normal(8, 8, 8), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"learning_rate": 0.0},
        {"warmup": -1},
        {"clip": 0.0},
        {"seed": -1},
        {"log_every": 0},
        {"save_every": -1.0},
        {"precision": "half"},
        {"skip": "none"},
        {"compile": 2},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Options(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measured": 1}, "measured"),
        ({"held_out": 0}, "held_out"),
        ({"compared": 1}, "compared"),
        ({"snapshots": 0}, "snapshots"),
        ({"widths": (0.05, 0.3)}, r"widths\[1\].*between 0 and 0.28"),
        ({"widths": [0.05]}, "a tuple of numbers"),
    ],
)
def test_selections_are_checked(options, message):
    with pytest.raises((InputError, InputTypeError), match=message):
        Selection(**options)
    with pytest.raises(InputTypeError, match="`selection`"):
        train(normal(8, 8, 8), steps=1, selection=options)


def test_another_selection_is_another_training(tmp_path):
    data = normal(64, 8, 8)
    train(data, steps=1, network=SMALL, options=FEW, out=tmp_path)
    with pytest.raises(CheckpointError, match="options"):
        train(data, steps=1, network=SMALL, options=FEW, selection=Selection(snapshots=2), out=tmp_path)
