"""What an ensemble of events can tell of its law: Fisher information of means, widths and shares.

Near its geometry x an event measures the coordinates z of a law as well as the momenta fix them: with the
information matrix F that is left of J' Sigma^-1 J (the information floor) where all that is no coordinate of
the law is unknown (orientation), or known by the prior alone. So the event is a draw of z + noise of
covariance F^-1, where z is normal with mean mu and covariance S. Of n such events, all numbers of the law
unknown,

    information of mu: sum_i G_i,   of S along A and B: sum_i tr(G_i A G_i B) / 2,   G = (S + F^-1)^-1.

Of one coordinate of width s that each event measures with variance v these are the errors sqrt((s^2 + v) / n)
of the mean, and (s^2 + v) / (s sqrt(2 n)) of the width. The bend of a straight angle is two coordinates of
mean 0 and one width. The share f of one of two known laws has the information n E[(p1 - p2)^2 / p^2],
p = f p1 + (1 - f) p2, where p1 and p2 are the densities of what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from flowcei.ensemble.laws import RAYLEIGH
from flowcei.evaluation.floor import weighted_slopes
from flowcei.physics.priors.orders import nearest_rotations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowcei.ensemble.coordinates import Chart
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel
    from flowcei.posterior.arrays import Bools, Floats

_STEP = 1e-4  # bohr, of derivatives of coordinates
_LEAST = 1e-9  # of the largest: an information that is none
_NOISES = 10  # measurements of each geometry, for a share
_QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])


def measured(
    chart: Chart, molecule: Molecule, x: Floats, whitening: Floats, forward: ForwardModel, draws: Floats
) -> Floats:
    """Information (E, K, K) of an event about the coordinates of a law.

    Args:
        chart: The K coordinates.
        molecule: Whose ions are measured.
        x: Geometries of the events, (E, N, 3), bohr, centre of mass 0.
        whitening: Of their momenta, (E, 3 or 1, N, N); rows of ions that were lost are 0.
        forward: Makes momenta.
        draws: Geometries of the prior, (M, N, 3), bohr, that say what is known of all else.
    """
    n, masses = len(molecule), molecule.masses
    # Orthonormal displacements without translation, which changes neither momenta nor coordinates.
    relative = np.kron(np.linalg.qr(np.eye(n) - 1.0 / n)[0][:, : n - 1], np.eye(3))
    slopes = weighted_slopes(molecule, x, whitening, forward) @ relative
    by_x = _derivatives(chart, x) @ relative
    known = np.empty((len(x), 0, 3 * n - 3))
    if by_x.shape[1] < 3 * n - 6:
        known = _known_shapes(draws, x, masses, molecule.equilibrium) @ relative
    of_all = _of_coordinates(np.concatenate([slopes, known], axis=1), by_x)
    return of_all - _of_coordinates(known, by_x) if known.shape[1] else of_all


def _derivatives(chart: Chart, x: Floats) -> Floats:
    """Derivatives (E, K, 3N) of coordinates by positions (E, N, 3)."""
    shifts = _STEP * np.eye(x[0].size).reshape(-1, 1, *x.shape[1:])
    ends = [chart.values((x + sign * shifts).reshape(-1, *x.shape[1:])) for sign in (1.0, -1.0)]
    slopes = (ends[0] - ends[1]).reshape(len(shifts), len(x), -1) / (2.0 * _STEP)
    return np.moveaxis(slopes, 0, 2)


def _known_shapes(draws: Floats, x: Floats, masses: Floats, equilibrium: Floats) -> Floats:
    """Roots (E, R, 3N) of what a prior knows of displacements of geometries (E, N, 3), but for rigid ones."""
    frame = equilibrium - masses / masses.sum() @ equilibrium
    own, turn = (_turned_to(frame, one, masses) for one in (draws, x))
    away = (own[0] - own[0].mean(axis=0)).reshape(len(draws), -1)
    values, axes = np.linalg.eigh(away.T @ away / len(draws))
    real = values > _LEAST * values[-1]
    root = (axes[:, real] / np.sqrt(values[real])).T
    at, rotation = turn
    shifts = [np.broadcast_to(axis, at.shape) for axis in np.eye(3)]
    moves = np.stack([*(np.cross(axis, at) for axis in np.eye(3)), *shifts], axis=-1).reshape(len(x), -1, 6)
    weighted = np.repeat(masses, 3)[:, None] * moves
    size = np.swapaxes(moves, 1, 2) @ weighted
    moved = moves @ np.linalg.pinv(size, rcond=_LEAST) @ np.swapaxes(weighted, 1, 2)
    to_frame = np.einsum("ij,eab->eiajb", np.eye(len(masses)), rotation).reshape(moved.shape)
    return root @ (np.eye(moved.shape[1]) - moved) @ to_frame


def _turned_to(frame: Floats, x: Floats, masses: Floats) -> tuple[Floats, Floats]:
    """Geometries (B, N, 3) in the frame of Eckart, and the rotations that bring them there."""
    x = x - np.einsum("i,bij->bj", masses / masses.sum(), x)[:, None]
    rotation = nearest_rotations(np.einsum("i,ia,bic->bac", masses, frame, x))
    return x @ np.swapaxes(rotation, 1, 2), rotation


def _of_coordinates(root: Floats, by_x: Floats) -> Floats:
    """Information (E, K, K) of root' root (E, D, D) on coordinates of slopes (E, K, D), all else unknown."""
    count = by_x.shape[1]
    others = np.swapaxes(np.linalg.svd(by_x)[2][:, count:], 1, 2)
    along, across = root @ np.linalg.pinv(by_x), root @ others
    along = along - across @ (np.linalg.pinv(across, rcond=_LEAST) @ along)
    return np.asarray(np.swapaxes(along, 1, 2) @ along)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The coordinates of a law, where each bend is two, over their width under the law."""

    source: np.ndarray  # which of the K coordinates each of the D is, (D,)
    scale: Floats  # widths, (D,)
    images: Floats  # what like ions and turns of bends do, (G, D, D)
    bends: Bools  # (K,)

    @classmethod
    def of(cls, chart: Chart, z: Floats) -> Coordinates:
        """Those of a chart and of draws z (M, K) of its law."""
        bends = chart.bends
        source = np.concatenate([np.arange(len(bends)), np.flatnonzero(bends)])
        second = np.arange(len(source)) >= len(bends)
        images = np.where(second[:, None] == second, chart.images[:, source[:, None], source], 0.0)
        turns = []
        for k in np.flatnonzero(bends):
            quarter, both = np.eye(len(source)), np.flatnonzero(source == k)
            quarter[np.ix_(both, both)] = _QUARTER
            turns.append([np.linalg.matrix_power(quarter, p) for p in range(4)])
        every = [
            np.linalg.multi_dot([*some, one, np.eye(len(source))])
            for one in images
            for some in product(*turns)
        ]
        scale = np.where(bends, np.sqrt((z**2).mean(axis=0) / 2.0), z.std(axis=0))[source]
        return cls(source, scale, np.array(every) / scale[:, None] * scale, bends)

    def points(self, z: Floats, angle: Floats) -> Floats:
        """Points (E, D) of coordinates (E, K) whose bends have directions (E, K), radians."""
        first, second = np.where(self.bends, z * np.cos(angle), z), z * np.sin(angle)
        return np.concatenate([first, second[:, self.bends]], axis=1) / self.scale

    def information(self, of_z: Floats, angle: Floats) -> Floats:
        """Information (E, D, D) of that on coordinates (E, K, K): of a bend alike in both directions."""
        cos, sin = np.where(self.bends, np.cos(angle), 1.0), np.sin(angle)[:, self.bends]
        count, first = of_z.shape[1], np.flatnonzero(self.bends)
        along = np.zeros((len(of_z), len(self.scale), count))
        along[:, np.arange(count), np.arange(count)] = cos
        across = np.zeros((len(of_z), len(self.scale), len(first)))
        second = count + np.arange(len(first))
        along[:, second, first] = sin
        across[:, first, np.arange(len(first))], across[:, second, np.arange(len(first))] = (
            -sin,
            cos[:, first],
        )
        own = np.einsum("ekk->ek", of_z)[:, None, first]
        out = along @ of_z @ np.swapaxes(along, 1, 2) + (across * own) @ np.swapaxes(across, 1, 2)
        return out * self.scale[:, None] * self.scale

    def law(self, points: Floats) -> tuple[Floats, Floats]:
        """Mean (D,) and covariance (D, D) of points (M, D), alike under all images."""
        mean, square = points.mean(axis=0), points.T @ points / len(points)
        mean, square = (self.images @ mean).mean(axis=0), self._alike(square)
        return mean, square - np.outer(mean, mean)

    def _alike(self, matrix: Floats) -> Floats:
        return np.asarray((self.images @ matrix @ np.swapaxes(self.images, 1, 2)).mean(axis=0))

    def blur(self, information: Floats, k: int) -> Floats:
        """Standard error (E,) of coordinate k by one event, in units of z."""
        values, axes = np.linalg.eigh(information)
        return np.asarray(np.sqrt((axes[:, k] ** 2 / values.clip(_LEAST)).sum(axis=1)) * self.scale[k])

    def errors(self, information: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        """Errors of means and widths, (K,) each, in units of z, of one event; of n over sqrt(n).

        Of events with an information (E, D, D) each, where z has a covariance (D, D). Of a straight angle
        those of the angle's mean and width. Infinite where nothing is told.
        """
        g = _total_precision(information, covariance)
        d = len(covariance)
        means = _basis(self.images.mean(axis=0).T)
        units = [np.eye(d)[[a]].T @ np.eye(d)[[b]] for a, b in combinations_with_replacement(range(d), 2)]
        ways = _basis(np.array([self._alike(one + one.T).ravel() for one in units]))
        flat = g.reshape(len(g), -1)
        fourth = (flat.T @ flat / len(g)).reshape(d, d, d, d)  # mean of G_ab G_cd
        by_pairs = np.einsum("jkli->ijkl", fourth).reshape(d * d, d * d) / 2.0
        mean = _errors(means, g.mean(axis=0))
        width = _errors(ways, by_pairs)[:: d + 1] / (2.0 * np.sqrt(np.diagonal(covariance)))
        mean, width = mean * self.scale, width * self.scale
        k = len(self.bends)
        return (
            np.where(self.bends, RAYLEIGH[0] * width[:k], mean[:k]),
            np.where(self.bends, RAYLEIGH[1], 1.0) * width[:k],
        )


def _total_precision(information: Floats, covariance: Floats) -> Floats:
    """(S + F^-1)^-1, (E, D, D), of information F (E, D, D), which may leave directions open."""
    root = np.linalg.cholesky(covariance)
    values, axes = np.linalg.eigh(root.T @ information @ root)
    values = values.clip(0.0)
    turned = np.linalg.inv(root).T @ axes
    return np.asarray((turned * (values / (1.0 + values))[:, None]) @ np.swapaxes(turned, 1, 2))


def _basis(rows: Floats) -> Floats:
    """Orthonormal basis (P, D) of the space of rows (B, D)."""
    _, size, axes = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(axes[size > _LEAST * max(float(size.max()), 1.0)])


def _errors(basis: Floats, information: Floats) -> Floats:
    """Standard errors (D,) of numbers that a basis (P, D) allows, of information (D, D) about all."""
    values, axes = np.linalg.eigh(basis @ information @ basis.T)
    turned = axes.T @ basis
    open_ = values <= _LEAST * values[-1]
    variance = (turned[~open_] ** 2 / values[~open_, None]).sum(axis=0)
    return np.where((turned[open_] ** 2).sum(axis=0) > _LEAST, np.inf, np.sqrt(variance))


def share_error(
    laws: Sequence[tuple[Floats, Floats]],
    points: Sequence[Floats],
    information: Sequence[Floats],
    share: float,
    rng: np.random.Generator,
) -> float:
    """Error of the share of the second of two laws by one event; of n over sqrt(n).

    Args:
        laws: Mean (D,) and covariance (D, D) of each.
        points: Draws of each, (M, D).
        information: Of these, (M, D, D).
        share: Of the second.
        rng: Of measurements.
    """
    total = 0.0
    for part, z, own in zip((1.0 - share, share), points, information, strict=True):
        values, axes = np.linalg.eigh(own)
        root = np.sqrt(values.clip(0.0))[..., None] * np.swapaxes(axes, 1, 2)
        noise = rng.standard_normal((*z.shape, _NOISES))
        logs = []
        for mean, covariance in laws:
            spread = np.eye(len(mean)) + root @ covariance @ np.swapaxes(root, 1, 2)
            away = root @ (z - mean)[..., None] + noise
            square = (away * np.linalg.solve(spread, away)).sum(axis=1)
            logs.append(-0.5 * (square + np.linalg.slogdet(spread)[1][:, None]))
        both = np.array(logs)
        log_p = logsumexp(both + np.log([[[1.0 - share]], [[share]]]), axis=0)
        ratio = np.exp(both - log_p)
        total += part * float(((ratio[1] - ratio[0]) ** 2).mean())
    return float(total**-0.5) if total > _LEAST else float("inf")
