"""Geometries of events that vibrate about an equilibrium: the most probable ones, and draws of all that are.

A geometry is R (x_eq + B z): z are normal coordinates over their deviations under the prior, R its rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import chdtri

from flowcei.physics.explosion import followed_momenta
from flowcei.physics.priors.orders import nearest_rotations

if TYPE_CHECKING:
    from flowcei.physics.priors import NormalModesPrior
    from flowcei.posterior.arrays import Bools, Floats, Reals, Rows
    from flowcei.posterior.samples import PosteriorSamples

_STEPS, _SHORTENED, _CLOSE = 15, 6, 1e-3  # to the most probable geometry; nats that end a search
_RESTARTS, _IMPROBABLE = 8, 1e-2  # other searches, and the chance of a geometry that begins them
_OPEN = 1e-6  # inverse variance of a rotation that momenta leave open
_OF_SLOPES = 1e-4  # accuracy of derivatives, far below what curvature makes of them
# Steps before the first draw of a chain; how long a step is, of what is drawn anew: long ones lead on where
# posteriors are nearly normal, short ones where they are not.
_BURN_IN = 40
_LENGTHS = 0.3, 1.0
# Of the t distribution that steps leave as it is. Posteriors of events that lack ions have longer tails than
# a normal one; steps that leave that as it is come there 1,000 steps late: widths are 1.4 % too small then.
_FREEDOM = 2.0
_NEVER = -1e300  # log of a posterior that is 0


class Vibrating:
    """Events whose most probable geometries are sought together, under a law of normal coordinates."""

    def __init__(
        self, blank: PosteriorSamples, prior: NormalModesPrior, mean: Floats, precision: Floats
    ) -> None:
        self.blank, self.prior, self.mean, self.precision = blank, prior, mean, precision
        self.likelihood = blank.likelihood
        self.accuracy = max(self.likelihood.accuracy, 1e-6)
        self.unit = (self.likelihood.size / self.likelihood.noise)[:, None]
        self.rows, self.k = np.arange(len(blank)), prior.mode_count

    def of(self, rows: Bools | Rows) -> Vibrating:
        """Some of the events."""
        return Vibrating(self.blank[rows], self.prior, self.mean, self.precision)

    def best(self, start: Floats | None, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        """Coordinates (E, K), rotations (E, 3, 3) and minus log posteriors (E,), those above 0.

        Searches begin at given coordinates or at the law's mean; where that ends at an improbable geometry,
        in draws of the law.
        """
        z, rotation, height = self.search(
            np.tile(self.mean, (len(self.rows), 1)) if start is None else start.copy()
        )
        root = np.linalg.cholesky(np.linalg.inv(self.precision))
        for _ in range(_RESTARTS):
            bad = np.flatnonzero(height > self.bound(_IMPROBABLE))
            if not len(bad):
                break
            again = self.of(bad)
            other = again.search(self.mean + rng.standard_normal((len(bad), self.k)) @ root.T)
            better = other[2] < height[bad]
            for own, new in zip((z, rotation, height), other, strict=True):
                own[bad[better]] = new[better]
        return z, rotation, height

    def bound(self, p: float) -> Floats:
        """Height (E,) of the most probable geometry that is exceeded with a chance."""
        lost = np.zeros((len(self.rows), 1)) if self.blank.lost is None else self.blank.lost
        return np.asarray(0.5 * chdtri(3.0 * (len(self.blank.molecule) - lost.sum(axis=1)) - 3.0, p))

    def search(self, z: Floats) -> tuple[Floats, Floats, Floats]:
        """Where Gauss-Newton leads from coordinates (E, K): these, rotations, and heights (E,)."""
        rotation, rows = self._first_rotation(z), self.rows
        height, misfit = self._height(z, rotation, rows)
        for _ in range(_STEPS):
            slope, inverse = self._slope(z[rows], rotation[rows], rows)
            inverse[:, : self.k, : self.k] += self.precision
            gradient = np.einsum("edk,ed->ek", slope, misfit[rows])
            gradient[:, : self.k] += (z[rows] - self.mean) @ self.precision
            step = -np.linalg.solve(inverse, gradient[..., None])[..., 0]
            before, short = height.copy(), np.arange(len(rows))
            for _ in range(_SHORTENED):
                own, s = rows[short], step[short]
                turned = Rotation.from_rotvec(s[:, self.k :]).as_matrix() @ rotation[own]
                moved = z[own] + s[:, : self.k]
                lower, other = self._height(moved, turned, own)
                better = lower < height[own]
                to = own[better]
                z[to], rotation[to], height[to] = moved[better], turned[better], lower[better]
                misfit[to] = other[better]
                short, step = short[~better], 0.3 * step
                if not len(short):
                    break
            rows = rows[(before - height)[rows] > _CLOSE]
            if not len(rows):
                break
        return z, rotation, height

    def told(self, z: Floats, rotation: Floats) -> tuple[Floats, Floats]:
        """What events tell of coordinates near some, whatever their rotation: h (E, K) and F (E, K, K)."""
        slope, inverse = self._slope(z, rotation, self.rows)
        gradient = np.einsum("edk,ed->ek", slope, self._height(z, rotation, self.rows)[1])
        k = self.k
        gain = np.linalg.solve(inverse[:, k:, k:], inverse[:, k:, :k])
        information = inverse[:, :k, :k] - inverse[:, :k, k:] @ gain
        pull = gradient[:, :k] - np.einsum("eba,eb->ea", gain, gradient[:, k:])
        return np.einsum("ekl,el->ek", information, z) - pull, information

    def draws(
        self,
        z: Floats,
        rotation: Floats,
        count: int,
        rng: np.random.Generator,
        *,
        apart: int,
        start: Floats | None = None,
    ) -> tuple[Reals, Floats]:
        """Coordinates (E, count, K) of geometries drawn by the exact posterior of each event, and the last.

        By Metropolis steps, so many `apart`, that leave a t distribution about most probable geometries as it
        is (K. Kamatani, Bernoulli 24, 3711 (2018)): what the posterior has otherwise decides which are
        accepted. The last (E, K + 3), over coordinates and rotation given, may be where others `start`.
        """
        inverse = self._slope(z, rotation, self.rows)[1]
        inverse[:, : self.k, : self.k] += self.precision
        inverse[~np.isfinite(inverse).all(axis=(1, 2))] = np.eye(inverse.shape[1])
        upper = np.swapaxes(np.linalg.cholesky(inverse), 1, 2)
        root, freedom = np.linalg.inv(upper), _FREEDOM + inverse.shape[1]
        if start is None:
            u, burn_in = rng.standard_normal(root.shape[:2]), _BURN_IN
        else:
            u, burn_in = np.matmul(upper, start[..., None])[..., 0], 0
        at, height = self._weighed(u, root, z, rotation)
        out = np.empty((len(z), count, self.k), np.float32)
        for step in range(-burn_in, count * apart):
            length = rng.uniform(*_LENGTHS, (len(z), 1))
            size = np.sqrt((_FREEDOM + (u**2).sum(axis=1)) / rng.chisquare(freedom, len(z)))
            v = np.sqrt(1.0 - length**2) * u + length * size[:, None] * rng.standard_normal(u.shape)
            to, other = self._weighed(v, root, z, rotation)
            moved = rng.random(len(z)) < np.exp(np.minimum(other - height, 0.0))
            u[moved], at[moved], height[moved] = v[moved], to[moved], other[moved]
            if step >= 0 and step % apart == apart - 1:
                out[:, step // apart] = at
        return out, np.matmul(root, u[..., None])[..., 0]

    def _weighed(self, u: Floats, root: Floats, z: Floats, rotation: Floats) -> tuple[Floats, Floats]:
        """Coordinates (E, K) at u (E, K + 3) of the t distribution, and logs of posterior over it."""
        away = np.matmul(root, u[..., None])[..., 0]
        at, turn = z + away[:, : self.k], away[:, self.k :]
        turned = Rotation.from_rotvec(turn).as_matrix() @ rotation
        x = self.prior.at(at) @ np.swapaxes(turned, 1, 2)
        height = self.likelihood.log_prob(x[:, None], threads=1)[:, 0]
        height += 0.5 * (_FREEDOM + u.shape[1]) * np.log(_FREEDOM + (u**2).sum(axis=1))
        # All rotations are as likely, but not all vectors that stand for them.
        height += 2.0 * np.log(np.abs(np.sinc(np.linalg.norm(turn, axis=1) / (2.0 * np.pi))))
        off = at - self.mean
        height -= 0.5 * ((off @ self.precision) * off).sum(axis=1)
        return at, np.maximum(height, _NEVER)

    def _first_rotation(self, z: Floats) -> Floats:
        """Rotations (E, 3, 3) of geometries whose momenta are nearest to those that were detected."""
        ions = self.blank.molecule
        exact = followed_momenta(self.prior.at(z), ions.masses, ions.charges, forward=self.likelihood.forward)
        there = np.ones(self.blank.momenta.shape[:2]) if self.blank.lost is None else ~self.blank.lost
        momenta = self.blank.momenta * there[..., None]
        return nearest_rotations(np.swapaxes(momenta, 1, 2) @ exact.astype(np.float64))

    def _height(self, z: Floats, rotation: Floats, rows: Rows) -> tuple[Floats, Floats]:
        """Minus log posteriors (E,) of a geometry of each event, but for a constant, and misfits (E, D)."""
        x = self.prior.at(z) @ np.swapaxes(rotation, 1, 2)
        misfit = self.likelihood.residual(x, rows, accuracy=self.accuracy) * self.unit[rows]
        away = z - self.mean
        height = 0.5 * (misfit**2).sum(axis=1) + 0.5 * ((away @ self.precision) * away).sum(axis=1)
        return np.where(np.isfinite(height), height, np.inf), misfit

    def _slope(self, z: Floats, rotation: Floats, rows: Rows) -> tuple[Floats, Floats]:
        """Derivatives (E, D, K + 3) of the misfit by coordinates and rotation, and their information."""
        x = self.prior.at(z) @ np.swapaxes(rotation, 1, 2)
        by_position = self.likelihood.slope(x, rows, accuracy=_OF_SLOPES) * self.unit[rows, :, None]
        modes = self.prior.at(np.eye(self.k)) - self.prior.equilibrium
        by_z = np.einsum("kna,eba->enbk", modes, rotation).reshape(len(z), -1, self.k)
        by_turn = np.stack([np.cross(axis, x) for axis in np.eye(3)], axis=-1).reshape(len(z), -1, 3)
        slope = by_position @ np.concatenate([by_z, by_turn], axis=2)
        return slope, np.swapaxes(slope, 1, 2) @ slope + np.diag([0.0] * self.k + [_OPEN] * 3)
