"""Couplings for training, on rows of lanes: 16 rows of a batch go through all subnets, forward or back.

See docs/decisions/0033. What is kept in between are arrays (features, N): a feature of all rows of the batch,
whose number N is a multiple of 16 with 16 more, so that features do not meet in one set of a cache. Gradients
of weights are products of these, left to torch. `weights` are those of all layers, and `starts`
(2, S, depth + 1) says where in them the matrix and the bias of each begins. Both ways the six numbers that
`accumulate` needs at a time lie side by side: `backward` has matrices as torch does, (outputs, inputs),
`forward` turned, (inputs, outputs). `splines` is that of `_couplings.transport`.
"""

from __future__ import annotations

from typing import NamedTuple

from flowcei.models._couplings import (
    arctangent,
    exp_faded,
    scale_row,
    shares,
    softplus,
    spline,
    tangent,
)
from flowcei.physics._growth import exp_minus
from flowcei.physics._lanes import (
    PANEL,
    Lanes,
    accumulate,
    aligned,
    keep,
    lanes_of,
    load,
    numbers,
    scratch,
    store,
    store_turned,
    where_greater,
)
from flowcei.storage._compilation import compiled, kernel

_TERMS = 7  # of exp, in single precision
_GLOW = 0.636  # FrEIA's factor


class _Plan(NamedTuple):
    """Numbers of coordinates, units and outputs, and rows of lanes where each begins.

    A subnet sees coordinates and context, which stand together: those of the longer half begin at `seen`.
    """

    d: int
    cut: int
    told: int  # of the context
    hidden: int
    depth: int
    per: int  # outputs for a coordinate
    state: int
    log_det: int
    context: int
    units: int  # two layers in turn
    result: int
    work: int  # for one coordinate
    total: int


