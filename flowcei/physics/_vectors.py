"""What several kernels need: vectors in space, as tuples of three numbers, and sorted insertion."""

from __future__ import annotations

import math

from flowcei.storage._compilation import compiled


@compiled
def between(points, i, j) -> tuple[float, float, float]:
    """Vector from point i to point j of points (N, 3)."""
    return points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]


@compiled
def dot(u, v) -> float:
    """Scalar product of two vectors."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


@compiled
def cross(u, v) -> tuple[float, float, float]:
    """Vector product of two vectors."""
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]


@compiled
def combine(a, u, b, v) -> tuple[float, float, float]:
    """Linear combination a u + b v of two vectors."""
    return a * u[0] + b * v[0], a * u[1] + b * v[1], a * u[2] + b * v[2]


@compiled
def scaled(a, u) -> tuple[float, float, float]:
    """Vector a u."""
    return a * u[0], a * u[1], a * u[2]


@compiled
def unit_vector(u) -> tuple[float, float, float]:
    """Vector of length 1 in the direction of u."""
    return scaled(1.0 / math.sqrt(dot(u, u)), u)


@compiled
def across(m) -> tuple[float, float, float]:
    """Unit vector at right angles to a unit vector."""
    return unit_vector((0.0, m[2], -m[1])) if abs(m[0]) < 0.6 else unit_vector((-m[2], 0.0, m[0]))


@compiled
def copy(source, target) -> None:
    """Copy an array of one or two axes: `target[:] = source` would compile for seconds, for its message."""
    for i in range(len(source)):
        if source.ndim == 1:
            target[i] = source[i]
        else:
            for j in range(source.shape[1]):
                target[i, j] = source[i, j]


@compiled
def insert(keys, values, count, key, value) -> None:
    """Insert a key and its value into the first `count` entries of two arrays, sorted by rising key."""
    at = count
    while at > 0 and keys[at - 1] > key:
        keys[at], values[at] = keys[at - 1], values[at - 1]
        at -= 1
    keys[at], values[at] = key, value
