"""The compiled way from whitened charts to positions, and their volume (see `recoil`)."""

from __future__ import annotations

import math

from flowcei.storage._compilation import compiled, kernel

BULK = 3.0  # deviations beyond which a whitened chart grows like their square root only


@compiled
def _bonds(chart, centre, root, y) -> float:
    """Write lengthened bonds y (D,) of a chart (D,); return log|d y / d chart| without that of the root."""
    total = 0.0
    for d in range(len(y) - 1, -1, -1):
        far = max(abs(chart[d]) - BULK, 0.0)
        total += math.log1p(far) if far > 0.0 else 0.0
        value = chart[d] + math.copysign(0.5 * far * far, chart[d])
        for e in range(d + 1, len(y)):
            value -= root[e, d] * y[e]  # so far without the centre
        y[d] = value / root[d, d]
    for d in range(len(y)):
        y[d] += centre[d]
    return total


@kernel
def place(chart, centre, root, ker, rotation, order, power, assembly, y, out) -> None:
    """Write positions (B, n, N, 3), bohr, of charts (B, n, D); y (D,) is scratch.

    centre (B, D), root (B, D, D), ker (B,), rotation (B, 3, 3), order (B, N): of `WhitenedEvents`;
    assembly (N, N - 1) leads from bonds to positions, whose lengths charts have to a power.
    """
    n, count = assembly.shape
    for b in range(len(chart)):
        turn = rotation[b]
        for k in range(chart.shape[1]):
            _bonds(chart[b, k], centre[b], root[b], y)
            for d in range(count):
                p, q, r = y[3 * d], y[3 * d + 1], y[3 * d + 2]
                scale = math.sqrt(p * p + q * q + r * r) ** (1.0 / power - 1.0) / ker[b]
                for axis in range(3):
                    turned = p * turn[0, axis] + q * turn[1, axis] + r * turn[2, axis]
                    y[3 * d + axis] = scale * turned
            for i in range(n):
                for axis in range(3):
                    total = 0.0
                    for d in range(count):
                        total += assembly[i, d] * y[3 * d + axis]
                    out[b, k, order[b, i], axis] = total


@kernel
def log_volume(chart, centre, root, ker, power, y, out) -> None:
    """Write log|d chart / d relative positions|, (B, n), of scaling, whitening, lengths; else as `place`."""
    size = len(y)
    for b in range(len(chart)):
        event = size * math.log(ker[b]) + size // 3 * math.log(abs(power))
        for d in range(size):
            event += math.log(root[b, d, d])
        for k in range(chart.shape[1]):
            value = event - _bonds(chart[b, k], centre[b], root[b], y)
            for d in range(0, size, 3):
                square = y[d] * y[d] + y[d + 1] * y[d + 1] + y[d + 2] * y[d + 2]
                value += 1.5 * (1.0 - 1.0 / power) * math.log(square)  # of the length, to the power
            out[b, k] = value