@compiled
def _plan(d, told, shape, splines) -> _Plan:
    cut, hidden, depth, _ = shape
    per, wide = 2 if splines is None else 3 * splines[0] + 1, max(cut, d - cut)
    padded = -(-max(hidden, wide * per, told + wide) // PANEL) * PANEL
    state = 0
    context = state + 2 * d + 1 + wide
    units = context + told + PANEL
    result = units + 2 * padded
    work = result + padded
    return _Plan(
        d, cut, told, hidden, depth, per, state, state + d, context, units, result, work, work + 3 * per + 3
    )


@compiled
def _half(o, s) -> tuple[int, int, int]:
    """First coordinate that subnet s moves, first that it sees, and how many it moves."""
    return (o.cut, 0, o.d - o.cut) if s % 2 else (0, o.cut, o.cut)


@kernel
def forward(x, h, weights, starts, order, shape, splines, kept, z, log_det) -> None:
    """Write z (B, D) and log|det| (B,) of x (B, D), given h (B, C), and what `backward` needs to `kept`.

    kept: (C + 1, N) context and ones; (S, W, N) coordinates seen;
    (S, W, N) those before they are moved; (depth, S, hidden, N) units; (S, outputs, N) outputs. W: the longer
    half.
    """
    told, seen, before, units, outputs = kept
    o, subnets, lanes = _plan(x.shape[1], h.shape[1], shape, splines), starts.shape[1], lanes_of(weights)
    n, wide = -(-len(x) // lanes) + 1, max(o.cut, o.d - o.cut)
    room, weights, units = scratch(o.total, weights), numbers(weights), numbers(units)
    rows = aligned(room)
    for j in range(n - 1):
        filled = min(lanes, len(x) - j * lanes)
        _enter(rows, o, x, h, order, j, filled)
        for k in range(o.told):
            store(told, k * n + j, load(rows, o.context + k))
        store(told, o.told * n + j, 1.0)
        for s in range(subnets):
            moved, given, count = _half(o, s)
            first = o.context - (o.d - count)
            for i in range(o.d - count):
                value = load(rows, o.state + order[s // 2 + 1, given + i])
                store(rows, first + i, value)
                store(seen, (s * wide + i) * n + j, value)
            _subnet(rows, o, s, first, o.d - count + o.told, count * o.per, weights, starts, units, n, j)
            for i in range(count * o.per):
                store(outputs, (s * wide * o.per + i) * n + j, load(rows, o.result + i))
            for i in range(count):
                at = o.state + order[s // 2 + 1, moved + i]
                store(before, (s * wide + i) * n + j, load(rows, at))
                _move(rows, o, at, i, count, shape[3], splines)
        for lane in range(filled):
            log_det[j * lanes + lane] = rows[o.log_det * lanes + lane]
            for i in range(o.d):
                z[j * lanes + lane, i] = rows[(o.state + order[subnets // 2, i]) * lanes + lane]
    keep(room)


@compiled
def _enter(rows, o, x, h, order, j, filled) -> None:
    """Write 16 rows of the batch into lanes; the last are filled up with copies."""
    lanes = lanes_of(rows)
    for lane in range(lanes):
        row = j * lanes + min(lane, filled - 1)
        for i in range(o.d):
            rows[(o.state + order[0, i]) * lanes + lane] = x[row, i]
        for k in range(o.told):
            rows[(o.context + k) * lanes + lane] = h[row, k]
    store(rows, o.log_det, 0.0)


@compiled
def _subnet(rows, o, s, first, inputs, outputs, weights, starts, units, n, j) -> None:
    """Run subnet s; keep its units."""
    source = first
    for k in range(o.depth + 1):
        last = k == o.depth
        target, count = (
            (o.result, outputs) if last else (o.units + k % 2 * (o.result - o.units) // 2, o.hidden)
        )
        begin, bias = starts[0, s, k], starts[1, s, k]
        for i in range(count):
            store(rows, target + i, weights[bias + i])
        for p in range(0, count, PANEL):
            least = -3.0e38 if last else 0.0
            accumulate(rows, source, inputs, weights, begin + p, count, 1, target + p, target + p, least)
        if not last:
            for i in range(count):
                store(units, ((k * starts.shape[1] + s) * o.hidden + i) * n + j, load(rows, target + i))
        source, inputs = target, count


@compiled
def _move(rows, o, at, i, count, clamp, splines) -> None:
    """Move coordinate i, in row `at`, as the outputs of its subnet say, and add to log|det|."""
    if splines is None:
        log_scale = (_GLOW * clamp) * arctangent(load(rows, o.result + i))
        scale_row(rows, at, log_scale, load(rows, o.result + count + i), o.log_det, False)
        return
    raw = o.result + o.per * i
    log_scale = clamp * tangent(load(rows, raw) * (1.0 / clamp))
    scale_row(rows, at, log_scale, load(rows, raw + 1), o.log_det, False)
    value, slope = spline(rows, load(rows, at), raw + 2, splines, False)
    store(rows, at, value)
    store(rows, o.log_det, load(rows, o.log_det) + slope)


@kernel
def backward(of_z, of_log_det, weights, starts, order, shape, splines, kept, deltas, of_h) -> None:
    """Turn gradients with respect to z (B, D) and log|det| (B,) into that of h (B, C), and `deltas`.

    deltas: gradients with respect to what goes into each unit (depth, S, N, hidden), and to outputs
    (S, N, outputs), with rows of a multiple of 16: products with such a matrix take torch half the time.
    """
    _, _, before, units, outputs = kept
    of_units, of_outputs = numbers(deltas[0]), numbers(deltas[1])
    o, subnets, lanes = (
        _plan(of_z.shape[1], of_h.shape[1], shape, splines),
        starts.shape[1],
        lanes_of(weights),
    )
    n, wide = -(-len(of_z) // lanes) + 1, max(o.cut, o.d - o.cut)
    room, weights, units = scratch(o.total, weights), numbers(weights), numbers(units)
    rows = aligned(room)
    for j in range(n - 1):
        filled = min(lanes, len(of_z) - j * lanes)
        _enter_gradients(rows, o, of_z, of_log_det, order[subnets // 2], j, filled)
        for s in range(subnets - 1, -1, -1):
            moved, given, count = _half(o, s)
            for i in range(count):
                at, place = o.state + order[s // 2 + 1, moved + i], s * wide * o.per
                store(rows, o.work, load(before, (s * wide + i) * n + j))
                for k in range(o.per):
                    store(
                        rows,
                        o.work + 2 + k,
                        load(outputs, (place + _row(i, k, count, o.per, splines)) * n + j),
                    )
                _pull_back(rows, o, at, shape[3], splines)
                for k in range(o.per):
                    value, row = load(rows, o.work + 2 + o.per + k), _row(i, k, count, o.per, splines)
                    store(rows, o.result + row, value)
            _turn(of_outputs, s * n + j, rows, o.result, wide * o.per)
            first = o.context - (o.d - count)
            _pull_subnet(
                rows, o, s, first, o.d - count + o.told, count * o.per, weights, starts, units, of_units, n, j
            )
            for i in range(o.d - count):
                at = o.state + order[s // 2 + 1, given + i]
                store(rows, at, load(rows, at) + load(rows, first + i))
        for lane in range(filled):
            for k in range(o.told):
                of_h[j * lanes + lane, k] = rows[(o.context + k) * lanes + lane]
    keep(room)


@compiled
def _enter_gradients(rows, o, of_z, of_log_det, order, j, filled) -> None:
    """Write gradients of 16 rows of the batch into lanes, zero where there is none."""
    lanes = lanes_of(rows)
    for lane in range(lanes):
        row, there = j * lanes + min(lane, filled - 1), lane < filled
        rows[o.log_det * lanes + lane] = of_log_det[row] if there else 0.0
        for i in range(o.d):
            rows[(o.state + order[i]) * lanes + lane] = of_z[row, i] if there else 0.0
    for k in range(o.told):
        store(rows, o.context + k, 0.0)


@compiled
def _pull_subnet(rows, o, s, first, inputs, outputs, weights, starts, units, of_units, n, j) -> None:
    """From gradients of outputs to those of units and of what is seen; to that of the context it adds."""
    source, count = o.result, outputs
    for k in range(o.depth, 0, -1):
        target = o.units + k % 2 * (o.result - o.units) // 2
        for p in range(0, o.hidden, PANEL):
            for i in range(PANEL):
                store(rows, target + p + i, 0.0)
            accumulate(
                rows,
                source,
                count,
                weights,
                starts[0, s, k] + p,
                o.hidden,
                1,
                target + p,
                target + p,
                -3.0e38,
            )
        for i in range(o.hidden):
            place = (((k - 1) * starts.shape[1] + s) * o.hidden + i) * n + j
            value = where_greater(load(units, place), 0.0, load(rows, target + i), 0.0)
            store(rows, target + i, value)
        _turn(of_units, ((k - 1) * starts.shape[1] + s) * n + j, rows, target, o.hidden)
        source, count = target, o.hidden
    for i in range(first, o.context):
        store(rows, i, 0.0)
    for p in range(0, inputs, PANEL):
        accumulate(
            rows, source, count, weights, starts[0, s, 0] + p, inputs, 1, first + p, first + p, -3.0e38
        )


@compiled
def _turn(array, block, rows, source, count) -> None:
    """Write `count` rows, and some that are not used, as block `block` of an array with lanes for rows."""
    lanes = lanes_of(rows)
    stride = -(-count // lanes) * lanes
    for i in range(0, count, lanes):
        store_turned(array, block * lanes * stride + i, stride, rows, source + i)


@compiled
def _pull_back(rows, o, at, clamp, splines) -> None:
    """From the gradient of a moved coordinate, in row `at`, to that before, and of outputs, in work."""
    x, g, g_log = load(rows, o.work), load(rows, at), load(rows, o.log_det)
    first, shift = load(rows, o.work + 2), load(rows, o.work + 3)
    if splines is None:
        log_scale = (_GLOW * clamp) * arctangent(first)
        bend = (_GLOW * clamp) / (1.0 + first * first)
    else:
        share = tangent(first * (1.0 / clamp))
        log_scale, bend = clamp * share, 1.0 - share * share
    factor = exp_minus(-1.0 * log_scale, _TERMS)
    if splines is not None:
        g = _pull_spline(rows, o.work, x * factor + shift, o.per, g, g_log, splines)
    store(rows, o.work + 2 + o.per, (g * x * factor + g_log) * bend)
    store(rows, o.work + 3 + o.per, g)
    store(rows, at, g * factor)


@compiled
def _row(i, k, count, per, splines) -> int:
    """Where output k for coordinate i is: GLOW has all log scales first."""
    return k * count + i if splines is None else i * per + k


@compiled
def _pull_spline(rows, work, x, per, g, g_log, splines) -> Lanes:
    """Gradient with respect to x; those of the spline's parameters, from `work` + 4 on, go `per` rows on.

    C. Durkan et al. (see `splines`), equations 4 and 5, differentiated by theta, s, and the two slopes.
    """
    bins, bound, least_bin, least_slope, unit = splines
    raw, edges = work + 4, work + 2 + 2 * per
    inside = where_greater(bound, x, where_greater(x, -bound, 1.0, 0.0 * x), 0.0)
    v = where_greater(inside, 0.0, x, 0.0)
    span, least = 2.0 * bound * (1.0 - least_bin * bins), 2.0 * bound * least_bin
    wide, high = shares(rows, raw, bins), shares(rows, raw + bins, bins)
    zero = 0.0 * v
    x0, w, h, u0, u1, left, knot = zero, zero, zero, zero, zero, zero - bound, zero
    for k in range(bins):
        width = load(rows, raw + k) * wide * span + least
        height = load(rows, raw + bins + k) * high * span + least
        after = load(rows, raw + 2 * bins + k) if k + 1 < bins else zero
        store(rows, edges + k, left)
        x0, w, h = (
            where_greater(left, v, x0, left),
            where_greater(left, v, w, width),
            where_greater(left, v, h, height),
        )
        u0, u1 = where_greater(left, v, u0, knot), where_greater(left, v, u1, after)
        left, knot = left + width, after
    store(rows, edges + bins, bound)
    d0, d1 = softplus(u0 + unit) + least_slope, softplus(u1 + unit) + least_slope
    inverse = 1.0 / w
    s, theta = h * inverse, (v - x0) * inverse
    other, own, own_log = (
        1.0 - theta,
        where_greater(inside, 0.0, g, 0.0),
        where_greater(inside, 0.0, g_log, 0.0),
    )
    flat, turn, curve = theta * other, 1.0 - 2.0 * theta, d0 + d1 - 2.0 * s
    below = 1.0 / (s + curve * flat)
    high_at, slope = (
        (s * theta * theta + d0 * flat) * below,
        d1 * theta * theta + 2.0 * s * flat + d0 * other * other,
    )
    own, per_slope, swing = own * below, 1.0 / slope, 1.0 - 2.0 * flat
    g_s = own * h * (theta * theta - high_at * swing)
    g_s = g_s + own_log * (2.0 / s + 2.0 * flat * per_slope - 2.0 * swing * below)
    g_d0 = own * h * flat * (1.0 - high_at) + own_log * (other * other * per_slope - 2.0 * flat * below)
    g_d1 = own_log * (theta * theta * per_slope - 2.0 * flat * below) - own * h * flat * high_at
    bend = (2.0 * d1 * theta + 2.0 * s * turn - 2.0 * d0 * other) * per_slope - 2.0 * curve * turn * below
    g_theta = own * w * s * s * slope * below + own_log * bend
    g_v, own = g_theta * inverse, where_greater(inside, 0.0, g, 0.0)
    g_w, g_h = (-1.0 * inverse) * (g_s * s + g_theta * theta), own * high_at + g_s * inverse
    _pull_shares(rows, raw, per, edges, bins, v, wide, span, g_w, -1.0 * g_v)
    _pull_shares(rows, raw + bins, per, edges, bins, v, high, span, g_h, own)
    _pull_slopes(rows, raw + 2 * bins, per, edges, bins, v, unit, g_d0, g_d1)
    return where_greater(inside, 0.0, g_v, g)


@compiled
def _pull_shares(rows, raw, per, edges, bins, v, reciprocal, span, here, before) -> None:
    """Gradients of what becomes sizes of bins: `here` is that of the bin of v, `before` of those before."""
    dot = 0.0 * v
    for k in range(bins):
        later = where_greater(load(rows, edges + k + 1), v, here, before)
        g = where_greater(load(rows, edges + k), v, 0.0, later)
        size = load(rows, raw + k) * reciprocal
        store(rows, raw + k, size)
        store(rows, raw + per + k, g)
        dot = dot + size * g
    for k in range(bins):
        store(rows, raw + per + k, span * load(rows, raw + k) * (load(rows, raw + per + k) - dot))


@compiled
def _pull_slopes(rows, raw, per, edges, bins, v, unit, first, second) -> None:
    """Gradients of what becomes slopes at inner knots: the first and second of the bin of v."""
    for k in range(bins - 1):
        begins = where_greater(load(rows, edges + k + 2), v, first, 0.0)
        ends = where_greater(load(rows, edges + k), v, 0.0, second)
        g = where_greater(load(rows, edges + k + 1), v, ends, begins)
        u = load(rows, raw + k) + unit
        e = exp_faded(where_greater(0.0, u, -1.0 * u, u))
        store(rows, raw + per + k, g * where_greater(u, 0.0, 1.0, e) / (1.0 + e))
