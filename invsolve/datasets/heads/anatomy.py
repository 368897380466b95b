"""A random head as a function of position: which tissue is where, in millimetres.

x goes from left to right, y from the back to the front, z up; the origin lies between the hemispheres, about where the
third ventricle is. Every surface is a signed distance that is only approximately one; edges are soft over half a
millimetre, the rest of the partial volume comes from the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.datasets.continuum import uniforms
from invsolve.datasets.heads.fields import PERIOD, lattice, rotation, seen

TISSUES = ("air", "fat", "muscle", "bone", "marrow", "csf", "grey", "white", "deep grey", "vessel", "lesion")
_SOFT = 0.5  # mm, half the width of an edge
_NUMBERS = 96


@final
@dataclass(frozen=True, eq=False)
class Head:
    """One random head; everything that varies is drawn from two integers.

    Parameters
    ----------
    seed : int
        Of a series of heads.
    number : int
        Of the head in it, >= 0.
    """

    seed: int
    number: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_u", uniforms("heads anatomy", self.seed, self.number, (_NUMBERS,)).float())

    def tissues(self, points: Tensor) -> Tensor:
        """Fractions of the tissues at some points.

        Parameters
        ----------
        points : Tensor, shape (n, 3)
            In mm: left to right, back to front, upwards.

        Returns
        -------
        Tensor, shape (len(TISSUES), n)
            >= 0, with sum 1.
        """
        draw = _Numbers(self._u)  # type: ignore[attr-defined]
        found = _Mixture(len(points), points)
        size = torch.tensor([draw(0.93, 1.07), draw(0.92, 1.08), draw(0.92, 1.08)], dtype=torch.float32, device="cpu")
        views = [(rotation(self._u[i : i + 3]), PERIOD * self._u[i + 3 : i + 6]) for i in (60, 66, 72, 78, 84, 90)]  # type: ignore[attr-defined]

        bend = lattice("bend", 90.0, 0.3)
        warp = torch.stack([seen(bend, points, *view)[0] for view in views[:3]], 1)
        p = points / size + draw(0.8, 3.0) * warp
        waves = [seen(lattice("ripple", 28.0, 0.4), points, *views[3])[0]]
        x, y, z = p.unbind(1)

        hull = self._outside(found, draw, x, y, z, waves[0])
        self._brain(found, draw, p, views, hull)
        return found.parts

    def _outside(self, found: _Mixture, draw: _Numbers, x: Tensor, y: Tensor, z: Tensor, ripple: Tensor) -> Tensor:
        """Scalp, skull and what the brain floats in; the distance into the brain's hull."""
        gap, inner, diploe, outer = draw(1.5, 4.5), draw(1.0, 1.8), draw(1.5, 5.0), draw(1.0, 1.8)
        fat, skin = draw(1.5, 6.0), draw(1.5, 2.5)
        # The vault, and below it the face and the neck, of which only the outline is like a head's.
        vault = _ball(x, y, z, (0, 0, 12), (68, 86, 66), 2.3)
        face = _ball(x, y, z, (0, 32, -62), (52, 52, 60), 2.6)
        neck = _box(x, y, z, (0, -22, -110), (42, 48, 70))
        below = torch.maximum(face, neck)
        hull = _join(vault, below - 14, 12.0)
        skull = _join(vault, _ball(x, y, z, (0, 30, -48), (42, 46, 34), 2.5) - 12, 8.0)
        t = gap + inner + diploe + outer
        found.add("muscle", hull + t + fat + skin)
        found.add("fat", torch.minimum(hull + t + fat + 0.6 * ripple, -(hull + t + 0.35 * ripple)))
        inside = torch.minimum(below + 10, -(vault + t))
        found.add("fat", torch.minimum(inside, ripple * 6 + 3 * torch.sin(z / 9)))
        found.add("bone", skull + t + 0.3 * ripple)
        found.add("marrow", torch.minimum(skull + gap + inner + diploe, -(skull + gap + inner)) + 0.4 * ripple)
        found.add("csf", vault + gap)
        for side in (-1, 1):
            found.add("fat", _ball(x, y, z, (32 * side, 62, -26), (17, 22, 16)))
            found.add("csf", _ball(x, y, z, (32 * side, 70, -26), (12, 12, 12)))
        found.add("air", _ball(x, y, z, (0, 66, -48), (12, 18, 18)))
        return vault

    def _brain(
        self, found: _Mixture, draw: _Numbers, p: Tensor, views: list[tuple[Tensor, Tensor]], hull: Tensor
    ) -> None:
        x, y, z = p.unbind(1)
        side, down = x.abs(), draw(-3.0, 3.0)
        thick, width = draw(2.5, 4.0), draw(0.3, 1.3)
        # Stem and cerebellum first: the cerebrum lies on them.
        end = draw(45.0, 80.0)
        radius = draw(9.0, 13.0) - 0.05 * (z + 20).clamp_max(0).abs()
        stem = torch.stack([_tube(x, y + 0.15 * z, radius, -18.0), z + end, 8 - z]).amin(0)
        found.add("csf", torch.minimum(stem + draw(2.0, 5.0), -2 - z))
        found.add("white", stem, share=0.8, rest="grey")
        self._cerebellum(found, draw, p, views)

        # The base of the cerebrum: flat under the frontal lobes, low under the temporal ones, the tentorium behind.
        def rise(v: Tensor, width: float) -> Tensor:
            return torch.sigmoid(v / width)

        temporal = rise(side - draw(17.0, 23.0), 2.5) * rise(y + 42, 4.0) * rise(draw(34.0, 42.0) - y, 3.0)
        base = z + 15 + draw(24.0, 31.0) * temporal - 10 * rise(-y - 40, 8.0) * rise(34 - side, 8.0)
        callosum = 19.0 + down + draw(-2.0, 3.0) - 0.004 * (y - 2) ** 2
        gap = side - draw(0.3, 1.2) - 0.5 * torch.sin(y / 11 + 2 * draw(0.0, 3.0))
        open_ends = torch.minimum((z - callosum), torch.full_like(z, 1.0)).maximum((y.abs() - 50) / 2)
        medial = torch.where(open_ends > 0, gap, (gap.clamp_min(0) ** 2 + open_ends.clamp_max(0) ** 2).sqrt() + 0.3)
        surface = torch.minimum(hull, 0.9 * base)
        depth = torch.minimum(surface, medial)

        # Folds: sheets where a field is zero. The field is that of the surface that the hemisphere has when unfolded
        # about its centre, so that the sheets are radial, and mixed with position, so that they are not straight.
        centre = torch.tensor([30.0, -4.0, 8.0], dtype=torch.float32, device="cpu")
        q = torch.stack([side, y, z], 1) - centre
        reach = torch.tensor([38.0, 84.0, 62.0], dtype=torch.float32, device="cpu")
        gauge = (q.abs() / reach).pow(2.4).sum(1).pow(1 / 2.4).clamp_min(0.08)
        onto = q / gauge[:, None] + centre
        onto = torch.cat([onto[:, :1] * x.sign()[:, None], onto[:, 1:]], 1)
        mix = draw(0.2, 0.5)
        sheet = (1 - mix) * onto + mix * p
        shrink = mix + (1 - mix) * gauge.clamp(0.3, 1.0)
        deepest, pial = draw(13.0, 23.0), depth
        reach = seen(lattice("reach", 60.0, 0.3), sheet, *views[5])[0]
        waves = ((26.0, 30.0, 35.0), (15.0, 18.0, 21.0))
        for pick, share, open_, view in ((waves[0], 1.0, width, views[3]), (waves[1], 0.55, 0.6 * width, views[4])):
            wave = pick[min(2, int(draw(0.0, 3.0)))]
            f, slope = seen(lattice("folds", wave, 0.25), sheet, *view)
            low = share * deepest * (1 + 0.5 * reach).clamp(0.1, 1.7)
            along = f.abs() / slope.clamp_min(0.6 / wave) * shrink
            taper = (1 - depth / low.clamp_min(1.0)).clamp(0.0, 1.0) + 2.2 * torch.exp(-depth.clamp_min(0) / 1.8)
            pial = torch.minimum(pial, (along**2 + (depth - low).clamp_min(0.0) ** 2).sqrt() - open_ * (0.25 + taper))
        # The lateral fissure: a sheet between temporal and frontal lobe, down to the insula.
        level = z + 4 - 0.22 * y + 2.5 * torch.sin(y / 15 + side / 9)
        inward = (draw(32.0, 38.0) - side).clamp_min(0)
        ends = (y - 34).clamp_min(0) + (-36 - y).clamp_min(0)
        pial = torch.minimum(pial, (level**2 + inward**2 + ends**2).sqrt() - draw(0.4, 2.2))
        insula = ((side - draw(33.0, 38.0)) ** 2 + ((level.abs() - draw(8.0, 14.0)).clamp_min(0)) ** 2 + ends**2).sqrt()
        pial = torch.minimum(pial, insula - draw(0.2, 0.9))
        found.add("grey", pial)
        found.add("white", pial - thick)
        found.add("white", _ball(x, y, z, (0, -4, 13 + down), (24, 34, 8)))
        found.add("white", _ball(x, y, z, (0, -10, -6), (22, 22, 16)))
        self._deep(found, draw, x, y, z - down)

    def _cerebellum(self, found: _Mixture, draw: _Numbers, p: Tensor, views: list[tuple[Tensor, Tensor]]) -> None:
        x, y, z = p.unbind(1)
        body = _ball(x, y, z, (0, -52, -38), (50, 30, 24), 2.2)
        found.add("csf", body + draw(1.0, 3.0))
        f = seen(lattice("ripple", 28.0, 0.4), p, *views[4])[0]
        layers = torch.cos(2 * math.pi * ((body / 9.0) + (z + 0.4 * y) / draw(5.0, 7.0) + 0.5 * f))
        found.add("grey", body)
        found.add("csf", torch.minimum(body, torch.minimum(layers - 0.86, 9 - body)))
        found.add("white", torch.minimum(body - draw(6.0, 9.0) - 2.5 * f, 1.2 - 3.0 * layers.clamp_min(0) + 0 * body))
        found.add("white", torch.minimum(body - 4.0, -(layers + 0.45)))

    def _deep(self, found: _Mixture, draw: _Numbers, x: Tensor, y: Tensor, z: Tensor) -> None:
        """Nuclei, ventricles, vessels, lesions."""
        side = x.abs()
        for centre, half in (
            ((13, 14, 12), (5.5, 17, 8)),
            ((27, 4, 2), (6, 20, 12)),
            ((11, -14, 5), (9, 15, 9)),
            ((29, -18, -20), (6, 18, 5)),
            ((24, 8, -20), (9, 9, 8)),
        ):
            found.add("deep grey", _ball(side, y, z, centre, half))
        found.add("white", _ball(side, y, z, (20, 2, 0), (4, 12, 8)), share=0.6, rest="deep grey")
        large = draw(0.55, 1.6)
        lean = side - 0.35 * (z - 16)
        found.add("csf", _ball(lean, y, z, (8 + 2 * large, 0, 17), (6.5 * large, 36, 4.5 * large + 2)))
        found.add("csf", _ball(side, y, z, (24, -44, 10), (6 * large, 17, 8 * large)))
        found.add("csf", _ball(side, y, z, (34, -8, -19), (2.2 * large, 17, 2.5 * large)))
        found.add("white", torch.minimum(_slab(x, 1.0 + 0.6 * large), _ball(x, y, z, (0, 2, 14), (6, 30, 9))))
        found.add("csf", torch.minimum(_slab(x, draw(0.8, 2.8)), _ball(x, y, z, (0, -4, -2), (10, 14, 12))))
        found.add("csf", _ball(x, y, z, (0, -38, -32), (5 + 2 * large, 6, 8)))
        found.add("csf", _ball(x, y, z, (0, 8, -24), (draw(6.0, 16.0), 12, 6)))
        # Arteries at the base and veins along the midline, seen as dots and short lines.
        for centre in ((0, 6, -22), (14, 2, -20), (-14, 2, -20)):
            found.add("vessel", _ball(x, y, z, centre, (draw(1.2, 2.6), 6, 1.8)))
        found.add("vessel", _ball(x, y, z, (0, -60, 62), (2.5, 40, 2.5)))
        if draw(0.0, 1.0) < 0.35:
            for _ in range(3):
                where = (draw(-38.0, 38.0), draw(-45.0, 45.0), draw(0.0, 40.0))
                r = draw(1.5, 5.0) * (3.0 if draw(0.0, 1.0) < 0.1 else 1.0)
                found.add("lesion", _ball(x, y, z, where, (r, r * draw(0.7, 1.4), r * draw(0.7, 1.4))))


