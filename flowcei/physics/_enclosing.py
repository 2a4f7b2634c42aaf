"""The smallest ball around a few points, and the room that a larger ball leaves them.

The volume is exact: an intersection of balls is bounded by spherical polygons whose edges are
arcs of circles, and both the area and the vector area of a polygon are sums over its edges.
"""

from __future__ import annotations

import math

import numpy as np

from flowcei.physics._vectors import across, between, combine, cross, dot, insert, scaled, unit_vector
from flowcei.storage._compilation import compiled, kernel

ROUNDING = 1e-9
"""Bohr by which a geometry may miss a support: what rotating and storing it costs, and more."""

_TURN = 2.0 * math.pi


@compiled
def _square(points, i, ball) -> float:
    """Squared distance of point i from the centre of a ball (x, y, z, squared radius)."""
    apart = combine(1.0, points[i], -1.0, ball)
    return dot(apart, apart)


@compiled
def _outside(points, i, ball) -> bool:
    return _square(points, i, ball) > ball[3] * (1.0 + 1e-12)


@compiled
def _ball_at(points, i, u) -> tuple[float, float, float, float]:
    """Ball with point i on its surface and the centre at a vector u from there."""
    return points[i, 0] + u[0], points[i, 1] + u[1], points[i, 2] + u[2], dot(u, u)


@compiled
def _through_three(points, i, j, k, ball) -> tuple[float, float, float, float]:
    """Smallest ball with three points on its surface, or `ball` if they are in line."""
    u, v = between(points, i, j), between(points, i, k)
    normal = cross(u, v)
    p, q, n = dot(u, u), dot(v, v), dot(normal, normal)
    if not n > 1e-30 * p * q:
        return ball
    s = 0.5 / n
    return _ball_at(points, i, combine(s * q, cross(normal, u), s * p, cross(v, normal)))


@compiled
def _through_four(points, i, j, k, l, ball) -> tuple[float, float, float, float]:
    """Ball with four points on its surface, or `ball` if they lie in a plane."""
    u, v, w = between(points, i, j), between(points, i, k), between(points, i, l)
    p, q, r = dot(u, u), dot(v, v), dot(w, w)
    normal = cross(v, w)
    volume = dot(u, normal)
    if not volume * volume > 1e-30 * p * q * r:
        return ball
    s = 0.5 / volume
    return _ball_at(points, i, combine(s, combine(r, cross(u, v), q, cross(w, u)), s * p, normal))


@compiled
def smallest_ball(points) -> tuple[float, float, float, float]:
    """Centre and squared radius of the smallest ball around points (N, 3).

    E. Welzl, Lect. Notes Comput. Sci. 555, 359 (1991), written as loops: a point outside the
    ball of those before it lies on the surface of the ball of them and itself.
    """
    ball = (points[0, 0], points[0, 1], points[0, 2], 0.0)
    for i in range(1, len(points)):
        if not _outside(points, i, ball):
            continue
        ball = (points[i, 0], points[i, 1], points[i, 2], 0.0)
        for j in range(i):
            if not _outside(points, j, ball):
                continue
            ball = _ball_at(points, j, scaled(0.5, between(points, j, i)))
            for k in range(j):
                if not _outside(points, k, ball):
                    continue
                ball = _through_three(points, i, j, k, ball)
                for l in range(k):
                    if _outside(points, l, ball):
                        ball = _through_four(points, i, j, k, l, ball)
    # The farthest point from the centre: encloses all, whatever rounding did.
    reach = 0.0
    for i in range(len(points)):
        square = _square(points, i, ball)
        if not square <= reach:  # a distance that is not a number stays
            reach = square
    return ball[0], ball[1], ball[2], reach


@compiled
def _least_distance(points) -> float:
    """Distance of the two nearest of points (N, 3)."""
    nearest = math.inf
    for i in range(1, len(points)):
        for j in range(i):
            apart = between(points, i, j)
            square = dot(apart, apart)
            if not square >= nearest:  # a distance that is not a number stays
                nearest = square
    return math.sqrt(nearest)


@kernel
def least_distances(points, out) -> None:
    """Write the distance of the two nearest points of each points[b] (B, N, 3) to `out` (B,)."""
    for b in range(len(points)):
        out[b] = _least_distance(points[b])


@compiled
def _triangle(p, a, b) -> float:
    """Signed area of the triangle p, a, b on the unit sphere, where all lie in one open half of it.

    A. van Oosterom, J. Strackee, IEEE Trans. Biomed. Eng. 30, 125 (1983).
    """
    return 2.0 * math.atan2(dot(p, cross(a, b)), 1.0 + (dot(a, b) + (dot(p, a) + dot(p, b))))


