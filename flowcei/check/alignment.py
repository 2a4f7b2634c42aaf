"""Re-simulated momenta, and how far they are turned from the recorded ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import DataError
from flowcei.physics.explosion import asymptotic_momenta, centre_of_mass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.container import Events

_ACCURACY = 1e-9
_COLLINEAR = 1e-11  # of singular values: directions that differ by a few 1e-6, as single precision does


def needed_positions(events: Events) -> NDArray[np.float64]:
    """Return the positions (B, N, 3), bohr; DataError for events that have momenta only."""
    if events.positions is None:
        raise DataError("the events have momenta only; positions are needed here")
    return events.positions


def without_total(p: NDArray[np.float64], masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return momenta (B, N, 3) in the frame of the centre of mass of ions with masses (N,)."""
    out: NDArray[np.float64] = p - (masses / masses.sum())[:, None] * p.sum(axis=1, keepdims=True)
    return out


def resimulated(events: Events, charges: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Explode positions, in any unit of length, anew: momenta (B, N, 3), NaN where ions coincide.

    Charges (N,) are those of the molecule where None.
    """
    masses = events.molecule.masses
    q = events.molecule.charges if charges is None else charges
    x = needed_positions(events)
    x = x - centre_of_mass(x, masses)
    size = np.sqrt((x**2).mean(axis=(1, 2), keepdims=True))
    # On the scale 1 no unit of length, however wrong, is too violent for the integrator.
    unit = x / np.where(size > 0, size, 1.0)
    out: NDArray[np.float64] = _exploded(unit, masses, q) / np.sqrt(np.where(size > 0, size, 1.0))
    return out


def _exploded(
    x: NDArray[np.float64], masses: NDArray[np.float64], charges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return momenta, NaN for the events that cannot be followed."""
    try:
        return np.asarray(asymptotic_momenta(x, masses, charges, accuracy=_ACCURACY), np.float64)
    except ValueError:
        if len(x) == 1:
            return np.full(x.shape, np.nan)
        half = len(x) // 2
        parts = (x[:half], x[half:])
        return np.concatenate([_exploded(part, masses, charges) for part in parts])


def best_rotations(
    source: NDArray[np.float64], target: NDArray[np.float64], *, noise: float = 0.0, mirror: bool = False
) -> NDArray[np.float64]:
    """Return rotations R (B, 3, 3), or reflections, with ``source @ R^T`` closest to target, (B, N, 3).

    Of vectors collinear within the relative `noise`, the rotation of smallest angle.
    """
    # W. Kabsch, Acta Cryst. A 32, 922 (1976), through singular values.
    u, s, vt = np.linalg.svd(np.einsum("bni,bnj->bij", target, source))
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    u[:, :, 2] *= (-sign if mirror else sign)[:, None]
    best: NDArray[np.float64] = u @ vt
    flat = s[:, 1] <= max(_COLLINEAR, noise**2) * s[:, 0]
    if flat.any() and not mirror:
        best[flat] = _shortest_turn(vt[flat, 0], u[flat, :, 0])
    return best


def _shortest_turn(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotations (B, 3, 3) of smallest angle from unit vectors a to b, (B, 3)."""
    # A half turn about a, then one about the direction midway: together twice the angle between
    # them. From a to -a it is one half turn, about any normal of a.
    middle = a + b
    opposite = np.linalg.norm(middle, axis=1) < 1e-9
    axis = np.eye(3)[np.abs(a).argmin(axis=1)]
    middle = np.where(opposite[:, None], np.cross(a, axis), middle)
    turn: NDArray[np.float64] = _half_turn(middle) @ _half_turn(a)
    turn[opposite] = _half_turn(middle[opposite])
    return turn


def _half_turn(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotations (B, 3, 3) by 180 degrees about axes (B, 3) of any length."""
    n = axis / np.linalg.norm(axis, axis=1, keepdims=True)
    out: NDArray[np.float64] = 2.0 * n[:, :, None] * n[:, None, :] - np.eye(3)
    return out


def angles_of(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles (B,) of rotations (B, 3, 3), degrees."""
    # Not from the trace: its arccos loses half the digits of small angles.
    away = np.linalg.norm(rotations - np.eye(3), axis=(1, 2)) / np.sqrt(8.0)
    out: NDArray[np.float64] = np.degrees(2.0 * np.arcsin(np.minimum(away, 1.0)))
    return out


def residuals(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances (B,) of vectors (B, N, 3) from `b`, over the size of `b`."""
    out: NDArray[np.float64] = np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(b, axis=(1, 2))
    return out
