"""Atoms placed one after the other by lengths, angles and dihedrals; geometries moved to their centres."""

from __future__ import annotations

import math

from flowcei.physics._vectors import between, combine, cross, dot, unit_vector
from flowcei.storage._compilation import kernel

_DEGREE = math.pi / 180.0


@kernel
def place(rows, values, x) -> None:
    """Write atoms to x (n, N, 3), in the order of `rows`; one that is in no row is at the origin.

    rows (K, 4): an atom and those that its length, angle and dihedral refer to, -1 for none. values (M, n):
    of row after row its length, bohr, angle and dihedral, degrees. The second atom of all lies on the z axis,
    the third in the xz plane.
    """
    x[:] = 0.0
    for b in range(len(x)):
        k = 0
        for row in rows:
            atom, origin, second, third = row[0], row[1], row[2], row[3]
            along, side, cosine, sine = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), 1.0, 0.0
            turned, across = 1.0, 0.0
            length = values[k, b]
            k += 1
            if second >= 0:
                along = unit_vector(between(x[b], origin, second))
                cosine, sine = math.cos(_DEGREE * values[k, b]), math.sin(_DEGREE * values[k, b])
                k += 1
            if third >= 0:
                v = between(x[b], second, third)
                side = unit_vector(combine(1.0, v, -dot(v, along), along))
                turned, across = math.cos(_DEGREE * values[k, b]), math.sin(_DEGREE * values[k, b])
                k += 1
            normal = cross(along, side)
            for axis in range(3):
                sideways = turned * side[axis] + across * normal[axis]
                x[b, atom, axis] = x[b, origin, axis] + length * (cosine * along[axis] + sine * sideways)


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
        for axis in range(3):
            mean = 0.0
            for i in range(positions.shape[1]):
                mean += shares[i] * positions[b, i, axis]
            for i in range(positions.shape[1]):
                positions[b, i, axis] -= mean
