"""The compiled inner loop of the simulator: blocks of explosions, one per lane.

Every array that changes ends in an axis of `LANES` explosions, and the innermost
loops run over that axis with a constant length, so that the compiler turns them into
vector instructions. Each lane picks its steps from its own state alone and waits with
steps of length zero once it has arrived: a result depends neither on the neighbours
in the block nor on how events are spread over threads.

Symbols follow `explosion`: y is the scaled position, w = dy/dz, tau = 4 T^2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LANES", "explode"]

LANES = 16

_OPTIONS = {"fastmath": True, "error_model": "numpy", "nogil": True, "cache": True}


@njit(inline="always")
def _forces(y, factor, masses, charges, tau, out, inverse):
    """Write S(y) * factor to `out`, and 1 / r of every pair to `inverse`."""
    n_atoms = masses.shape[0]
    for d in range(3 * n_atoms):
        for l in range(LANES):
            out[d, l] = 0.0
    pair = 0
    for i in range(n_atoms):
        for j in range(i + 1, n_atoms):
            strength = charges[i] * charges[j]
            for l in range(LANES):
                dx = y[3 * i, l] - y[3 * j, l]
                dy = y[3 * i + 1, l] - y[3 * j + 1, l]
                dz = y[3 * i + 2, l] - y[3 * j + 2, l]
                r = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                inverse[pair, l] = r
                pull = strength * r * r * r
                out[3 * i, l] += pull * dx
                out[3 * i + 1, l] += pull * dy
                out[3 * i + 2, l] += pull * dz
                out[3 * j, l] -= pull * dx
                out[3 * j + 1, l] -= pull * dy
                out[3 * j + 2, l] -= pull * dz
            pair += 1
    for i in range(n_atoms):
        weight = 1.0 / masses[i]
        for d in range(3 * i, 3 * i + 3):
            for l in range(LANES):
                out[d, l] = (tau[l] * weight * out[d, l] - 2.0 * y[d, l]) * factor[l]


@njit(inline="always")
def _step_length(w, z, z1, eta, masses, charges, tau, inverse, total, h):
    """Write the next step of every lane to `h`; return whether any lane still moves."""
    n_atoms = masses.shape[0]
    for l in range(LANES):
        total[l] = 0.0
    pair = 0
    for i in range(n_atoms):
        for j in range(i + 1, n_atoms):
            strength = charges[i] * charges[j] * (1.0 / masses[i] + 1.0 / masses[j])
            for l in range(LANES):
                ux = w[3 * i, l] - w[3 * j, l]
                uy = w[3 * i + 1, l] - w[3 * j + 1, l]
                uz = w[3 * i + 2, l] - w[3 * j + 2, l]
                r = inverse[pair, l]
                field = tau[l] * strength * r * r * r / (1.0 - z[l] * z[l])
                omega = field + (ux * ux + uy * uy + uz * uz) * r * r
                total[l] += omega * omega
            pair += 1
    moving = False
    for l in range(LANES):
        left = z1 - z[l]
        free = eta / math.sqrt(math.sqrt(total[l]))
        count = math.ceil(left / free)
        # The last three steps are made equal, so that none is a sliver.
        even = left / max(count, 1.0)
        h[l] = free if count > 3.0 else even
        if left > 0.0:
            moving = True
    return moving


@njit(**_OPTIONS)
def _explode_block(x, masses, charges, a, c, bp, eta, z1, nodes, weights, scratch, p):
    """Explode one block: positions x (3N, LANES) to momenta p."""
    n_atoms = masses.shape[0]
    n = 3 * n_atoms
    stages = c.shape[0]
    n_tail = nodes.shape[0]
    rows = max(stages, n_tail)
    y = scratch[0:n]
    w = scratch[n : 2 * n]
    s = scratch[2 * n : 3 * n]
    start = scratch[3 * n : 4 * n]
    k = scratch[4 * n : (4 + rows) * n].reshape((rows, n, LANES))
    offset = (4 + rows) * n
    inverse = scratch[offset : offset + n_atoms * (n_atoms - 1) // 2]
    offset += n_atoms * (n_atoms - 1) // 2
    tau, z, h = scratch[offset], scratch[offset + 1], scratch[offset + 2]
    energy, factor = scratch[offset + 3], scratch[offset + 4]
    zero = energy[0] * 0  # a zero of the working precision

    _centre(x, masses, y)
    # I0 = sum m x^2 and U0; tau = 4 T^2 = 2 I0 / U0 makes the expansion stationary.
    for l in range(LANES):
        tau[l] = zero
        energy[l] = zero
        z[l] = zero
    for i in range(n_atoms):
        for d in range(3 * i, 3 * i + 3):
            for l in range(LANES):
                tau[l] += masses[i] * y[d, l] * y[d, l]
                w[d, l] = zero
        for j in range(i + 1, n_atoms):
            for l in range(LANES):
                dx = y[3 * i, l] - y[3 * j, l]
                dy = y[3 * i + 1, l] - y[3 * j + 1, l]
                dz = y[3 * i + 2, l] - y[3 * j + 2, l]
                energy[l] += charges[i] * charges[j] / math.sqrt(dx * dx + dy * dy + dz * dz)
    for l in range(LANES):
        tau[l] = 2.0 * tau[l] / energy[l]
        factor[l] = 1.0
    _forces(y, factor, masses, charges, tau, k[0], inverse)

    while _step_length(w, z, z1, eta, masses, charges, tau, inverse, factor, h):
        for stage in range(1, stages):
            for d in range(n):
                for l in range(LANES):
                    s[d, l] = zero
                for j in range(stage):
                    coefficient = a[stage, j]
                    for l in range(LANES):
                        s[d, l] += coefficient * k[j, d, l]
                for l in range(LANES):
                    s[d, l] = y[d, l] + h[l] * (c[stage] * w[d, l] + h[l] * s[d, l])
            for l in range(LANES):
                at = z[l] + c[stage] * h[l]
                factor[l] = 1.0 / (1.0 - at * at)
            _forces(s, factor, masses, charges, tau, k[stage], inverse)
        for d in range(n):
            for l in range(LANES):
                start[d, l] = zero
            for j in range(stages):
                coefficient = bp[j]
                for l in range(LANES):
                    start[d, l] += coefficient * k[j, d, l]
            for l in range(LANES):
                w[d, l] += h[l] * start[d, l]
                y[d, l] = s[d, l]
                k[0, d, l] = k[stages - 1, d, l]
        for l in range(LANES):
            z[l] += h[l]
            if z1 - z[l] < 1e-6 * h[l]:
                z[l] = z1

    for l in range(LANES):
        factor[l] = 1.0
    _forces(y, factor, masses, charges, tau, k[0], inverse)
    for t in range(n_tail):
        reach = nodes[t] - z1
        for d in range(n):
            for l in range(LANES):
                s[d, l] = y[d, l] + reach * w[d, l]
            for j in range(t + 1):
                coefficient = weights[t, j]
                for l in range(LANES):
                    s[d, l] += coefficient * k[j, d, l]
        if t + 1 < n_tail:
            _forces(s, factor, masses, charges, tau, k[t + 1], inverse)

    # p = m y(1) / T with T = sqrt(tau) / 2; then the exact energy is imposed.
    for l in range(LANES):
        z[l] = 2.0 / math.sqrt(tau[l])
        h[l] = zero
    for i in range(n_atoms):
        for d in range(3 * i, 3 * i + 3):
            for l in range(LANES):
                p[d, l] = masses[i] * s[d, l] * z[l]
                h[l] += p[d, l] * p[d, l] / (2.0 * masses[i])
    for l in range(LANES):
        h[l] = math.sqrt(energy[l] / h[l])
    for d in range(n):
        for l in range(LANES):
            p[d, l] *= h[l]


@njit(inline="always")
def _centre(x, masses, y):
    """Write the positions from the centre of mass to `y`."""
    n_atoms = masses.shape[0]
    total = masses[0] * 0
    for i in range(n_atoms):
        total += masses[i]
    for axis in range(3):
        for l in range(LANES):
            middle = masses[0] * 0
            for i in range(n_atoms):
                middle += masses[i] / total * x[3 * i + axis, l]
            for i in range(n_atoms):
                y[3 * i + axis, l] = x[3 * i + axis, l] - middle


@njit(**_OPTIONS)
def explode(
    positions: NDArray[np.floating],
    masses: NDArray[np.floating],
    charges: NDArray[np.floating],
    a: NDArray[np.floating],
    c: NDArray[np.floating],
    bp: NDArray[np.floating],
    eta: float,
    z1: float,
    nodes: NDArray[np.floating],
    weights: NDArray[np.floating],
    momenta: NDArray[np.floating],
) -> None:
    """Write the asymptotic momenta of `positions` (B, 3N) to `momenta` (B, 3N).

    All arrays share one floating type, which is the precision of the calculation.
    The last block is filled up with copies of its last explosion.
    """
    count, n = positions.shape
    n_atoms = masses.shape[0]
    rows = max(c.shape[0], nodes.shape[0])
    pairs = n_atoms * (n_atoms - 1) // 2
    scratch = np.zeros(((4 + rows) * n + pairs + 5, LANES), positions.dtype)
    x = np.zeros((n, LANES), positions.dtype)
    p = np.zeros((n, LANES), positions.dtype)
    for first in range(0, count, LANES):
        for l in range(LANES):
            event = min(first + l, count - 1)
            for d in range(n):
                x[d, l] = positions[event, d]
        _explode_block(x, masses, charges, a, c, bp, eta, z1, nodes, weights, scratch, p)
        for l in range(min(LANES, count - first)):
            for d in range(n):
                momenta[first + l, d] = p[d, l]