class _Numbers:
    """Uniform numbers one after another, so that no two parts share one."""

    def __init__(self, u: Tensor) -> None:
        self.values = iter(u.tolist())

    def __call__(self, low: float, high: float) -> float:
        return float(low + (high - low) * next(self.values))


class _Mixture:
    """Tissue fractions; what is added later lies on top."""

    def __init__(self, n: int, like: Tensor) -> None:
        self.parts = torch.zeros(len(TISSUES), n, dtype=like.dtype, device="cpu")
        self.parts[0] = 1.0

    def add(self, tissue: str, distance: Tensor, share: float = 1.0, rest: str = "") -> None:
        """Tissue where ``distance`` > 0, in mm; a ``share`` of it with another one for the ``rest``."""
        inside = torch.sigmoid(distance * (2 / _SOFT))
        self.parts *= 1 - inside
        self.parts[TISSUES.index(tissue)] += share * inside
        if rest:
            self.parts[TISSUES.index(rest)] += (1 - share) * inside


Three = tuple[float, float, float]


def _ball(x: Tensor, y: Tensor, z: Tensor, centre: Three, half: Three, power: float = 2.0) -> Tensor:
    """About the distance in mm to the rim of a (super)ellipsoid, positive inside."""
    scaled = [(v - c).abs() / h for v, c, h in zip((x, y, z), centre, half, strict=True)]
    gauge: Tensor = sum((s.pow(power) for s in scaled), torch.zeros_like(x)).pow(1 / power)
    distance: Tensor = (1 - gauge) * math.sqrt(min(half) * sum(half) / 3)
    return distance


def _box(x: Tensor, y: Tensor, z: Tensor, centre: Three, half: Three) -> Tensor:
    return torch.stack([h - (v - c).abs() for v, c, h in zip((x, y, z), centre, half, strict=True)]).amin(0)


def _tube(x: Tensor, y: Tensor, radius: Tensor, back: float) -> Tensor:
    return radius - ((x / 1.15) ** 2 + (y - back) ** 2).sqrt()


def _slab(x: Tensor, half: float) -> Tensor:
    return half - x.abs()


def _join(a: Tensor, b: Tensor, smooth: float) -> Tensor:
    """The union of two shapes, rounded where they meet."""
    h = (0.5 + 0.5 * (a - b) / smooth).clamp(0, 1)
    return b + (a - b) * h + smooth * h * (1 - h)
