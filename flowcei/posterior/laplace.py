"""The posterior near one geometry: as narrow as the noise and the derivative of the momenta make it.

Laplace's approximation for a flat prior: the covariance is the inverse of S'S, with S the derivative
of the momenta in units of the noise. Where two solutions meet (a fold) S is singular; there the width
is where the momenta themselves have changed by one deviation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.likelihood import nonfinite_allowed

if TYPE_CHECKING:
    from flowcei.experiment.likelihood import Likelihood
    from flowcei.posterior.arrays import Floats, Rows

_RANK = 1e-12  # of the largest singular value: below lies rounding, not information
# At one deviation of a normal posterior the momenta have changed by 1, squared. Where it is above 4
# the approximation is too wide, and a width is sought at which it is between 1 and 1.5.
_TOO_HIGH, _HIGH = 4.0, 1.5
_SHORTENINGS, _CORRECTIONS = 40, 4


def momentum_slope(likelihood: Likelihood, positions: Floats, event: Rows) -> Floats:
    """Derivatives (M, 3N-3, 3N) of whitened momenta over the noise by positions (M, N, 3) of events (M,)."""
    slope = likelihood.slope(positions, event, accuracy=1e-8)
    return np.asarray(slope * (likelihood.size / likelihood.noise)[event, None, None])


def residuals(likelihood: Likelihood, positions: Floats, event: Rows) -> Floats:
    """Whitened residuals over the noise, (M, K, 3N-3), of K geometries (M, K, N, 3) of each event of (M,)."""
    rows = np.repeat(event, positions.shape[1])
    residual = likelihood.residual(positions.reshape(-1, *positions.shape[2:]), rows)
    return (residual * (likelihood.size / likelihood.noise)[rows, None]).reshape(*positions.shape[:2], -1)


@nonfinite_allowed
def local_covariance(
    likelihood: Likelihood, positions: Floats, event: Rows, *, bounded: bool = False
) -> tuple[Floats, Floats]:
    """Covariance (M, 3N, 3N), bohr^2, of geometries (M, N, 3) of events (M,), and the log of its volume (M,).

    Of positions with the centre of mass at 0; the volume is that of the square root of the covariance of the
    3N - 3 relative positions. NaN and -inf where a geometry cannot be simulated, infinite where momenta leave
    a direction open. `bounded` shortens an axis to where the momenta change, near a fold where the derivative
    vanishes.
    """
    ions = positions.shape[1]
    slope = momentum_slope(likelihood, positions, event)[:, :, 3:]
    bad = ~np.isfinite(slope).all(axis=(1, 2))
    slope[bad] = 0.0
    change, size, axes = np.linalg.svd(slope)
    scale = np.where(size > _RANK * size[:, :1], 1.0 / size, np.inf)
    if bounded:
        turned = np.swapaxes(change, 1, 2)[~bad]
        scale[~bad] = _bounded(likelihood, positions[~bad], event[~bad], axes[~bad], turned, scale[~bad])
    log_volume = np.log(scale).sum(axis=1)
    shift = np.eye(ions) - likelihood.masses / likelihood.masses.sum()
    relative = np.kron(shift[:, 1:], np.eye(3))
    closed = np.asarray(np.isfinite(scale).all(axis=1))
    factor = np.matmul(relative, np.swapaxes(axes, 1, 2)) * np.where(closed[:, None], scale, 1.0)[:, None]
    covariance = np.matmul(factor, np.swapaxes(factor, 1, 2))
    covariance[~closed] = np.inf
    covariance[bad] = np.nan
    return covariance, np.where(bad, -np.inf, log_volume)


def _bounded(
    likelihood: Likelihood, positions: Floats, event: Rows, axes: Floats, change: Floats, scale: Floats
) -> Floats:
    """Lengths of axes (M, D), bohr, shortened to where the momenta change by about one deviation.

    Rows of `axes` (M, D, D) are directions of positions relative to the first ion, those of `change` of the
    momenta along them; `scale` (M, D) is what the derivative says, infinite where it vanishes.
    """
    start = residuals(likelihood, positions[:, None], event)
    size = np.abs(positions - positions[:, :1]).max(axis=(1, 2))
    first = np.minimum(scale, size[:, None])  # a width beyond the molecule itself is not sought
    stiffer = np.tril(np.ones(scale.shape[1:] * 2), -1)  # axes of rising length: those before one's own

    def changed(width: Floats) -> Floats:
        """Squares of the changes of momenta (M, D) at steps along the axes."""
        step = width[:, :, None] * axes
        for _ in range(_CORRECTIONS):
            x = np.concatenate([np.zeros((*step.shape[:2], 3)), step], axis=2)
            ends = positions[:, None] + x.reshape(*step.shape[:2], -1, 3)
            parts = np.einsum("mkr,mjr->mkj", residuals(likelihood, ends, event) - start, change)
            # A valley may be bent: what the stiffer axes can compensate does not count for this one.
            step -= np.einsum("mkj,mj,mjd->mkd", parts * stiffer, scale, axes)
        return np.einsum("mkk->mk", parts) ** 2

    widths = []
    for sign in (1.0, -1.0):
        width, limit = sign * first, np.full(scale.shape, _TOO_HIGH)
        for _ in range(_SHORTENINGS):
            above = changed(width)
            high = ~(above <= limit)
            if not high.any():
                break
            # Of what rises as the fourth power, as at a fold, exact; of what rises as the second, a step.
            width[high] *= np.where(np.isfinite(above), above, 16.0)[high].clip(_HIGH) ** -0.25
            limit[high] = _HIGH
        widths.append(np.abs(width))
    mean = 0.5 * (widths[0] + widths[1])
    return np.where(mean < first, mean, scale)
