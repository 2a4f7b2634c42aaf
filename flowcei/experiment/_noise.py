"""Noise of many events in one pass."""

from __future__ import annotations

import math

from flowcei.physics._lanes import aligned, keep, numbers, scratch
from flowcei.physics._random import PAIR, normals
from flowcei.storage._compilation import compiled, kernel


@kernel
def add_noise(key, levels, relative, momenta, noisy, stated) -> None:
    """Write momenta (3NB,) with noise of a key (2,) to `noisy`, and its stated deviation to `stated`.

    Levels (B, 1), or (B, 3) of the axes, are of the rms of the event's momenta where `relative`, and the
    deviation is then stated as a share of that of the noisy ones.
    """
    axes, width = levels.shape[1], len(momenta) // max(len(levels), 1)
    room = scratch(2 * width, momenta)
    rows, exact, out = aligned(room), numbers(momenta), numbers(noisy)
    for first in range(0, len(levels), PAIR):
        normals(key, first // PAIR * width, width, rows)  # as many as PAIR events need
        for b in range(first, min(first + PAIR, len(levels))):
            unit = _rms(exact, b * width, width) if relative else 1.0
            x, y, z = unit * levels[b, 0], unit * levels[b, axes // 2], unit * levels[b, axes - 1]
            for d in range(0, width, 3):
                own, event = (b - first) * width + d, b * width + d
                out[event] = exact[event] + x * rows[own]
                out[event + 1] = exact[event + 1] + y * rows[own + 1]
                out[event + 2] = exact[event + 2] + z * rows[own + 2]
            unit = _rms(out, b * width, width) if relative else 1.0
            for axis in range(axes):
                stated[b, axis] = unit * levels[b, axis]
    keep(room)


@compiled
def _rms(values, first, width) -> float:
    """Root mean square of `width` numbers from `first` on."""
    x, y, z = 0.0, 0.0, 0.0  # three sums: each addition waits for the one before
    for d in range(first, first + width, 3):
        x += values[d] * values[d]
        y += values[d + 1] * values[d + 1]
        z += values[d + 2] * values[d + 2]
    return math.sqrt((x + y + z) / width)
