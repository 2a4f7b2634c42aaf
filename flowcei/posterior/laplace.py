"""The posterior near one geometry: as narrow as the noise and the derivative of the momenta make it.

Laplace's approximation for a flat prior: the covariance is the inverse of S'S, with S the derivative
of the momenta in units of the noise. Where two solutions meet (a fold) S is singular and says
nothing; there the width is where the momenta themselves have changed by one deviation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.likelihood import nonfinite_allowed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.experiment.likelihood import Likelihood

_RANK = 1e-12  # of the largest singular value: below lies rounding, not information
# At one deviation of a normal posterior the momenta have changed by 1, squared. Where it is above 4
# the approximation is too wide, and a width is sought at which it is between 1 and 1.5.
_TOO_HIGH, _HIGH = 4.0, 1.5
_SHORTENINGS, _CORRECTIONS = 40, 4


@nonfinite_allowed
def momentum_slope(
    likelihood: Likelihood, positions: NDArray[np.float64], event: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the derivatives of whitened momenta in units of the noise by positions, (M, 3N-3, 3N).

    Args:
        likelihood: Of the events.
        positions: Geometries, (M, N, 3), bohr.
        event: Whose each is, (M,).

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1).likelihood
        >>> momentum_slope(known, e.positions, np.arange(2)).shape
        (2, 6, 9)
    """
    slope = likelihood.slope(positions, event, accuracy=1e-8)
    return np.asarray(slope * (likelihood.size / likelihood.noise)[event, None, None])


@nonfinite_allowed
def misfit(
    likelihood: Likelihood, positions: NDArray[np.float64], event: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return chi squared (M, K) of K geometries each, (M, K, N, 3), bohr; inf where nothing can follow.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, seed=1, accuracy=1e-9)
        >>> known = flowcei.load().sample(e.momenta, 2, seed=1).likelihood
        >>> bool((misfit(known, e.positions[:, None], np.arange(2)) < 1e-6).all())
        True
    """
    total = (residuals(likelihood, positions, event) ** 2).sum(axis=2)
    return np.where(np.isnan(total), np.inf, total)


def residuals(
    likelihood: Likelihood, positions: NDArray[np.float64], event: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return whitened residuals in units of the noise, (M, K, 3N-3), of geometries (M, K, N, 3), bohr.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1).likelihood
        >>> residuals(known, e.positions[:, None], np.arange(2)).shape
        (2, 1, 6)
    """
    rows = np.repeat(event, positions.shape[1])
    residual = likelihood.residual(positions.reshape(-1, *positions.shape[2:]), rows)
    return (residual * (likelihood.size / likelihood.noise)[rows, None]).reshape(*positions.shape[:2], -1)


@nonfinite_allowed
def local_covariance(
    likelihood: Likelihood,
    positions: NDArray[np.float64],
    event: NDArray[np.intp],
    *,
    bounded: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how well the momenta fix geometries near these ones (Laplace, flat prior).

    Args:
        likelihood: Of the events.
        positions: Geometries, (M, N, 3), bohr.
        event: Whose each is, (M,).
        bounded: Whether an axis along which the momenta change sooner than the derivative says
            is only as long as that: near a fold, where the derivative vanishes, it would be infinite.

    Returns:
        Covariance (M, 3N, 3N), bohr^2, of positions with the centre of mass at 0, and the log
        of the volume (M,) of its square root in the 3N - 3 relative positions. NaN and -inf
        where the simulator cannot follow, infinite where momenta leave a direction open.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1).likelihood
        >>> local_covariance(known, e.positions, np.arange(2))[0].shape
        (2, 9, 9)
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
    likelihood: Likelihood,
    positions: NDArray[np.float64],
    event: NDArray[np.intp],
    axes: NDArray[np.float64],
    change: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return lengths of axes (M, D), shortened to where the momenta change by about one deviation.

    Args:
        likelihood: Of the events.
        positions: Geometries, (M, N, 3), bohr.
        event: Whose each is, (M,).
        axes: Rows are directions of positions relative to the first ion, (M, D, D).
        change: Rows are the directions in which the momenta change along them, (M, D, D).
        scale: What the derivative says, (M, D), bohr; infinite where it says nothing.
    """
    start = residuals(likelihood, positions[:, None], event)
    size = np.abs(positions - positions[:, :1]).max(axis=(1, 2))
    first = np.minimum(scale, size[:, None])  # a width beyond the molecule itself is not sought
    stiffer = np.tril(np.ones(scale.shape[1:] * 2), -1)  # axes of rising length: those before one's own

    def changed(width: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squares of the changes of momenta (M, D) at steps along the axes."""
        step = width[:, :, None] * axes
        for _ in range(_CORRECTIONS):
            x = np.concatenate([np.zeros((*step.shape[:2], 3)), step], axis=2)
            ends = positions[:, None] + x.reshape(*step.shape[:2], -1, 3)
            parts = np.einsum("mkr,mjr->mkj", residuals(likelihood, ends, event) - start, change)
            # A valley may be bent: what the stiffer axes can make good for is none of this one.
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
