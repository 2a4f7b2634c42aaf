"""Charges that build up, on rows of lanes: docs/simulator.md, Charges that build up.

Ion i has the share g_i(t) = (1 - exp(-t / tau_i)) (1 - d_i exp(-t / time)) of its charge, more than 1 where
it gives some away, and the force of a pair the factor g_i g_j. What is called growth is None for charges that
are there at once, else two tuples of zeros, whose lengths numba compiles in: of all times, and of build-up
times, one for all ions, N or none; after these there is one time where charge moves. Then the d_i, and what
the setting says: the pace of steps while charges grow, the least T in units of the longest time, the shortest
time that is told from 0 in units of T, t / T at the nodes of the tail, by how much T^2 grows with tau / T,
and by how much steps do.
"""

from __future__ import annotations

import numpy as np

from flowcei.physics._elementary import LN2, ROOTS, fitted, polynomial
from flowcei.physics._lanes import (
    LANES,
    Lanes,
    any_positive,
    ceil,
    exponent,
    lanes_of,
    load,
    power_of_two,
    rough_sqrt,
    sqrt,
    store,
    where_greater,
)
from flowcei.storage._compilation import compiled

_SINGLE = max(LANES.values())  # lanes of single precision
_FACTORIALS = tuple(1.0 / float(np.prod(np.arange(1.0, k + 1))) for k in range(13))  # of exp
ODDS = tuple(1.0 / k for k in range(1, 22, 2))  # of atanh
_FADED = 29.0, 58.0  # half-lives after which what is left is rounding, of single and double precision
# Of 2^x and, of s^2, of atanh(s) / s: in single precision within 1e-7, after it in double within 1e-11.
_POWER = fitted(np.exp2, -0.5, 0.5, 6) + fitted(np.exp2, -0.5, 0.5, 9)
_RATIO = ROOTS(3) + ROOTS(5)


@compiled
def _halved(u, single) -> Lanes:
    """2^-u of u from 0 to 100."""
    n = ceil(-0.5 - u)
    x = 0.0 - u - n
    power = polynomial(x, _POWER, 0, 6) if single else polynomial(x, _POWER, 6, 9)
    return power * power_of_two(n)


@compiled
def exp_minus(u, terms) -> Lanes:
    """exp(-u) of u from -80 to 80: 7 terms of the series are exact in single precision, 10 reach 7e-12."""
    n = ceil(u * (-1.0 / LN2) - 0.5)
    r = n * -LN2 - u
    total = 0.0 * u + _FACTORIALS[terms - 1]
    for k in range(2, terms + 1):
        total = total * r + _FACTORIALS[terms - k]
    return total * power_of_two(n)


@compiled
def _atanh(z, factor, single) -> Lanes:
    """Inverse hyperbolic tangent of z from 0 to below 1, given 1 / (1 - z^2)."""
    e = exponent((1.0 + z) * (1.0 + z) * factor * 1.4142135623730951)
    scale = power_of_two(e)
    s = (1.0 - scale + z * (1.0 + scale)) / (1.0 + scale + z * (1.0 - scale))
    square = s * s
    ratio = polynomial(square, _RATIO, 0, 3) if single else polynomial(square, _RATIO, 3, 5)
    return e * (0.5 * LN2) + s * ratio


@compiled
def stretched(rows, o, tau, size, growth) -> Lanes:
    """Enter growth at z = 0, times in rows `times` ... becoming T over half-lives; return the 4 T^2."""
    _, _, _, _, least, shortest, _, stretch, _ = growth
    longest, shortest = 0.0 * tau, sqrt(tau) * (0.5 * shortest)
    for k in range(o.fading):
        time = load(rows, o.times + k) * size * sqrt(size)
        time = where_greater(time, shortest, time, shortest)
        longest = where_greater(time, longest, time, longest)
        store(rows, o.times + k, 1.0 / time)
        store(rows, o.times + o.fading + k, 1.0)
    for row in range(o.shares, o.total):
        store(rows, row, 0.0)
    natural = tau + 2.0 * stretch * longest * sqrt(tau)  # 4 T^2 (1 + stretch tau / T)
    needed = 4.0 * least * least * longest * longest
    chosen = where_greater(natural, needed, natural, needed)
    for k in range(o.fading):
        store(rows, o.times + k, load(rows, o.times + k) * (sqrt(chosen) * (0.5 / LN2)))
    return chosen


@compiled
def product(rows, o, i, j, shares) -> Lanes:
    """Product of the shares of two ions, which stand in rows `shares` ...."""
    return load(rows, shares + min(i, o.sharing - 1)) * load(rows, shares + min(j, o.sharing - 1))


