"""Charges that build up, on rows of lanes: docs/simulator.md, Charges that build up.

Ion i has the share g_i(t) = 1 - sum over k of A_ik exp(-t / time_k) of its charge, more than 1 where it gives
some away, and the force of a pair the factor g_i g_j. What is called growth is None for charges that are
there at once, else a tuple of K zeros, whose length numba compiles in, the A_ik (N, K), and what the setting
says: the pace of steps while charges grow, the least T in units of the longest time, and the shortest time
that is told from 0 in units of T.
"""

from __future__ import annotations

import numpy as np

from flowcei.physics._compilation import compiled
from flowcei.physics._lanes import (
    LANES,
    Lanes,
    ceil,
    exponent,
    lanes_of,
    load,
    power_of_two,
    sqrt,
    store,
    where_greater,
)

_SINGLE = max(LANES.values())  # lanes of single precision
_LN2 = 0.6931471805599453
_FADED = 80.0  # times after which nothing is left; exp(-80) is within the range of single precision
_FACTORIALS = tuple(1.0 / float(np.prod(np.arange(1.0, k + 1))) for k in range(13))  # of exp
ODDS = tuple(1.0 / k for k in range(1, 22, 2))  # of atanh
# Of T^2, by tau / T: slow charges make slow explosions; with 0.25 the tail is ten times as far off.
_STRETCH = 1.0


@compiled
def exp_minus(u, terms) -> Lanes:
    """exp(-u) of u from -80 to 80: 7 terms of the series are exact in single precision, 11 reach 3e-13."""
    n = ceil(u * (-1.0 / _LN2) - 0.5)
    r = n * -_LN2 - u
    total = 0.0 * u + _FACTORIALS[terms - 1]
    for k in range(2, terms + 1):
        total = total * r + _FACTORIALS[terms - k]
    return total * power_of_two(n)


@compiled
def atanh(z, factor, terms) -> Lanes:
    """Inverse hyperbolic tangent of z from 0 to below 1, given 1 / (1 - z^2); 4 terms reach 1e-7, 8 1e-13."""
    e = exponent((1.0 + z) * (1.0 + z) * factor * 1.4142135623730951)
    scale = power_of_two(e)
    s = (1.0 - scale + z * (1.0 + scale)) / (1.0 + scale + z * (1.0 - scale))
    square, total = s * s, 0.0 * s + ODDS[terms - 1]
    for k in range(2, terms + 1):
        total = total * square + ODDS[terms - k]
    return e * (0.5 * _LN2) + s * total


@compiled
def stretched(rows, o, tau, size, growth) -> Lanes:
    """Enter growth at z = 0, with build-up times in rows `times` ...; return the 4 T^2 that suits them."""
    _, _, _, least, shortest = growth
    longest, shortest = 0.0 * tau, sqrt(tau) * (0.5 * shortest)
    for k in range(o.fading):
        time = load(rows, o.times + k) * size * sqrt(size)
        time = where_greater(time, shortest, time, shortest)
        longest = where_greater(time, longest, time, longest)
        store(rows, o.times + k, 1.0 / time)
        store(rows, o.times + o.fading + k, 1.0)
    for row in range(o.shares, o.total):
        store(rows, row, 0.0)
    natural = tau + 2.0 * _STRETCH * longest * sqrt(tau)  # 4 T^2 (1 + stretch tau / T)
    needed = 4.0 * least * least * longest * longest
    return where_greater(natural, needed, natural, needed)


@compiled
def begun(rows, o, n, strengths, growth, shares) -> Lanes:
    """Write the shares of all ions at the start to rows `shares` ...; return the energy of all pairs."""
    for i in range(n):
        store(rows, shares + i, 1.0)
        for k in range(o.fading):
            store(rows, shares + i, load(rows, shares + i) - growth[1][i, k])
    pair, energy = 0, 0.0 * load(rows, shares)
    for i in range(n):
        for j in range(i + 1, n):
            share = load(rows, shares + i) * load(rows, shares + j)
            store(rows, o.pairs + 2 * pair, share)
            energy = energy + share * strengths[pair] * load(rows, o.inverse + pair)
            pair += 1
    return energy


@compiled
def grow(rows, o, n, growth, tau, z, factor, shares) -> None:
    """Write the shares of all ions to rows `shares` ..., and the fading of each build-up time, at z."""
    single = lanes_of(rows) == _SINGLE
    time = sqrt(tau) * 0.5 * (atanh(z, factor, 4 if single else 8) + z * factor)
    for i in range(n):
        store(rows, shares + i, 1.0)
    for k in range(o.fading):
        u = time * load(rows, o.times + k)
        u = where_greater(u, _FADED, _FADED, u)
        left = where_greater(u, 0.999 * _FADED, 0.0, exp_minus(u, 7 if single else 11))
        store(rows, o.times + o.fading + k, left)
        for i in range(n):
            store(rows, shares + i, load(rows, shares + i) - left * growth[1][i, k])


@compiled
def growing(rows, o, n, passing, growth) -> Lanes:
    """Write how fast shares change, dt/dz = `passing`; return the rate of steps to the fourth power."""
    total = 0.0 * passing
    for i in range(n):
        store(rows, o.changes + i, 0.0)
    for k in range(o.fading):
        rate, left = load(rows, o.times + k) * passing, load(rows, o.times + o.fading + k)
        for i in range(n):
            store(rows, o.changes + i, load(rows, o.changes + i) + rate * left * growth[1][i, k])
        # What a step of order p misses goes like rate^p exp(-t / tau): the rate may fade with its p-th root.
        rate = rate * growth[2]
        total = total + rate * rate * rate * rate * sqrt(left)
    for i in range(n):
        change = load(rows, o.changes + i)
        store(rows, o.changes + i, where_greater(change, 0.0, change, 0.0 - change))
    return total


@compiled
def gained(rows, o, i, j, pair, energy, shares) -> tuple[Lanes, Lanes]:
    """Return the product of the shares of a pair, and the energy that its growth brought since the last call.

    `energy` is what the pair would have with all charges. The energy of an explosion is no more than the
    integral of it over the product: by trapezia, within a percent from stage to stage.
    """
    share = load(rows, shares + i) * load(rows, shares + j)
    at = o.pairs + 2 * pair
    work = 0.5 * (share - load(rows, at)) * (energy + load(rows, at + 1))
    store(rows, at, share)
    store(rows, at + 1, energy)
    return share, work
