"""Atoms placed one after the other by lengths, angles and dihedrals; geometries turned, and centred."""

from __future__ import annotations

import math

from flowcei.physics._elementary import circle, logarithm, normal_quantile, root
from flowcei.physics._lanes import (
    Lanes,
    aligned,
    ceil,
    keep,
    lanes_of,
    load,
    rsqrt,
    scratch,
    store,
    where_greater,
)
from flowcei.physics._random import random_words, uniform
from flowcei.physics._vectors import between, combine, cross, dot, scaled, unit_vector
from flowcei.storage._compilation import compiled, kernel

GIVEN, UNIFORM, NORMAL, BEND = 0, 1, 2, 3  # forms of a law
_ALMOST = 1.0 - 2.0**-53
_SMALL = 1e-12  # below it -log(1 - p) is p
_TURNING = 6  # rows that `_turn` needs beside those of atoms


@kernel
def place(key, sites, laws, given, x) -> None:
    """Write geometries to x (n, N, 3), their coordinates drawn of laws and a key (2,), turned at random.

    sites (N, 4): an atom and those that its length, angle and dihedral refer to, -1 for none. laws (M, 7): of
    the coordinates (lengths, bohr, angles, degrees), row after row, the form, low, high, mean, deviation and,
    of the normal before it is cut, the share below `low` and that between; of a bend only the last. given
    (G, n): values, in their order, of coordinates of form `GIVEN`.
    """
    m, values = len(laws), 3 * x.shape[1]
    room = scratch(values + max(3 * m + 1, _TURNING), x[0, 0])
    rows = aligned(room)
    lanes = lanes_of(rows)
    for first in range(0, len(x), lanes):
        count = min(lanes, len(x) - first)
        _coordinates(key, first, count, laws, given, rows, values)
        for d in range(3):
            store(rows, 3 * sites[0, 0] + d, 0.0)
        k = values
        for row in sites[1:]:
            atom, origin, second, third = row[0], row[1], row[2], row[3]
            length = load(rows, k)
            zero = 0.0 * length
            along, side, cosine, sine = (zero, zero, zero + 1.0), (zero + 1.0, zero, zero), zero + 1.0, zero
            turned, across = zero + 1.0, zero
            k += 1
            if second >= 0:
                along = _unit(_between(rows, origin, second))
                cosine, sine = load(rows, k + m), load(rows, k + 2 * m)
                k += 1
            if third >= 0:
                v = _between(rows, second, third)
                side = _unit(combine(1.0, v, 0.0 - dot(v, along), along))
                turned, across = load(rows, k + m), load(rows, k + 2 * m)
                k += 1
            sideways = combine(turned, side, across, cross(along, side))
            direction = combine(cosine, along, sine, sideways)
            _write(rows, atom, combine(1.0, _atom(rows, origin), length, direction))
        _turn(key, first, (m + 1) // 2, x.shape[1], rows)
        _scatter(rows, first, count, x)
    keep(room)


@kernel
def turn(key, x, out) -> None:
    """Write geometries x (n, N, 3), each turned by a rotation of its own of a key (2,), to `out`."""
    room = scratch(3 * x.shape[1] + _TURNING, x[0, 0])
    rows = aligned(room)
    lanes = lanes_of(rows)
    for first in range(0, len(x), lanes):
        count = min(lanes, len(x) - first)
        for lane in range(count):
            for i in range(x.shape[1]):
                for axis in range(3):
                    rows[(3 * i + axis) * lanes + lane] = x[first + lane, i, axis]
        _turn(key, first, 0, x.shape[1], rows)
        _scatter(rows, first, count, out)
    keep(room)


@compiled
def _coordinates(key, first, count, laws, given, rows, target) -> None:
    """Write the M coordinates of the lanes' events, from event `first` on, their cosines and their sines.

    To rows from `target` on. Of a length cosine and sine mean nothing.
    """
    lanes, m, stated = lanes_of(rows), len(laws), 0
    for k in range(0, m, 2):
        words = random_words(key[0], key[1], first, k // 2)
        store(rows, target + k, uniform(words[0]))
        store(rows, target + k + 1, uniform(words[1]))
    for k in range(m):
        store(rows, target + k, _of_law(load(rows, target + k), laws[k]))
        if laws[k, 0] == GIVEN:
            for lane in range(count):
                rows[(target + k) * lanes + lane] = given[stated, first + lane]
            stated += 1
        t = load(rows, target + k) * (1.0 / 360.0)
        cosine, sine = circle(t - ceil(t - 0.5))
        store(rows, target + m + k, cosine)
        store(rows, target + 2 * m + k, sine)


@compiled
def _of_law(u, law) -> Lanes:
    """What of a law is below with probability u: see `distributions.Distribution`."""
    low, high, mean, deviation, below, share = law[1], law[2], law[3], law[4], law[5], law[6]
    value = low + (high - low) * u
    if law[0] == BEND:
        p = share * u
        fall = where_greater(p, _SMALL, 0.0 - logarithm(1.0 - p), p)  # of a bend far wider than 180 degrees
        value = high - deviation * root(2.0 * fall)
    if law[0] == NORMAL:
        p = below + share * u
        value = mean + deviation * normal_quantile(where_greater(p, _ALMOST, _ALMOST, p))
        value = where_greater(value, high, high, value)
        value = where_greater(low, value, low, value)
    return value


@compiled
def _unit(u) -> tuple[Lanes, Lanes, Lanes]:
    return scaled(rsqrt(dot(u, u)), u)


@compiled
def _atom(rows, i) -> tuple[Lanes, Lanes, Lanes]:
    return load(rows, 3 * i), load(rows, 3 * i + 1), load(rows, 3 * i + 2)


@compiled
def _write(rows, i, x) -> None:
    store(rows, 3 * i, x[0])
    store(rows, 3 * i + 1, x[1])
    store(rows, 3 * i + 2, x[2])


@compiled
def _between(rows, i, j) -> tuple[Lanes, Lanes, Lanes]:
    """Vector from atom i to atom j."""
    return combine(1.0, _atom(rows, j), -1.0, _atom(rows, i))


@compiled
def _turn(key, first, slot, atoms, rows) -> None:
    """Turn the lanes' atoms by rotations uniform over SO(3), of two slots of a key.

    By a quaternion uniform over the directions of four dimensions: K. Shoemake, in Graphics Gems III (1992).
    """
    room = 3 * atoms
    for k in range(2):
        words = random_words(key[0], key[1], first, slot + k)
        cosine, sine = circle(uniform(words[1 - k]) - 0.5)
        store(rows, room + 3 * k, cosine)
        store(rows, room + 3 * k + 1, sine)
        store(rows, room + 3 * k + 2, uniform(words[k]))
    share = load(rows, room + 2)
    wide, narrow = root(share), root(1.0 - share)
    u = wide * load(rows, room), wide * load(rows, room + 1), narrow * load(rows, room + 3)
    w = narrow * load(rows, room + 4)
    for i in range(atoms):
        x = _atom(rows, i)
        side = cross(u, x)  # x' = x + 2 w (u x x) + 2 u x (u x x)
        shift = combine(w, side, 1.0, cross(u, side))
        _write(rows, i, combine(1.0, x, 2.0, shift))


@compiled
def _scatter(rows, first, count, x) -> None:
    """Write the lanes' atoms to events from `first` on of x (n, N, 3)."""
    lanes = lanes_of(rows)
    for lane in range(count):
        for i in range(x.shape[1]):
            for axis in range(3):
                x[first + lane, i, axis] = rows[(3 * i + axis) * lanes + lane]


@kernel
def read_off(x, sites, lengths, across, along) -> None:
    """Write what places one atom of geometries (B, N, 3): lengths (B,), bohr, and tangents of angles.

    `sites` are the atom and those that its length, angle and dihedral refer to. Angle and dihedral are the
    arctan2 of `across` and `along`, both (2, B).
    """
    for b in range(len(x)):
        bond = between(x[b], sites[1], sites[0])
        lengths[b] = math.sqrt(dot(bond, bond))
        if len(sites) > 2:
            axis = unit_vector(between(x[b], sites[1], sites[2]))
            normal = cross(axis, bond)
            across[0, b], along[0, b] = math.sqrt(dot(normal, normal)), dot(axis, bond)
            if len(sites) > 3:
                v = between(x[b], sites[2], sites[3])
                side = unit_vector(combine(1.0, v, -dot(v, axis), axis))
                across[1, b], along[1, b] = dot(bond, cross(axis, side)), dot(bond, side)


@kernel
def centre(positions, shares) -> None:
    """Move positions (B, N, 3) so that their mean with weights `shares` (N,), of sum 1, is at the origin."""
    for b in range(len(positions)):
        x, y, z = 0.0, 0.0, 0.0
        for i in range(len(shares)):
            x += shares[i] * positions[b, i, 0]
            y += shares[i] * positions[b, i, 1]
            z += shares[i] * positions[b, i, 2]
        for i in range(len(shares)):
            positions[b, i, 0] -= x
            positions[b, i, 1] -= y
            positions[b, i, 2] -= z
