"""Importance samples of CHBrClF about its likeliest geometries, for `bin/measure-isomers`."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, logsumexp

import flowcei

HALON = flowcei.Molecule.load("chbrclf")
_NEAR = 0.4  # bohr: most of a law lies so near to its mean


def relative(z: np.ndarray) -> np.ndarray:
    """Geometries (B, 5, 3) of positions (B, 12) relative to the first atom."""
    return np.pad(z.reshape(-1, 4, 3), ((0, 0), (1, 0), (0, 0)))


def exploded(z: np.ndarray) -> np.ndarray:
    """Momenta (B, 15)."""
    how = HALON.masses, HALON.charges
    return np.asarray(flowcei.asymptotic_momenta(relative(z), *how, accuracy=1e-6), np.float64).reshape(
        -1, 15
    )


def fitted(y: np.ndarray, start: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Likeliest positions (E, 12) near a geometry, roots of their covariances, and squares of misfits.

    By Levenberg and Marquardt, from the geometry turned to where its momenta are nearest to y (E, 5, 3), of
    noise sigma (E, 15); positions have a normal prior about it, of `_NEAR`.
    """
    count, edges = len(y), start[1:] - start[0]
    weight = y / sigma.reshape(y.shape) ** 2
    u, _, vt = np.linalg.svd(np.einsum("ki,ekj->eij", exploded(edges.ravel()[None]).reshape(5, 3), weight))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    z, y = np.einsum("ki,eij->ekj", edges, u @ vt).reshape(count, 12), y.reshape(count, 15)
    first, off, damping = z, (y - exploded(z)) / sigma, np.full(count, 1e3)
    height = (off**2).sum(axis=1)
    for _ in range(30):
        moved = exploded((z[:, None] + 1e-4 * np.eye(12)).reshape(-1, 12)).reshape(count, 12, 15)
        slope = (moved - (y - off * sigma)[:, None]) / 1e-4 / sigma[:, None]
        normal = slope @ np.swapaxes(slope, 1, 2)
        normal += np.eye(12) / _NEAR**2
        pull = np.einsum("eij,ej->ei", slope, off) - (z - first) / _NEAR**2
        step = np.linalg.solve(normal + damping[:, None, None] * np.eye(12), pull[..., None])[..., 0]
        new = z + step.clip(-0.3, 0.3)
        misfit = (y - exploded(new)) / sigma
        other = (misfit**2).sum(axis=1) + ((new - first) ** 2).sum(axis=1) / _NEAR**2
        better = other < height
        height = np.where(better, other, height)
        z, off = np.where(better[:, None], new, z), np.where(better[:, None], misfit, off)
        damping *= np.where(better, 0.2, 5.0)
    return z, np.linalg.cholesky(np.linalg.inv(normal)), height


def tempered(log_w: np.ndarray) -> np.ndarray:
    """Weights (E, n) that are less uneven, and wider than the posterior; at first by much."""
    w = np.empty_like(log_w)
    for power in (0.1, 0.2, 0.4, 0.6):
        sharper = np.exp(power * log_w)
        enough = sharper.sum(axis=1) ** 2 > 60.0 * (sharper**2).sum(axis=1)
        w = np.where(enough[:, None] | (power == 0.1), sharper, w)
    return w


def drawn(
    centre: np.ndarray, root: np.ndarray, share: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws (E, n, 12) of t distributions with shares (C, E), their log density, and which each is of."""
    events, freedom, logs = share.shape[1], 8.0, []
    chosen = (rng.random((events, count, 1)) > share.cumsum(axis=0).T[:, None]).sum(axis=2)
    t = rng.standard_normal((events, count, 12))
    t *= np.sqrt(freedom / rng.chisquare(freedom, (events, count, 1)))
    z = np.empty_like(t)
    for k in range(len(centre)):
        z = np.where((chosen == k)[..., None], centre[k][:, None] + t @ np.swapaxes(root[k], 1, 2), z)
    constant = gammaln(0.5 * (freedom + 12)) - gammaln(0.5 * freedom) - 6.0 * np.log(np.pi * freedom)
    for k in range(len(centre)):
        u = (z - centre[k][:, None]) @ np.swapaxes(np.linalg.inv(root[k]), 1, 2)
        volume = np.log(np.diagonal(root[k], axis1=1, axis2=2)).sum(axis=1)[:, None]
        kernel = -0.5 * (freedom + 12) * np.log1p((u**2).sum(axis=2) / freedom)
        logs.append(np.log(share[k])[:, None] + kernel - volume + constant)
    return z, logsumexp(logs, axis=0), chosen
