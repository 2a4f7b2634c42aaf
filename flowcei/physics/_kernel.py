"""The compiled simulator: many explosions, gathered into lanes, integrated, scattered again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.physics._compilation import compiled, kernel
from flowcei.physics._lanes import lanes_of
from flowcei.physics._steps import integrate, row_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOT_FINITE, COINCIDENT, LOST = 1, 2, 3
"""What `explode` says of an event that it could not follow; 0 where it could."""

_CLOSEST = 3e-6  # distance of two ions, in rms radii, below which they coincide
_FARTHEST = 1e9  # distance from the origin, in rms radii, beyond which positions are rounding


@compiled
def gather(positions, initial, event, n, rows, lane):
    """Write the positions of one event, from its first ion, and its momenta to a lane.

    The origin is arbitrary: subtracting in double precision keeps single precision exact
    for molecules far from it.
    """
    lanes = lanes_of(rows)
    for axis in range(3):
        origin = positions[event, axis]
        for i in range(n):
            rows[(3 * i + axis) * lanes + lane] = positions[event, 3 * i + axis] - origin
    if len(initial):
        for d in range(3 * n):
            rows[(3 * n + d) * lanes + lane] = initial[event, d]


@compiled
def verdict(rows, lane, n, positions, initial, event):
    """Return what became of the event in a lane: see `explode`."""
    lanes, total = lanes_of(rows), 0.0
    for d in range(3 * n):
        total += abs(rows[d * lanes + lane])
    size, closest = rows[3 * n * lanes + lane], rows[(3 * n + 1) * lanes + lane]
    left = rows[(3 * n + 2) * lanes + lane]
    away = abs(positions[event, 0]) + abs(positions[event, 1]) + abs(positions[event, 2])
    what = 0
    if closest <= _CLOSEST * _CLOSEST or away * size > _FARTHEST:
        what = COINCIDENT
    elif left > 0.0 or not np.isfinite(total):
        what = LOST
    if what and not (_is_finite(positions, event) and (len(initial) == 0 or _is_finite(initial, event))):
        what = NOT_FINITE
    return what


@compiled
def _is_finite(rows, event):
    for d in range(rows.shape[1]):
        if not np.isfinite(rows[event, d]):
            return False
    return True


@kernel
def explode(
    positions: NDArray[np.floating],
    initial: NDArray[np.floating],
    ions: tuple[int, ...],
    ladder: tuple[int, ...],
    system: tuple[NDArray[np.floating], ...],
    method: tuple[object, ...],
    masses: NDArray[np.float64],
    unit: float,
    momenta: NDArray[np.floating],
    status: NDArray[np.uint8],
) -> None:
    """Write the asymptotic momenta of positions (B, 3N), bohr, to `momenta` (B, 3N).

    Args:
        positions: (B, 3N), bohr.
        initial: Momenta at the start, (B, 3N), hbar / bohr, or (0, 3N) for ions at rest.
        ions: A tuple of N zeros.
        ladder: A tuple of as many zeros as the method has stages.
        system: Masses over their sum (N,), their reciprocals (N,), and for every pair the
            product of the charges over the square of the largest and that over the reduced mass.
        method: a, c, bp, eta, z1, nodes and weights: see `nystrom`. Their type is the
            precision of the calculation.
        masses: Masses over their sum, (N,), in double precision.
        unit: sqrt(sum of masses) times the largest charge.
        momenta: Where the result goes; of no meaning for an event that cannot be followed.
        status: (B,): 0, or `NOT_FINITE`, `COINCIDENT` or `LOST`.
    """
    n = len(ions)
    rows = aligned(row_count(n, len(ladder), len(method[5]), 0)[0], method[0])
    lanes = lanes_of(rows)
    for first in range(0, len(positions), lanes):
        filled = min(lanes, len(positions) - first)
        for lane in range(lanes):  # a last block is filled up with copies
            gather(positions, initial, first + min(lane, filled - 1), n, rows, lane)
        integrate(rows, ions, ladder, (), system, method, unit, len(initial) > 0)
        for lane in range(filled):
            event = first + lane
            status[event] = verdict(rows, lane, n, positions, initial, event)
            scale = unit * np.sqrt(rows[3 * n * lanes + lane])
            for d in range(3 * n):
                momenta[event, d] = rows[d * lanes + lane] * scale
    if len(initial):
        _add_drift(momenta, initial, masses)


@compiled
def aligned(count, like):
    """Return `count` rows for `_lanes`, of the precision of `like`."""
    step = 64 // like.itemsize
    raw = np.zeros((count + 1) * step, like.dtype)
    skip = (-raw.ctypes.data % 64) // like.itemsize
    return raw[skip : skip + count * step]


@compiled
def _add_drift(momenta, initial, masses):
    """Give back the motion of the centre of mass."""
    for event in range(len(momenta)):
        for axis in range(3):
            total = 0.0
            for i in range(len(masses)):
                total += initial[event, 3 * i + axis]
            for i in range(len(masses)):
                momenta[event, 3 * i + axis] += masses[i] * total
