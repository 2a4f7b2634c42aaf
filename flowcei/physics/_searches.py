"""The compiled parts of many searches: where they start, their steps, which of their ends are one."""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._vectors import between, copy, dot
from flowcei.storage._compilation import compiled, kernel

_GOLDEN = 0.6180339887498949  # multiples of it, less their whole part, fill [0, 1) evenly, however many
_LEAST_DAMPING, _MOST_DAMPING = 1e-13, 1e12
_LESS, _MORE = 0.1, 5.0  # factors of the damping after a step that was taken, or refused
_STEEP = 0.2  # of the residual: steps that leave more ask for a new derivative, and are not gone with an old
OF_HERE, OLD, USELESS = 0, 1, 2
"""How old the derivative of a search is: of where it stands, of before, not to be used again."""
_LEAST_COLUMN = 1e-12  # of the largest diagonal element: a direction that changes nothing
_PROGRESS = 0.9  # of the residual
_GAIN = 1e-4  # of the squared residual: a step that promises less ends a search


@kernel
def choose(x, cumulated, events, far, random, near, owner, count, drawn, chosen) -> None:
    """Write the next starts of some events to `chosen` (A, far + random): samples, or -1 - their search.

    x (E, D, n): samples; cumulated (E, n): their shares, added up. First those farthest from all starts
    before, then some at random by share. Of each event near (E, n) is the squared distance to the nearest
    start, negative for what is no geometry; owner (E, n), which start that is; count (E,), the starts;
    drawn (E,), the random ones. -1 - owner stands for a sample whose start is there already.
    """
    for a in range(len(events)):
        e = events[a]
        for h in range(far + random):
            if h < far:
                i = 0
                for k in range(near.shape[1]):  # numpy's own ways, here and below, compile for a second
                    if near[e, k] > near[e, i]:
                        i = k
            else:
                drawn[e] += 1
                mark = (drawn[e] * _GOLDEN) % 1.0 * cumulated[e, -1]
                i, end = 0, near.shape[1] - 1
                while i < end:  # the first above the mark, or the last
                    middle = (i + end) // 2
                    if cumulated[e, middle] > mark:
                        end = middle
                    else:
                        i = middle + 1
            if near[e, i] <= 0.0:
                chosen[a, h] = -1 - owner[e, i]
                continue
            chosen[a, h] = i
            _claim(x[e], near[e], owner[e], i, count[e])
            count[e] += 1


@compiled
def _claim(x, near, owner, i, number) -> None:
    """Give the samples x (D, n) that are nearer to sample i than to all starts before to its search."""
    square = np.zeros(len(near), x.dtype)
    for d in range(len(x)):
        centre = x[d, i]
        for k in range(len(near)):
            step = x[d, k] - centre
            square[k] += step * step
    for k in range(len(near)):
        if square[k] < near[k]:
            near[k], owner[k] = square[k], number
    near[i], owner[i] = 0.0, number


@kernel
def linearise(rows, simulated, target, state) -> None:
    """Take in the derivatives at the positions of searches `rows` (K,).

    simulated: momenta (K, N, 3) there, their derivatives (K, 3N, 3N), and 0 where these can be used (K,).
    target: event of each search (S,), momenta (E, N, 3), whitening (E or 1, 3, N - 1, N), size of the momenta
    (E,) and the residual (E,) of which no more is asked. state, of each search: positions (S, N, 3), the
    first ion at 0; |residual|, damping, first size (S,); steps tried and without progress (S,), how old the
    derivative is (S,); the derivative of the residual (S, N - 1, 3, D), J'r (S, D) and J'J (S, D, D).
    """
    momenta, slope, lost = simulated
    event, measured, whitening, size, _ = target
    x, norm, _, _, _, _, age, jacobian, gradient, square = state
    residual = np.empty((x.shape[1] - 1, 3))
    for k in range(len(rows)):
        s, e = rows[k], event[rows[k]]
        own = whitening[e if len(whitening) > 1 else 0]
        norm[s] = np.inf if lost[k] else _whiten(momenta[k], measured[e], own, size[e], residual)
        if norm[s] < np.inf:
            _whiten_slope(slope[k], own, size[e], jacobian[s])
            normal_equations(jacobian[s], residual, square[s], gradient[s])
            age[s] = OF_HERE


@kernel
def propose(rows, trial, target, state, rules) -> int:
    """Write the next positions of searches `rows` (K,) to `trial` (K, N, 3); return how many go on.

    rules: steps, patience, collision, largest.
    """
    event, enough = target[0], target[4]
    x, norm, damping, start, tried, slow, _, _, gradient, square = state
    size = gradient.shape[1]
    factor, step = np.empty((size, size)), np.empty(size)
    count = 0
    for k in range(len(rows)):
        s, e = rows[k], event[rows[k]]
        if not norm[s] < np.inf or tried[s] >= rules[0] or slow[s] >= rules[1]:
            continue
        while damping[s] < _MOST_DAMPING:
            gain = solve(square[s], gradient[s], damping[s], factor, step)
            if not gain > max(enough[e] * enough[e], _GAIN * norm[s] * norm[s]):
                break
            if _write(x[s], step, start[s], rules, trial[count]):
                rows[count] = s
                count += 1
                break
            damping[s] *= _MORE
    return count


