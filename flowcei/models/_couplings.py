"""Couplings on rows of lanes: a block of samples goes through all subnets while it is in the cache.

See docs/decisions/0025. A row is a coordinate or an activation of 16 samples (see `flowcei.physics._lanes`).
What the first layer of a subnet makes of the context is the same for all samples of an event: it is computed
again only where the events of a block are others than those before.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from flowcei.physics._growth import exp_minus
from flowcei.physics._lanes import (
    LANES,
    PANEL,
    Lanes,
    accumulate,
    aligned,
    exponent,
    keep,
    load,
    numbers,
    power_of_two,
    scratch,
    sqrt,
    store,
    where_greater,
)
from flowcei.storage._compilation import compiled, kernel

_BLOCK = max(LANES.values())  # samples, of single precision
_FADED = 80.0  # exp(-80) is within the range of single precision
_TERMS = 7  # of exp, in single precision
_LN2 = math.log(2.0)
_ROOT2 = math.sqrt(2.0)
# M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 4.4.49: to 2e-8 for |x| <= 1.
_ATAN = (
    0.0028662257,
    -0.0161657367,
    0.0429096138,
    -0.0752896400,
    0.1065626393,
    -0.1420889944,
    0.1999355085,
    -0.3333314528,
    1.0,
)


class _Layout(NamedTuple):
    """Numbers of rows: a coordinate or an activation of 16 samples each.

    First come the coordinates, then log|det|, what the next subnet sees of the coordinates, the context, what
    the context adds in the first layer of each subnet, two hidden layers in turn, and what a subnet says.
    """

    cut: int  # coordinates of the first half
    d: int  # coordinates; so log|det| has this row
    told: int  # of the context
    per: int  # that a subnet computes for a coordinate
    hidden: int
    padded: int  # of a hidden layer with what fills a panel
    depth: int
    seen: int  # where rows begin ...
    context: int
    added: int
    first: int
    result: int
    total: int


@compiled
def _layout(v, context, starts, shape, splines) -> _Layout:
    cut, hidden, depth, _ = shape
    d, told, per = v.shape[1], context.shape[1], 2 if splines is None else 3 * splines[0] + 1
    padded, seen = _panels(hidden), d + 1
    added = seen + d + told
    first = added + len(starts) * padded
    result = first + 2 * padded
    total = result + _panels(max(cut, d - cut) * per)
    return _Layout(cut, d, told, per, hidden, padded, depth, seen, seen + d, added, first, result, total)


@kernel
def transport(v, event, context, weights, starts, order, shape, splines, reverse, out, log_det) -> None:
    """Write what couplings make of v (B, D), or with `reverse` their inverse, and log|det| (B,).

    event: for each sample a row of `context` (E, H); rows never fall. weights, starts (S,): of S subnets, see
    `Packed`. order (S / 2 + 1, D): where each coordinate is at first, and in each block. shape:
    coordinates of the first half, units of a hidden layer, hidden layers, greatest log scale. splines: bins,
    bound, least bin, least slope and unit of `splines`, or None for affine couplings.
    """
    o, subnets, last = _layout(v, context, starts, shape, splines), len(starts), -1
    room, weights = scratch(o.total, v), numbers(weights)
    rows = aligned(room)
    begin, end = (subnets // 2, 0) if reverse else (0, subnets // 2)
    for first in range(0, len(v), _BLOCK):
        filled = min(_BLOCK, len(v) - first)
        for lane in range(_BLOCK):  # a last block is filled up with copies
            for i in range(o.d):
                rows[order[begin, i] * _BLOCK + lane] = v[first + min(lane, filled - 1), i]
        store(rows, o.d, 0.0)
        mixed = event[first] != event[first + filled - 1]
        if mixed or event[first] != last:
            _tell(rows, o, event, context, first, filled, weights, starts)
        last = -1 if mixed else event[first]
        for turn in range(subnets):
            s = subnets - 1 - turn if reverse else turn
            moved, given, count = (o.cut, 0, o.d - o.cut) if s % 2 else (0, o.cut, o.cut)
            for i in range(o.d - count):
                store(rows, o.seen + i, load(rows, order[s // 2 + 1, given + i]))
            _subnet(rows, o, s, o.d - count, count * o.per, weights, starts[s])
            for i in range(count):
                _move(rows, o, order[s // 2 + 1, moved + i], i, count, shape[3], splines, reverse)
        for lane in range(filled):
            log_det[first + lane] = rows[o.d * _BLOCK + lane]
            for i in range(o.d):
                out[first + lane, i] = rows[order[end, i] * _BLOCK + lane]
    keep(room)


@compiled
def _tell(rows, o, event, context, first, filled, weights, starts) -> None:
    """Compute what the context of each sample of a block adds in the first layers of all subnets."""
    for lane in range(_BLOCK):
        own = event[first + min(lane, filled - 1)]
        for k in range(o.told):
            rows[(o.context + k) * _BLOCK + lane] = context[own, k]
    for s in range(len(starts)):
        _layer(rows, o.context, o.told, weights, starts[s], o.added + s * o.padded, o.padded, -np.inf)


@compiled
def _subnet(rows, o, s, seen, outputs, weights, at) -> None:
    """Run a subnet on the coordinates that it sees, and on what the context adds."""
    at += o.padded * (1 + o.told)
    for panel in range(0, o.padded, PANEL):
        start, target = o.added + s * o.padded + panel, o.first + panel
        accumulate(rows, o.seen, seen, weights, at + panel * seen, PANEL, 1, start, target, 0.0)
    at, source = at + o.padded * seen, o.first
    for k in range(1, o.depth + 1):
        over = k == o.depth
        target = o.result if over else o.first + k % 2 * o.padded
        count, least = (_panels(outputs), -np.inf) if over else (o.padded, 0.0)
        _layer(rows, source, o.hidden, weights, at, target, count, least)
        at, source = at + count * (1 + o.hidden), target


@compiled
def _move(rows, o, at, i, count, clamp, splines, reverse) -> None:
    """Move coordinate i of `count`, in row `at`, as its subnet says, or undo it."""
    if splines is None:  # as FrEIA's GLOW block
        log_scale = (0.636 * clamp) * arctangent(load(rows, o.result + i))
        scale_row(rows, at, log_scale, load(rows, o.result + count + i), o.d, reverse)
        return
    raw = o.result + o.per * i  # as `freia.SplineCouplingBlock`
    if reverse:
        _bend(rows, at, raw + 2, o.d, splines, reverse)
    log_scale = clamp * tangent(load(rows, raw) * (1.0 / clamp))
    scale_row(rows, at, log_scale, load(rows, raw + 1), o.d, reverse)
    if not reverse:
        _bend(rows, at, raw + 2, o.d, splines, reverse)


@compiled
def _panels(count) -> int:
    """Rows with those that fill a panel."""
    return -(-count // PANEL) * PANEL


@compiled
def _layer(rows, source, count, weights, at, target, outputs, least) -> None:
    """Write `outputs` rows of a linear layer on `count` rows: biases, then panels of weights."""
    for o in range(outputs):
        store(rows, target + o, weights[at + o])
    at += outputs
    for panel in range(target, target + outputs, PANEL):
        accumulate(rows, source, count, weights, at, PANEL, 1, panel, panel, least)
        at += PANEL * count


@compiled
def scale_row(rows, at, log_scale, shift, total, reverse) -> None:
    """Scale and shift a coordinate, or undo it, and add to log|det|."""
    sign = 1.0 if reverse else -1.0
    x, log_det, scale = load(rows, at), load(rows, total), exp_minus(sign * log_scale, _TERMS)
    store(rows, at, (x - shift) * scale if reverse else x * scale + shift)
    store(rows, total, log_det - sign * log_scale)


@compiled
def _bend(rows, at, raw, total, splines, reverse) -> None:
    """Bend a coordinate by a spline, whose parameters begin at row `raw`, and add to log|det|."""
    value, slope = spline(rows, load(rows, at), raw, splines, reverse)
    store(rows, at, value)
    store(rows, total, load(rows, total) + slope)


@compiled
def spline(rows, x, raw, splines, inverse) -> tuple[Lanes, Lanes]:
    """`splines.spline` of one coordinate, whose parameters begin at row `raw`."""
    bins, bound, least_bin, least_slope, unit = splines
    inside = where_greater(bound, x, where_greater(x, -bound, 1.0, 0.0 * x), 0.0)
    v = where_greater(inside, 0.0, x, 0.0)
    wide = shares(rows, raw, bins) * (2.0 * bound * (1.0 - least_bin * bins))
    high = shares(rows, raw + bins, bins) * (2.0 * bound * (1.0 - least_bin * bins))
    x0, y0, w, h, d0, d1 = 0.0 * v, 0.0 * v, 0.0 * v, 0.0 * v, 0.0 * v, 0.0 * v
    left, low, knot = x0 - bound, x0 - bound, x0
    for k in range(bins):
        width = load(rows, raw + k) * wide + 2.0 * bound * least_bin
        height = load(rows, raw + bins + k) * high + 2.0 * bound * least_bin
        after = load(rows, raw + 2 * bins + k) if k + 1 < bins else 0.0 * v
        edge = low if inverse else left
        x0, y0 = where_greater(edge, v, x0, left), where_greater(edge, v, y0, low)
        w, h = where_greater(edge, v, w, width), where_greater(edge, v, h, height)
        d0, d1 = where_greater(edge, v, d0, knot), where_greater(edge, v, d1, after)
        left, low, knot = left + width, low + height, after
    d0, d1 = softplus(d0 + unit) + least_slope, softplus(d1 + unit) + least_slope
    s = h / w
    curve = d0 + d1 - 2.0 * s
    if inverse:
        rise = v - y0
        b = h * d0 - rise * curve
        square = b * b + 4.0 * (h * (s - d0) + rise * curve) * s * rise
        theta = 2.0 * s * rise / (b + sqrt(where_greater(0.0, square, 0.0, square)))
        theta = where_greater(0.0, theta, 0.0, where_greater(theta, 1.0, 1.0, theta))
    else:
        theta = (v - x0) / w
    flat, other = theta * (1.0 - theta), 1.0 - theta
    below = s + curve * flat
    bent = x0 + theta * w if inverse else y0 + h * (s * theta * theta + d0 * flat) / below
    rise = s * s * (d1 * theta * theta + 2.0 * s * flat + d0 * other * other) / (below * below)
    slope = -1.0 * _log(rise) if inverse else _log(rise)
    return where_greater(inside, 0.0, bent, x), where_greater(inside, 0.0, slope, 0.0)


@compiled
def shares(rows, raw, bins) -> Lanes:
    """Turn `bins` rows into exponentials of them, up to a factor; return the reciprocal of their sum."""
    most = load(rows, raw)
    for k in range(1, bins):
        value = load(rows, raw + k)
        most = where_greater(value, most, value, most)
    total = 0.0 * most
    for k in range(bins):
        at = raw + k
        value = exp_faded(most - load(rows, at))
        store(rows, at, value)
        total = total + value
    return 1.0 / total


@compiled
def exp_faded(u) -> Lanes:
    """exp(-u) of u from 0 on."""
    return exp_minus(where_greater(u, _FADED, _FADED, u), _TERMS)


@compiled
def _size(u) -> Lanes:
    return where_greater(0.0, u, -1.0 * u, u)


@compiled
def tangent(u) -> Lanes:
    e = exp_faded(2.0 * _size(u))
    t = (1.0 - e) / (1.0 + e)
    return where_greater(0.0, u, -1.0 * t, t)


@compiled
def arctangent(u) -> Lanes:
    size = _size(u)
    x = where_greater(size, 1.0, 1.0 / size, size)
    square, total = x * x, 0.0 * x + _ATAN[0]
    for k in range(1, len(_ATAN)):
        total = total * square + _ATAN[k]
    total = where_greater(size, 1.0, 0.5 * math.pi - x * total, x * total)
    return where_greater(0.0, u, -1.0 * total, total)


@compiled
def softplus(u) -> Lanes:
    """log(1 + exp(u)): with log(1 + e) = 2 atanh(e / (2 + e))."""
    e = exp_faded(_size(u))
    return where_greater(u, 0.0, u, 0.0) + 2.0 * _atanh(e / (2.0 + e), 8)


@compiled
def _log(u) -> Lanes:
    """Natural logarithm of positive numbers: of a power of two, and of what is near sqrt(2)."""
    e = exponent(u)
    m = u * power_of_two(-1.0 * e)
    return (e + 0.5) * _LN2 + 2.0 * _atanh((m - _ROOT2) / (m + _ROOT2), 5)


@compiled
def _atanh(z, terms) -> Lanes:
    """Of |z| <= 1/3 with 8 terms of the series, of |z| <= 0.18 with 5."""
    square, total = z * z, 0.0 * z + 1.0 / (2 * terms - 1)
    for k in range(2, terms + 1):
        total = total * square + 1.0 / (2 * (terms - k) + 1)
    return z * total