@compiled
def begun(rows, o, n, strengths, growth, shares) -> Lanes:
    """Write the shares of all ions at the start to rows `shares` ...; return the energy of all pairs."""
    _write_shares(rows, o, growth, shares)
    pair, energy = 0, 0.0 * load(rows, shares)
    for i in range(n):
        for j in range(i + 1, n):
            share = product(rows, o, i, j, shares)
            store(rows, o.pairs + (0 if o.sharing == 1 else 2 * pair), share)
            energy = energy + share * strengths[pair] * load(rows, o.inverse + pair)
            pair += 1
    return energy


@compiled
def _write_shares(rows, o, growth, shares) -> None:
    """Write the shares of all ions to rows `shares` ..., by what is left of each time."""
    builds = len(growth[1])
    fades = o.times + o.fading
    for i in range(o.sharing):
        share = 1.0 + 0.0 * load(rows, fades)
        if builds:
            share = 1.0 - load(rows, fades + min(i, builds - 1))
        if o.fading > builds:
            share = share * (1.0 - load(rows, fades + builds) * growth[2][i])
        store(rows, shares + i, share)


@compiled
def grow(rows, o, growth, elapsed, shares) -> None:
    """Write the shares of all ions to rows `shares` ..., and the fading of each time, at t / T."""
    single = lanes_of(rows) == _SINGLE
    faded = _FADED[0 if single else 1]
    for k in range(o.fading):
        u = elapsed * load(rows, o.times + k)
        store(rows, o.times + o.fading + k, where_greater(u, faded, 0.0, _halved(u, single)))
    _write_shares(rows, o, growth, shares)


@compiled
def grow_stages(rows, o, growth, z, h, c) -> None:
    """`grow` at all stages of a step; write 1 / (1 - z^2) of each to rows `factors` ....

    All at once: one alone would wait for its own divisions. Two stages may be at the end of a step.
    """
    single, left = lanes_of(rows) == _SINGLE, 0.0 * z
    for k in range(o.fading):
        left = left + load(rows, o.times + o.fading + k)
    going = any_positive(left)
    for stage in range(1, len(c)):
        if stage + 1 < len(c) and c[stage] == c[stage + 1]:
            continue
        at, shares = z + h * c[stage], o.shares + stage * o.sharing
        factor = 1.0 / (1.0 - at * at)
        store(rows, o.factors + stage, factor)
        if going:
            grow(rows, o, growth, _atanh(at, factor, single) + at * factor, shares)
        else:  # which is what it would write
            for i in range(o.sharing):
                store(rows, shares + i, 1.0)


@compiled
def growing(rows, o, passing, growth) -> Lanes:
    """Write how fast shares change, dt/dz = `passing` T; return the rate of steps to the fourth power."""
    builds = len(growth[1])
    total, fades, passing = 0.0 * passing, o.times + o.fading, passing * LN2
    for k in range(o.fading):
        # What a step of order p misses goes like rate^p exp(-t / tau): the rate may fade with its p-th root.
        rate = load(rows, o.times + k) * passing * growth[3]
        own = rate * rate * rate * rate * rough_sqrt(load(rows, fades + k))
        total = total + own if k == builds else where_greater(own, total, own, total)
    for i in range(o.sharing):
        change, share = 0.0 * passing, 1.0 + 0.0 * passing
        if builds:
            k = min(i, builds - 1)
            change, share = load(rows, o.times + k) * load(rows, fades + k), 1.0 - load(rows, fades + k)
        if o.fading > builds:
            k, moved = builds, load(rows, fades + builds) * growth[2][i]
            change = change * (1.0 - moved) + share * moved * load(rows, o.times + k)
        change = change * passing
        store(rows, o.changes + i, where_greater(change, 0.0, change, 0.0 - change))
    return total


@compiled
def gained(rows, o, n, strengths, shrink, shares) -> Lanes:
    """Energy that growth brought since the last call, of pairs at `inverse`, with 1 / R = `shrink`."""
    pair, work, total = 0, 0.0 * shrink, 0.0 * shrink
    for i in range(n):
        for j in range(i + 1, n):
            energy = load(rows, o.inverse + pair) * strengths[pair]
            total = total + energy
            if o.sharing > 1:
                share = product(rows, o, i, j, shares)
                work = work + _traded(rows, o.pairs + 2 * pair, share, energy * shrink)
            pair += 1
    if o.sharing == 1:
        work = _traded(rows, o.pairs, product(rows, o, 0, 0, shares), total * shrink)
    return work


@compiled
def _traded(rows, at, share, energy) -> Lanes:
    """`gained` of one pair, whose product of shares and energy with all charges are in rows at, at + 1.

    That of an explosion is only the integral of the latter over the former: by trapezia, within a percent.
    """
    work = 0.5 * (share - load(rows, at)) * (energy + load(rows, at + 1))
    store(rows, at, share)
    store(rows, at + 1, energy)
    return work
