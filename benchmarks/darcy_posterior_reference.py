"""The posterior of benchmarks/darcy.py by long chains of their own, which use none of the package's strategies.

    python benchmarks/darcy_posterior_reference.py    # an hour on one core; writes tests/references/darcy-posterior.npz

Chains side by side on the coefficients z ~ N(0, 1) of the Gaussian field, with three moves in turn: the directions that the
data inform (of the Fisher information of smoothed jumps, mean over the chains while they settled, then kept) by a random
walk, all others by pCN, and the common factor of the leading modes. Each is a two-stage Metropolis move: what 32 x 32 cells refuse is not solved for on 64 x 64. The coarse answer is corrected by the
difference that the chain's present state shows, and the second stage accepts by the exact ratio, in which both
directions of that correction stand (Christen & Fox 2005): the chains have the posterior of 64 x 64 cells. Each starts in
an ensemble of its own, moved from the prior to the data by an ensemble smoother on 32 x 32 cells, and settles with
powers of the likelihood from 0.1 to 1. Some moves are up to a hundred times smaller than the others, whatever the state,
so that no chain is caught.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from _darcy_problem import FILE, HIGH, LOW, DarcyCase, Reference, write
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.linalg import cho_solve_banded, cholesky_banded, solveh_banded

import invsolve as iv

Array = NDArray[np.float64]
LEADING = 8  # modes along an axis, whose R-hat is told
SMOOTH = 20  # along an axis: beyond them no direction is informed
INFORMED = 80  # directions at most


def amplitudes(n: int) -> Array:
    """Of the orthonormal cosines; their common factor does not matter, as only the sign of the field does."""
    k = (math.pi * np.arange(n)) ** 2
    found = 1 / (9 + k[:, None] + k)
    found[0, 0] = 0
    return found


def banded(a: Array) -> Array:
    """The matrix of one coefficient ``(n, n)``, its lower band ``(n + 1, n^2)``."""
    n = len(a)
    x = 2 * a[:-1] * a[1:] / (a[:-1] + a[1:])
    y = 2 * a[:, :-1] * a[:, 1:] / (a[:, :-1] + a[:, 1:])
    band = np.zeros((n + 1, n, n))
    d = band[0]
    d[:-1] += x
    d[1:] += x
    d[:, :-1] += y
    d[:, 1:] += y
    for edge, values in ((d[0], a[0]), (d[-1], a[-1]), (d[:, 0], a[:, 0]), (d[:, -1], a[:, -1])):
        edge += 2 * values
    band[n, :-1] = -x
    band[1, :, :-1] = -y
    return band.reshape(n + 1, -1)


def potential(a: Array) -> Array:
    """U of one coefficient."""
    source = np.full(a.size, 1 / a.size)
    return np.asarray(
        solveh_banded(banded(a), source, lower=True, overwrite_ab=True, overwrite_b=True, check_finite=False)
    )


class Forward:
    """Coefficients of the field to a, and to the data on both grids."""

    def __init__(self, case: DarcyCase) -> None:
        self.amplitude = amplitudes(case.n)
        self.weights = []
        for n in (case.n, case.n // 2):
            sensors = iv.operators.PointValues(iv.CartesianGrid((n, n)), case.points)
            eye = torch.eye(n * n, dtype=torch.float64).view(-1, n, n)
            self.weights.append(np.ascontiguousarray(sensors(eye).mT.numpy()))

    def inside(self, z: Array) -> NDArray[np.bool_]:
        return np.asarray(idctn(z * self.amplitude, norm="ortho") >= 0)

    def fine(self, inside: NDArray[np.bool_]) -> Array:
        return self.weights[0] @ potential(np.where(inside, HIGH, LOW))

    def coarse(self, inside: NDArray[np.bool_]) -> Array:
        """Of the geometric mean of four cells."""
        n = len(inside) // 2
        share = inside.reshape(n, 2, n, 2).mean((1, 3))
        return self.weights[1] @ potential(LOW * (HIGH / LOW) ** share)

    def slopes(self, z: Array, width: float = 0.1) -> Array:
        """Derivatives of the fine data in the smooth modes ``(sensors, SMOOTH^2)``, jumps of so many stds of the field."""
        n = len(z)
        u = idctn(z * self.amplitude, norm="ortho")
        a = np.where(u >= 0, HIGH, LOW)
        factor = cholesky_banded(banded(a), lower=True, overwrite_ab=True, check_finite=False)
        p = cho_solve_banded((factor, True), np.full(n * n, 1 / n**2), check_finite=False).reshape(n, n)
        q = cho_solve_banded((factor, True), self.weights[0].T, check_finite=False).T.reshape(-1, n, n)
        of_a = np.zeros_like(q)
        for axis in (0, 1):
            b, v, w, out = (np.swapaxes(m, -1, -2) if axis else m for m in (a, p, q, of_a))
            flow = -2 * np.diff(w, axis=-2) * np.diff(v, axis=0) / (1 / b[:-1] + 1 / b[1:]) ** 2
            out[:, :-1] += flow / b[:-1] ** 2
            out[:, 1:] += flow / b[1:] ** 2
            for end in (0, -1):
                out[:, end] -= 2 * w[:, end] * v[end]
        width *= float(u.std())
        share = 1 / (1 + np.exp(-np.clip(u / width, -50, 50)))
        of_z = dctn(of_a * ((HIGH - LOW) / width * share * (1 - share)), axes=(1, 2), norm="ortho") * self.amplitude
        return np.asarray(of_z[:, :SMOOTH, :SMOOTH].reshape(len(q), -1))


class Chain:
    """One state, and what is known of it."""

    def __init__(self, forward: Forward, z: Array) -> None:
        self.forward = forward
        self.set(z, forward.inside(z))

    def set(
        self,
        z: Array,
        inside: NDArray[np.bool_],
        coarse: Array | None = None,
        fine: Array | None = None,
    ) -> None:
        self.z, self.inside = z, inside
        self.coarse = self.forward.coarse(inside) if coarse is None else coarse
        self.fine = self.forward.fine(inside) if fine is None else fine


def smoothed(forward: Forward, data: Array, std: float, members: int, rounds: int, rng: np.random.Generator) -> Array:
    """Members ``(members, n, n)`` moved from draws of the prior to about the posterior (Emerick & Reynolds 2013)."""
    z = rng.standard_normal((members, forward.amplitude.size))
    for _ in range(rounds):
        y = np.stack([forward.coarse(forward.inside(one.reshape(forward.amplitude.shape))) for one in z])
        dz, dy = z - z.mean(0), y - y.mean(0)
        covariance = dy.T @ dy / (members - 1) + rounds * std**2 * np.eye(len(data))
        noisy = data + math.sqrt(rounds) * std * rng.standard_normal(y.shape)
        z = z + np.linalg.solve(covariance, (noisy - y).T).T @ (dy.T @ dz) / (members - 1)
    return z.reshape(members, *forward.amplitude.shape)


def split_rhat(draws: Array) -> Array:
    """Of ``(moves, chains, modes)``."""
    half = len(draws) // 2
    parts = np.concatenate([draws[:half], draws[half : 2 * half]], 1)
    within = parts.var(0, ddof=1).mean(0)
    return np.asarray(np.sqrt((half - 1) / half + parts.mean(0).var(0, ddof=1) / within))


def main(arguments: list[str] | None = None) -> None:
    """Write the reference; the module says how it is computed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=10)
    parser.add_argument("--anneal", type=int, default=400, help="moves of each kind with powers below 1")
    parser.add_argument("--members", type=int, default=250, help="of the ensemble in which a chain starts")
    parser.add_argument("--rounds", type=int, default=12, help="of the ensemble's smoother")
    parser.add_argument("--settle", type=int, default=1000, help="moves after them that are not kept")
    parser.add_argument("--moves", type=int, default=20000, help="kept ones, of each kind")
    parser.add_argument("--samples", type=int, default=800, help="that are written, at most")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--every", type=int, default=500, help="kept moves between two states of the file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    case = DarcyCase(n=options.n, noise=options.noise)
    forward, data, std = Forward(case), case.data.numpy(), case.std
    rng = np.random.default_rng(options.seed)
    n, m = case.n, options.chains
    lead = np.zeros((n, n), dtype=bool)
    lead[:LEADING, :LEADING] = True
    lead[0, 0] = False

    def misfit(y: Array) -> float:
        return float(((y - data) ** 2).sum()) / (2 * std**2)

    started = time.process_time()
    ensembles = [smoothed(forward, data, std, options.members, options.rounds, rng) for _ in range(m)]
    chains = [Chain(forward, ensemble[0]) for ensemble in ensembles]
    seen = [forward.slopes(chain.z) / std for chain in chains]

    def informed() -> tuple[Array, Array]:
        """Directions ``(smooth modes, r)``, and their stds given the data."""
        _, d, v = np.linalg.svd(np.concatenate(seen) / math.sqrt(len(seen)), full_matrices=False)
        r = int((d[:INFORMED] ** 2 > 0.3).sum())
        return v[:r].T, 1 / np.sqrt(1 + d[:r] ** 2)

    axes, root = informed()
    fit = " ".join(f"{misfit(chain.fine):.0f}" for chain in chains)
    print(f"start: misfits {fit}, {time.process_time() - started:.0f} CPU s", flush=True)
    steps, tried, first, taken = [0.1, 0.15, 0.1], np.zeros(3), np.zeros(3), np.zeros(3)
    kept, patterns = [], []
    sums, squares, count = np.zeros((m, n, n)), np.zeros((m, n, n)), 0
    before = options.anneal + options.settle
    relearn = [options.anneal + round(options.settle * share) for share in (0.0, 0.2, 0.4, 0.6)]
    for move in range(before + options.moves):
        power = min(1.0, 0.1 ** (1 - 1.2 * move / max(1, options.anneal)))
        small = 0.5 if move < options.anneal else 0.15
        settling = move < before
        if move in relearn:
            seen += [forward.slopes(chain.z) / std for chain in chains]
            seen = seen[len(seen) // 3 :]  # not of the start
            axes, root = informed()
        for kind in (0, 1, 2):
            for chain in chains:
                z = chain.z.copy()
                shrink = 10 ** (-2 * rng.random()) if rng.random() < small else 1.0
                s = shrink * steps[kind]
                part = chain.z[:SMOOTH, :SMOOTH].reshape(-1)
                if kind == 0:
                    shift = axes @ (s * root * rng.standard_normal(len(root)))
                    z[:SMOOTH, :SMOOTH] += shift.reshape(z[:SMOOTH, :SMOOTH].shape)
                    prior = -float(part @ shift) - 0.5 * float(shift @ shift)
                elif kind == 2:  # their common factor, of which the sign of the field knows little
                    k = int(rng.choice([4, 8, 16]))
                    grown = s * rng.standard_normal()
                    size = float((z[:k, :k] ** 2).sum() - z[0, 0] ** 2)
                    z[:k, :k] *= math.exp(grown)
                    z[0, 0] = chain.z[0, 0]
                    prior = 0.5 * size * (1 - math.exp(2 * grown)) + (k * k - 1) * grown
                else:
                    z = math.sqrt(1 - s * s) * z + s * rng.standard_normal((n, n))
                    new_part = z[:SMOOTH, :SMOOTH].reshape(-1)
                    back_shift = axes @ (axes.T @ (part - new_part))  # these directions stay
                    z[:SMOOTH, :SMOOTH] += back_shift.reshape(z[:SMOOTH, :SMOOTH].shape)
                    prior = 0.0
                inside = forward.inside(z)
                tried[kind] += 1
                coarse = forward.coarse(inside)
                here = misfit(chain.fine)
                there = misfit(coarse + chain.fine - chain.coarse)
                forth = min(0.0, power * (here - there) + prior)
                rate = 0.0
                if math.log(rng.random()) < forth:
                    first[kind] += 1
                    fine = forward.fine(inside)
                    new = misfit(fine)
                    back = min(0.0, power * (new - misfit(chain.coarse + fine - coarse)) - prior)
                    rate = math.exp(min(0.0, power * (here - new) + prior + back - forth))
                    if rng.random() < rate:
                        chain.set(z, inside, coarse, fine)
                        taken[kind] += 1
                        rate = 1.0
                if settling and shrink == 1.0:
                    gain = 0.02 if move < options.anneal else 0.005
                    steps[kind] = min(0.99, steps[kind] * math.exp(gain * ((rate > 0) - 0.25)))
        leading = np.stack([chain.z[lead] for chain in chains])
        if not settling:
            kept.append(leading.astype(np.float32))
            a = np.stack([chain.inside for chain in chains])
            sums, squares, count = sums + a, squares + a, count + 1
            if len(kept) % 25 == 0:
                patterns.append(a)
        if (move + 1) % 250 == 0:
            told = " ".join(f"{b / c:.2f}/{t / c:.2f}" for t, b, c in zip(taken, first, tried, strict=True))
            fit = " ".join(f"{misfit(chain.fine):.0f}" for chain in chains)
            seconds = time.process_time() - started
            print(
                f"{move + 1}: power {power:.2f}, {len(root)} informed, steps {' '.join(f'{v:.3f}' for v in steps)}, passed the first stage/accepted "
                f"{told}, misfits {fit}, {seconds:.0f} CPU s",
                flush=True,
            )
            tried[:], first[:], taken[:] = 0, 0, 0
        if not settling and len(kept) % options.every == 0:
            rhat = split_rhat(np.stack(kept).astype(np.float64))
            each = LOW + (HIGH - LOW) * sums / count
            mean = each.mean(0)
            share = (sums / count).mean(0)
            spread = (HIGH - LOW) * np.sqrt(share * (1 - share))
            # A cell has two values: its std follows from its share, and so does the error of it.
            error = each.std(0, ddof=1) / math.sqrt(m)
            slope = np.abs(1 - 2 * share) / (2 * np.sqrt(np.maximum(share * (1 - share), 1e-6)))
            mean_error = float(np.linalg.norm(error) / np.linalg.norm(mean))
            std_error = float(np.linalg.norm(error * slope) / np.linalg.norm(spread))
            rows = np.concatenate(patterns[:: max(1, math.ceil(len(patterns) * m / options.samples))])
            write(
                options.out,
                Reference(
                    mean=torch.from_numpy(mean),
                    std=torch.from_numpy(spread),
                    samples=LOW + (HIGH - LOW) * torch.from_numpy(rows).double(),
                    chains=m,
                    rhat=float(rhat.max()),
                    mean_error=mean_error,
                    std_error=std_error,
                ),
                case.data,
            )
            print(
                f"{len(kept)} moves: largest R-hat {rhat.max():.4f}, median {np.median(rhat):.4f}; relative standard error "
                f"of the mean {mean_error:.4f}, of the std {std_error:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
