"""The compiled way from whitened charts to positions, and their volume (see `recoil`)."""

from __future__ import annotations

import math

from flowcei.storage._compilation import compiled, kernel

BULK = 3.0  # deviations beyond which a whitened chart grows like their square root only


@compiled
def _bonds(chart, centre, root, width, y) -> float:
    """Write lengthened bonds y (D,) of a chart (D,); return log|d y / d chart| without that of the root.

    `width` (D,) is 1 over the diagonal of the root: to divide takes long, and a coordinate waits for others.
    """
    total = 0.0
    for d in range(len(y) - 1, -1, -1):
        far = max(abs(chart[d]) - BULK, 0.0)
        total += math.log1p(far) if far > 0.0 else 0.0
        value = chart[d] + math.copysign(0.5 * far * far, chart[d])
        for e in range(d + 1, len(y)):
            value -= root[e, d] * y[e]  # so far without the centre
        y[d] = value * width[d]
    for d in range(len(y)):
        y[d] += centre[d]
    return total


@kernel
def place(chart, centre, root, ker, rotation, order, power, assembly, scratch, out, volume) -> None:
    """Write positions (B, n, N, 3), bohr, of charts (B, n, D), and log|d chart / d relative positions|.

    centre (B, D), root (B, D, D), ker (B,), rotation (B, 3, 3), order (B, N): of `WhitenedEvents`;
    assembly (N, N - 1) leads from bonds, whose lengths charts have to a power, to positions; scratch: (2, D).
    """
    (n, count), y, width = assembly.shape, scratch[0], scratch[1]
    shorter = 0.5 / power - 0.5  # a bond is its square to this times as long as in a chart
    for b in range(len(chart)):
        turn, middle, precision, per_ker = rotation[b], centre[b], root[b], 1.0 / ker[b]
        event = len(y) * math.log(ker[b]) + count * math.log(abs(power))
        for d in range(len(y)):
            event += math.log(precision[d, d])
            width[d] = 1.0 / precision[d, d]
        for k in range(chart.shape[1]):
            total = event - _bonds(chart[b, k], middle, precision, width, y)
            for d in range(count):
                p, q, r = y[3 * d], y[3 * d + 1], y[3 * d + 2]
                logarithm, scale = math.log(p * p + q * q + r * r), per_ker
                if shorter != 0.0:
                    total -= 3.0 * shorter * logarithm
                    scale *= math.exp(shorter * logarithm)
                for axis in range(3):
                    turned = p * turn[0, axis] + q * turn[1, axis] + r * turn[2, axis]
                    y[3 * d + axis] = scale * turned
            volume[b, k] = total
            for i in range(n):
                ion = order[b, i]
                for axis in range(3):
                    x = 0.0
                    for d in range(count):
                        x += assembly[i, d] * y[3 * d + axis]
                    out[b, k, ion, axis] = x