@compiled
def _hidden(c, i, j, middle, e, f, h, rho, start, length) -> int:
    """Find the arcs of the circle where spheres i and j meet that lie outside other balls.

    Returns their number, -1 where the whole circle is outside: sorted by `start` in [0, 2 pi).
    """
    count = 0
    # Most circles are hidden as a whole: that is seen before any angle is worked out.
    for look in range(2):
        for k in range(len(c)):
            if k in (i, j):
                continue
            w = (c[k, 0] - middle[0], c[k, 1] - middle[1], c[k, 2] - middle[2])
            # Inside ball k where x cos phi + y sin phi >= least.
            x, y = dot(w, e), dot(w, f)
            least = (dot(w, w) - h * h) / (2.0 * rho)
            most = math.sqrt(x * x + y * y)
            if least >= most:
                return -1
            if look == 0 or least <= -most:
                continue
            half = math.acos(least / most)
            begin = math.atan2(y, x) + half
            begin -= _TURN * math.floor(begin / _TURN)
            insert(start, length, count, begin, _TURN - 2.0 * half)
            count += 1
    return count


@compiled
def _edge(c, i, j, m, middle, e, f, h, rho, begin, end) -> float:
    """Return what one edge, from angle `begin` to `end` about m, adds to three times the volume."""
    angle = end - begin
    s, t, u, v = math.cos(begin), math.sin(begin), math.cos(end), math.sin(end)
    a, b = combine(rho * s, e, rho * t, f), combine(rho * u, e, rho * v, f)
    # Between the edge and the great circle through its ends: a sector of a cap less a triangle.
    square = rho * rho
    sine, cosine = t * u - s * v, s * u + t * v
    segment = (1.0 - h) * angle + 2.0 * math.atan2(square * sine, 1.0 + h * h + 2.0 * h + square * cosine)
    total = 2.0 * segment - h * square * angle
    # Every face of a ball lies around the direction from its centre to any other.
    poles = unit_vector(between(c, i, 1 if i == 0 else 0)), unit_vector(between(c, j, 1 if j == 0 else 0))
    total += _triangle(poles[0], combine(h, m, 1.0, a), combine(h, m, 1.0, b))
    total += _triangle(poles[1], combine(-h, m, 1.0, b), combine(-h, m, 1.0, a))
    along = combine(rho * (t - v), e, rho * (u - s), f)  # m x (b - a)
    return total + h * dot(middle, along)


@compiled
def _intersection(c, start, length) -> float:
    """Volume common to unit balls about c (N, 3), N > 1, no two the same.

    With A_i the area and W_i the vector area (half the integral of r x dr along the edges) of
    the face on ball i, the divergence theorem says 3 V = sum of A_i + c_i . W_i.
    """
    total = 0.0
    for j in range(1, len(c)):
        for i in range(j):
            apart = between(c, i, j)
            h = 0.5 * math.sqrt(dot(apart, apart))
            if h >= 1.0:
                return 0.0
            rho = math.sqrt((1.0 - h) * (1.0 + h))
            m = unit_vector(apart)
            middle = combine(0.5, c[i], 0.5, c[j])
            e = across(m)
            f = cross(m, e)
            count = _hidden(c, i, j, middle, e, f, h, rho, start, length)
            if count == 0:
                total += _edge(c, i, j, m, middle, e, f, h, rho, 0.0, _TURN)
            # Edges are the gaps between the hidden arcs; the last arcs may reach past a full turn.
            reach = -_TURN
            for k in range(count):
                reach = max(reach, start[k] + length[k] - _TURN)
            for k in range(count):
                if start[k] > reach:
                    total += _edge(c, i, j, m, middle, e, f, h, rho, reach, start[k])
                reach = max(reach, start[k] + length[k])
    return total / 3.0


@kernel
def shift_volumes(points, radius, closest, out) -> None:
    """Write to `out` (B,) the volume, bohr^3, over which points (B, N, 3) can be shifted inside a ball.

    It is 0 where two points are nearer than `closest`, and above 0 just where a shift keeps all
    inside, give or take `ROUNDING`.
    """
    n = points.shape[1]
    c, start, length = np.empty((n, 3)), np.empty(n), np.empty(n)
    for b in range(len(points)):
        out[b] = 0.0
        reach = math.sqrt(smallest_ball(points[b])[3])
        if not (reach <= radius + ROUNDING and _least_distance(points[b]) > closest - ROUNDING):
            continue
        # Shifts that keep point i inside fill a ball about -x_i: here the mirror image of it all.
        for i in range(n):
            for axis in range(3):
                c[i, axis] = (points[b, i, axis] - points[b, 0, axis]) / radius
        # The common volume holds the ball of the shifts in all directions: where it is down to
        # rounding, that bound is better.
        slack = max(radius - reach, ROUNDING)
        least = 4.0 / 3.0 * math.pi * slack**3
        out[b] = max(least, radius**3 * _intersection(c, start, length))
