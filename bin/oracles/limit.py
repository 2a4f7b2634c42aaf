"""What momenta tell of a geometry at most, by importance sampling: no chains, no flows, no searches.

Of each event geometries of the prior are turned so that their momenta come nearest to what was detected.
Those that weigh most, by a power of their weights that leaves some hundred, are the centres of a kernel
density, which is drawn from and weighed in turn, until most of its draws count (population Monte Carlo: O.
Cappe et al., J. Comput. Graph. Stat. 13, 907 (2004)). Weights are exact: prior times likelihood over the
kernel density.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

import flowcei

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.physics.priors import GeometryPrior

    Floats = NDArray[np.float64]

_CENTRES = 300
_ROUNDS, _DRAWS = 6, 3000
_DOF = 8.0  # of the kernels, so that weights stay bounded
_SHORTER = 0.6  # kernels over the spread of their centres, by Silverman's rule in nine dimensions


class Bank:
    """Geometries of a prior (M, N, 3), bohr, and their momenta, with which every event begins."""

    def __init__(
        self, molecule: flowcei.Molecule, prior: GeometryPrior, count: int, rng: np.random.Generator
    ) -> None:
        self.molecule, self.prior, self.rng = molecule, prior, rng
        x = np.asarray(prior.sample(count, rng), np.float64)
        self.x = x - (molecule.masses / molecule.masses.sum() @ x)[:, None]
        self.p = self.momenta(self.x)

    def momenta(self, x: Floats) -> Floats:
        """Exact momenta of geometries (M, N, 3)."""
        ions = self.molecule.masses, self.molecule.charges
        return np.asarray(flowcei.asymptotic_momenta(x, *ions, accuracy=1e-6, threads=1), np.float64)

    def log_likelihood(self, p: Floats, measured: Floats, there: list[int], level: float) -> Floats:
        """Of a source at rest; the noise is `level` times the rms component of each geometry's momenta."""
        sigma = level * np.sqrt((p**2).mean(axis=(1, 2)))
        square = ((p[:, there] - measured) ** 2).sum(axis=(1, 2))
        return -0.5 * square / sigma**2 - 3 * len(there) * np.log(sigma)

    def _begun(self, measured: Floats, there: list[int], level: float) -> tuple[Floats, Floats]:
        """Geometries of the bank, turned to where their momenta are nearest, and log weights."""
        off = np.linalg.norm(self.p[:, there], axis=2) - np.linalg.norm(measured, axis=1)
        near = np.argsort((off**2).sum(axis=1))[:_DRAWS]
        x, p = self.x[near], self.p[near]
        u, _, vt = np.linalg.svd(np.einsum("ki,mkj->mij", measured, p[:, there]))
        u[:, :, 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))[:, None]
        turn = np.swapaxes(u @ vt, 1, 2)
        return x @ turn, self.log_likelihood(p @ turn, measured, there, level)

    def posterior(
        self, measured: Floats, there: list[int], level: float, draws: int
    ) -> tuple[Floats, Floats, float]:
        """Mean (N, 3), mean squared distance from it of each atom (N,), and effective draws."""
        n, rng = len(self.molecule), self.rng
        x, log_weight = self._begun(measured, there, level)
        for turn in range(_ROUNDS + 1):
            power = _power(log_weight)
            w = np.exp(power * (log_weight - log_weight.max()))
            w /= w.sum()
            points = (x[:, 1:] - x[:, :1]).reshape(len(x), -1)
            centre = w @ points
            root = np.linalg.cholesky((points - centre).T * w @ (points - centre) + 1e-12 * np.eye(3 * n - 3))
            chosen = np.linalg.solve(root, (points[rng.choice(len(x), _CENTRES, p=w)] - centre).T).T
            kernels = _Kernels(chosen, _SHORTER)
            count = draws if turn == _ROUNDS else _DRAWS
            z = kernels.draw(count, rng)
            x = np.pad(centre + z @ root.T, ((0, 0), (3, 0))).reshape(count, n, 3)
            x -= (self.molecule.masses / self.molecule.masses.sum() @ x)[:, None]
            like = self.log_likelihood(self.momenta(x), measured, there, level)
            log_weight = (
                like + self.prior.log_prob_unlabelled(x, self.molecule.identical) - kernels.log_density(z)
            )
        w = np.exp(log_weight - logsumexp(log_weight))
        mean = np.einsum("m,mij->ij", w, x)
        return mean, np.einsum("m,mi->i", w, ((x - mean) ** 2).sum(axis=2)), float(1.0 / (w**2).sum())


class _Kernels:
    """Equal t distributions of width h about centres (K, D)."""

    def __init__(self, centres: Floats, width: float) -> None:
        self.centres, self.width = centres, width

    def draw(self, count: int, rng: np.random.Generator) -> Floats:
        """Points (M, D)."""
        own = self.centres[rng.integers(len(self.centres), size=count)]
        tail = np.sqrt(_DOF / rng.chisquare(_DOF, (count, 1)))
        return own + self.width * tail * rng.standard_normal(own.shape)

    def log_density(self, points: Floats) -> Floats:
        """Log density (M,) of points (M, D), but for a constant."""
        half, out = 0.5 * (_DOF + points.shape[1]), np.empty(len(points))
        own = (self.centres**2).sum(axis=1)
        for rows in np.array_split(np.arange(len(points)), 1 + len(points) // 5000):
            z = points[rows]
            square = (z**2).sum(axis=1)[:, None] + own - 2.0 * z @ self.centres.T
            # A power of the mean of powers: sums of logarithms would take twice as long.
            out[rows] = np.log(
                ((1.0 + np.maximum(square, 0.0) / (_DOF * self.width**2)) ** -half).sum(axis=1)
            )
        return out


def _power(log_weight: Floats) -> float:
    """Largest power, at most 1, of weights that leaves half as many effective points as there are centres."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        w = np.exp(middle * (log_weight - log_weight.max()))
        low, high = (middle, high) if w.sum() ** 2 / (w**2).sum() > _CENTRES / 2 else (low, middle)
    return high
