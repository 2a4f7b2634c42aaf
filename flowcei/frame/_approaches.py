"""The compiled steps of searches for each event's normal approximation (see `whitening`)."""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._rotations import nearest_rotation
from flowcei.physics._searches import normal_equations, solve
from flowcei.physics._vectors import copy, cross, dot
from flowcei.storage._compilation import compiled, kernel

_LESS, _MORE, _GIVEN_UP = 0.1, 10.0, 1e8  # factors of the damping, and where a search ends
_ENOUGH = 0.1  # fall of the sum of squares that a last step promises: it moves by a third of a deviation
_STRAIGHT = -1.5  # bonds times this power of their length are nearly linear in momenta


@kernel
def approach(rows, trial, simulated, target, prior, mirrored, state) -> int:
    """Judge the trials (K, N - 1, 3) of searches `rows` (K,), write the next, and return how many go on.

    trial: bonds, bohr, turned as those of the prior's mean. simulated: their momenta (K or 1, N, 3), the
    derivatives by positions (K or 1, 3N, 3N), and 0 where these can be used. target: momenta (S, N, 3), and
    what makes residuals of axes of unit noise, (S, 3, 3). prior: assembly (N, N - 1) of positions from bonds,
    its mean (N, 3), its root (Q, N, 3), that by bonds (Q, N - 1, 3), and how a drift moves momenta (N,).
    state, of each search: bonds (S, N - 1, 3), sum of squares (S,), half its gradient (S, D) and curvature
    (S, D, D), damping (S,).
    """
    momenta, slope, lost = simulated
    measured, unit = target
    bonds, square, gradient, curvature, damping = state
    n, size = len(prior[0]), gradient.shape[1]
    residual, jacobian = np.empty((n, 3)), np.empty((n, 3, size))
    found, half = np.empty((size, size)), np.empty(size)
    factor, step = np.empty((size, size)), np.empty(size)
    scratch = np.empty((n, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty(size)
    count = 0
    for k in range(len(rows)):
        s, own = rows[k], k if len(momenta) > 1 else 0
        value = math.inf
        if not lost[own]:
            _whiten(momenta[own], measured[s], slope[own], unit[s], prior, residual, jacobian)
            normal_equations(jacobian, residual, found, half)
            value = _add_prior(trial[k], prior, mirrored, found, half, scratch)
            for i in range(n):
                value += dot(residual[i], residual[i])
        if value < square[s]:
            damping[s] *= _LESS if square[s] < math.inf else 1.0
            square[s] = value
            copy(trial[k], bonds[s])
            copy(half, gradient[s])
            copy(found, curvature[s])
        else:
            damping[s] *= _MORE
        if not square[s] < math.inf or damping[s] >= _GIVEN_UP:
            continue
        gain = solve(curvature[s], gradient[s], damping[s], factor, step)
        if gain < _ENOUGH and damping[s] < 1.0:
            _move(bonds[s], step, bonds[s])  # what it promises it keeps: no need to look
        else:
            _move(bonds[s], step, trial[count])
            rows[count] = s
            count += 1
    return count


@compiled
def _whiten(momenta, measured, slope, unit, prior, residual, jacobian) -> None:
    """Write residuals (N, 3) of unit noise and their derivatives by bonds (N, 3, D), blind to a drift."""
    assembly, blind = prior[0], prior[4]
    n, count = assembly.shape
    for i in range(n):
        p, q, r = (
            momenta[i, 0] - measured[i, 0],
            momenta[i, 1] - measured[i, 1],
            momenta[i, 2] - measured[i, 2],
        )
        for row in range(3):
            residual[i, row] = unit[row, 0] * p + unit[row, 1] * q + unit[row, 2] * r
        for d in range(count):
            for axis in range(3):
                p, q, r = 0.0, 0.0, 0.0
                for j in range(n):
                    p += slope[3 * i, 3 * j + axis] * assembly[j, d]
                    q += slope[3 * i + 1, 3 * j + axis] * assembly[j, d]
                    r += slope[3 * i + 2, 3 * j + axis] * assembly[j, d]
                for row in range(3):
                    jacobian[i, row, 3 * d + axis] = unit[row, 0] * p + unit[row, 1] * q + unit[row, 2] * r
    for row in range(3):
        drift = 0.0
        for i in range(n):
            drift += blind[i] * residual[i, row]
        for i in range(n):
            residual[i, row] -= blind[i] * drift
        for d in range(3 * count):
            drift = 0.0
            for i in range(n):
                drift += blind[i] * jacobian[i, row, d]
            for i in range(n):
                jacobian[i, row, d] -= blind[i] * drift


@compiled
def _add_prior(bonds, prior, mirrored, curvature, gradient, scratch) -> float:
    """Add the prior's terms to both, and return its sum of squares."""
    assembly, mean, root, along, _ = prior
    x, a, v, turn, slope = scratch
    n, count = assembly.shape
    a[:] = 0.0
    for i in range(n):
        for axis in range(3):
            x[i, axis] = 0.0
            for d in range(count):
                x[i, axis] += assembly[i, d] * bonds[d, axis]
            for row in range(3):
                a[row, axis] += mean[i, row] * x[i, axis]
    side = -1.0 if mirrored and dot(a[0], cross(a[1], a[2])) < 0.0 else 1.0
    a *= side
    nearest_rotation(a, v, turn)
    for i in range(n):
        p, q, r = side * x[i, 0], side * x[i, 1], side * x[i, 2]
        for axis in range(3):
            x[i, axis] = turn[axis, 0] * p + turn[axis, 1] * q + turn[axis, 2] * r - mean[i, axis]
    total = 0.0
    for q in range(len(root)):
        deviation = 0.0
        for i in range(n):
            deviation += root[q, i, 0] * x[i, 0] + root[q, i, 1] * x[i, 1] + root[q, i, 2] * x[i, 2]
        total += deviation * deviation
        for d in range(count):
            for axis in range(3):
                slope[3 * d + axis] = side * (
                    along[q, d, 0] * turn[0, axis]
                    + along[q, d, 1] * turn[1, axis]
                    + along[q, d, 2] * turn[2, axis]
                )
        for d in range(3 * count):
            gradient[d] += deviation * slope[d]
            for e in range(3 * count):
                curvature[d, e] += slope[d] * slope[e]
    return total


@compiled
def _move(bonds, step, out) -> None:
    """Write bonds (N - 1, 3) after a step (D,), straight where momenta are nearly linear."""
    for d in range(len(bonds)):
        x, y, z = bonds[d, 0], bonds[d, 1], bonds[d, 2]
        p, q, r = step[3 * d], step[3 * d + 1], step[3 * d + 2]
        square = x * x + y * y + z * z
        longer = _STRAIGHT * (x * p + y * q + z * r) / square
        p, q, r = x + p + longer * x, y + q + longer * y, z + r + longer * z
        # |u|^(1 / power - 1) with the power 1 + _STRAIGHT = -1 / 2, u over the length before
        back = (square / (p * p + q * q + r * r)) * math.sqrt(square / (p * p + q * q + r * r))
        out[d, 0], out[d, 1], out[d, 2] = back * p, back * q, back * r


@kernel
def turn_back(momenta, sigma, axes, ker, weighted, mirrored, turn, turned, unit) -> None:
    """Write how the prior's mean is turned to momenta (B, N, 3), (B, 3, 3), and events turned back by that.

    momenta and sigma (B, 3) of lab axes, the columns of axes (B, 3, 3), are over sqrt(KER); `turned` is
    in hbar / bohr, `unit` makes residuals of axes of unit noise. weighted: velocities of the mean, (N, 3).
    """
    a, v = np.empty((3, 3)), np.empty((3, 3))
    for b in range(len(momenta)):
        a[:] = 0.0
        for i in range(len(weighted)):
            for row in range(3):
                for axis in range(3):
                    a[row, axis] += weighted[i, row] * momenta[b, i, axis]
        side, size, own = (
            -1.0 if mirrored and dot(a[0], cross(a[1], a[2])) < 0.0 else 1.0,
            math.sqrt(ker[b]),
            turn[b],
        )
        a *= side
        nearest_rotation(a, v, own)
        own *= side
        for row in range(3):
            for i in range(len(weighted)):
                turned[b, i, row] = size * dot(momenta[b, i], own[row])
            for axis in range(3):
                value = (
                    own[row, 0] * axes[b, 0, axis]
                    + own[row, 1] * axes[b, 1, axis]
                    + own[row, 2] * axes[b, 2, axis]
                )
                unit[b, axis, row] = value / (sigma[b, axis] * size)


@kernel
def lengthen(bonds, curvature, turn, ker, power, centre, out) -> None:
    """Write bonds (B, D) as long as a power of their length, turned and times KER, and the curvature by them.

    bonds (B, N - 1, 3), bohr, and curvature (B, D, D) by them are turned back by turn (B, 3, 3).
    """
    count = bonds.shape[1]
    change, half = np.empty((count, 3, 3)), np.empty((3 * count, 3 * count))
    for b in range(len(bonds)):
        scale = ker[b] ** power
        for k in range(count):
            bond = bonds[b, k]
            square = dot(bond, bond)
            longer = math.sqrt(square) ** (power - 1.0)
            for axis in range(3):
                along = (
                    (1.0 / power - 1.0)
                    * (bond[0] * turn[b, 0, axis] + bond[1] * turn[b, 1, axis] + bond[2] * turn[b, 2, axis])
                    / square
                )
                centre[b, 3 * k + axis] = 0.0
                for row in range(3):
                    centre[b, 3 * k + axis] += scale * longer * bond[row] * turn[b, row, axis]
                    change[k, row, axis] = (turn[b, row, axis] + bond[row] * along) / (longer * scale)
        for d in range(3 * count):
            for k in range(count):
                for axis in range(3):
                    half[d, 3 * k + axis] = (
                        curvature[b, d, 3 * k] * change[k, 0, axis]
                        + curvature[b, d, 3 * k + 1] * change[k, 1, axis]
                        + curvature[b, d, 3 * k + 2] * change[k, 2, axis]
                    )
        for k in range(count):
            for axis in range(3):
                for e in range(3 * count):
                    out[b, 3 * k + axis, e] = (
                        change[k, 0, axis] * half[3 * k, e]
                        + change[k, 1, axis] * half[3 * k + 1, e]
                        + change[k, 2, axis] * half[3 * k + 2, e]
                    )