@kernel
def judge(rows, trial, simulated, target, state) -> None:
    """Go to the trials (K, N, 3) of searches `rows` (K,) that are nearer, by their momenta (K, N, 3).

    Derivatives are the dearest part: an old one will do as long as its steps bring much.
    """
    momenta, lost = simulated
    event, measured, whitening, size, _ = target
    x, norm, damping, _, tried, slow, age, jacobian, gradient, _ = state
    residual = np.empty((x.shape[1] - 1, 3))
    for k in range(len(rows)):
        s, e = rows[k], event[rows[k]]
        own = whitening[e if len(whitening) > 1 else 0]
        length = np.inf if lost[k] else _whiten(momenta[k], measured[e], own, size[e], residual)
        tried[s] += 1
        steep = length < _STEEP * norm[s]
        if steep or (length < norm[s] and age[s] == OF_HERE):
            slow[s] = 0 if length < _PROGRESS * norm[s] else slow[s] + 1
            age[s] = OLD if steep else USELESS
            norm[s] = length
            copy(trial[k], x[s])
            damping[s] *= _LESS
            gradient[s] = 0.0
            for a in range(len(residual)):
                for axis in range(3):
                    for d in range(gradient.shape[1]):
                        gradient[s, d] += jacobian[s, a, axis, d] * residual[a, axis]
        elif age[s] == OF_HERE:
            slow[s] += 1
            damping[s] *= _MORE
        else:
            age[s] = USELESS


@compiled
def _whiten(momenta, measured, whitening, size, residual) -> float:
    """Write the whitened residual (N - 1, 3) and return its length; infinite where it is not finite."""
    total = 0.0
    for a in range(len(residual)):
        for axis in range(3):
            value = 0.0
            for i in range(len(momenta)):
                value += whitening[axis, a, i] * (momenta[i, axis] - measured[i, axis])
            residual[a, axis] = value / size
            total += residual[a, axis] * residual[a, axis]
    return math.sqrt(total) if total < np.inf else np.inf


@compiled
def _whiten_slope(slope, whitening, size, jacobian) -> None:
    """Write the derivative (N - 1, 3, 3N - 3) of the residual by positions relative to the first ion."""
    for a in range(len(jacobian)):
        for axis in range(3):
            for d in range(jacobian.shape[2]):
                jacobian[a, axis, d] = 0.0
            for i in range(len(slope) // 3):
                scale = whitening[axis, a, i] / size
                for d in range(jacobian.shape[2]):
                    jacobian[a, axis, d] += scale * slope[3 * i + axis, 3 + d]


@compiled
def normal_equations(jacobian, residual, square, gradient) -> None:
    """Write J'J (D, D) and J'r (D,)."""
    square[:], gradient[:] = 0.0, 0.0
    for a in range(len(residual)):
        for axis in range(3):
            row = jacobian[a, axis]
            for d in range(len(gradient)):
                gradient[d] += row[d] * residual[a, axis]
                for e in range(len(gradient)):
                    square[d, e] += row[d] * row[e]


@compiled
def solve(square, gradient, damping, factor, step) -> float:
    """Solve (J'J + damping diag(J'J)) step = -J'r; return by how much |r|^2 falls if r is linear."""
    size = len(step)
    largest = 0.0
    for d in range(size):
        largest = max(largest, square[d, d])
    least = _LEAST_COLUMN * largest + 1e-300
    damped = max(damping, _LEAST_DAMPING)
    for d in range(size):
        for e in range(d + 1):
            value = square[d, e]
            if e == d:
                value += damped * max(value, least)
            for f in range(e):
                value -= factor[d, f] * factor[e, f]
            # Rounding can leave nothing of a direction that changes nothing.
            factor[d, e] = math.sqrt(max(value, 1e-3 * damped * least)) if e == d else value / factor[e, e]
    for d in range(size):
        value = -gradient[d]
        for f in range(d):
            value -= factor[d, f] * step[f]
        step[d] = value / factor[d, d]
    for d in range(size - 1, -1, -1):
        value = step[d]
        for f in range(d + 1, size):
            value -= factor[f, d] * step[f]
        step[d] = value / factor[d, d]
    fall = 0.0
    for d in range(size):
        turned = 2.0 * gradient[d]
        for e in range(size):
            turned += square[d, e] * step[e]
        fall -= turned * step[d]
    return fall


@compiled
def _write(x, step, start, rules, trial) -> bool:
    """Write positions x (N, 3) after a step; whether no ions collide and none has left."""
    reach = 0.0
    for i in range(len(x)):
        for axis in range(3):
            trial[i, axis] = x[i, axis] + (step[3 * i - 3 + axis] if i else 0.0)
            reach = max(reach, abs(trial[i, axis]))
    closest = np.inf
    for i in range(len(x)):
        for j in range(i):
            apart = between(trial, i, j)
            closest = min(closest, dot(apart, apart))
    return math.sqrt(closest) > rules[2] * reach and reach < rules[3] * start


@kernel
def group_first(event, form, reach, x, metric, group) -> None:
    """Write to `group` (K,) the first end that each of K ends, event by event, is the same as.

    Two ends of one event (K,) are one where all numbers of their form (K, F) differ by less than the reach
    (K,) of the first, or where they do by less than ten times that and `metric` (K, D, D), unless it is
    empty, says that positions x (K, D) differ by less than 1.
    """
    first = 0
    for k in range(len(event)):
        if event[k] != event[first]:
            first = k
        group[k] = k
        for j in range(first, k):
            if group[j] == j:
                distance = 0.0
                for f in range(form.shape[1]):
                    distance = max(distance, abs(form[j, f] - form[k, f]))
                near = distance < reach[j]
                if not near and len(metric) and distance < 10.0 * reach[j]:
                    near = _square(metric[j], x[j], x[k]) < 1.0
                if near:
                    group[k] = j
                    break


@compiled
def _square(metric, first, second) -> float:
    """Squared distance of two vectors (D,) in a metric (D, D)."""
    total = 0.0
    for d in range(len(first)):
        value = 0.0
        for e in range(len(first)):
            value += metric[d, e] * (second[e] - first[e])
        total += value * (second[d] - first[d])
    return total
