"""The smallest ball around a few points, and the room that a larger ball leaves them.

The volume is exact: an intersection of balls is bounded by spherical polygons whose edges are
arcs of circles, and both the area and the vector area of a polygon are sums over its edges.
"""

from __future__ import annotations

import math

from flowcei.physics._compilation import compiled, kernel

ROUNDING = 1e-9
"""Bohr by which a geometry may miss a support: what rotating and storing it costs, and more."""

_TURN = 2.0 * math.pi


@compiled
def _outside(points, b, p, ball):
    """Whether point `p` lies outside the ball (centre, squared radius)."""
    x, y, z = points[b, p, 0] - ball[0], points[b, p, 1] - ball[1], points[b, p, 2] - ball[2]
    return x * x + y * y + z * z > ball[3] * (1.0 + 1e-12)


@compiled
def _through_three(points, b, i, j, k, ball):
    """Return the smallest ball with three points on its surface, or `ball` if they are in line."""
    a0, a1, a2 = points[b, i, 0], points[b, i, 1], points[b, i, 2]
    p0, p1, p2 = points[b, j, 0] - a0, points[b, j, 1] - a1, points[b, j, 2] - a2
    q0, q1, q2 = points[b, k, 0] - a0, points[b, k, 1] - a1, points[b, k, 2] - a2
    n0, n1, n2 = p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0
    p, q, n = p0 * p0 + p1 * p1 + p2 * p2, q0 * q0 + q1 * q1 + q2 * q2, n0 * n0 + n1 * n1 + n2 * n2
    if not n > 1e-30 * p * q:
        return ball
    s = 0.5 / n
    x = s * (q * (n1 * p2 - n2 * p1) + p * (q1 * n2 - q2 * n1))
    y = s * (q * (n2 * p0 - n0 * p2) + p * (q2 * n0 - q0 * n2))
    z = s * (q * (n0 * p1 - n1 * p0) + p * (q0 * n1 - q1 * n0))
    return a0 + x, a1 + y, a2 + z, x * x + y * y + z * z


@compiled
def _through_four(points, b, i, j, k, l, ball):
    """Return the ball with four points on its surface, or `ball` if they lie in a plane."""
    a0, a1, a2 = points[b, i, 0], points[b, i, 1], points[b, i, 2]
    p0, p1, p2 = points[b, j, 0] - a0, points[b, j, 1] - a1, points[b, j, 2] - a2
    q0, q1, q2 = points[b, k, 0] - a0, points[b, k, 1] - a1, points[b, k, 2] - a2
    r0, r1, r2 = points[b, l, 0] - a0, points[b, l, 1] - a1, points[b, l, 2] - a2
    p, q, r = p0 * p0 + p1 * p1 + p2 * p2, q0 * q0 + q1 * q1 + q2 * q2, r0 * r0 + r1 * r1 + r2 * r2
    m0, m1, m2 = q1 * r2 - q2 * r1, q2 * r0 - q0 * r2, q0 * r1 - q1 * r0
    volume = p0 * m0 + p1 * m1 + p2 * m2
    if not volume * volume > 1e-30 * p * q * r:
        return ball
    s = 0.5 / volume
    x = s * (r * (p1 * q2 - p2 * q1) + q * (r1 * p2 - r2 * p1) + p * m0)
    y = s * (r * (p2 * q0 - p0 * q2) + q * (r2 * p0 - r0 * p2) + p * m1)
    z = s * (r * (p0 * q1 - p1 * q0) + q * (r0 * p1 - r1 * p0) + p * m2)
    return a0 + x, a1 + y, a2 + z, x * x + y * y + z * z


@compiled
def _smallest(points, b):
    """Return centre and squared radius of the smallest ball around points[b].

    E. Welzl, Lect. Notes Comput. Sci. 555, 359 (1991), written as loops: a point outside the
    ball of those before it lies on the surface of the ball of them and itself.
    """
    ball = (points[b, 0, 0], points[b, 0, 1], points[b, 0, 2], 0.0)
    for i in range(1, points.shape[1]):
        if not _outside(points, b, i, ball):
            continue
        ball = (points[b, i, 0], points[b, i, 1], points[b, i, 2], 0.0)
        for j in range(i):
            if not _outside(points, b, j, ball):
                continue
            x = 0.5 * (points[b, i, 0] - points[b, j, 0])
            y = 0.5 * (points[b, i, 1] - points[b, j, 1])
            z = 0.5 * (points[b, i, 2] - points[b, j, 2])
            ball = (points[b, j, 0] + x, points[b, j, 1] + y, points[b, j, 2] + z, x * x + y * y + z * z)
            for k in range(j):
                if not _outside(points, b, k, ball):
                    continue
                ball = _through_three(points, b, i, j, k, ball)
                for l in range(k):
                    if _outside(points, b, l, ball):
                        ball = _through_four(points, b, i, j, k, l, ball)
    # The farthest point from the centre: encloses all, whatever rounding did.
    reach = 0.0
    for i in range(points.shape[1]):
        x, y, z = points[b, i, 0] - ball[0], points[b, i, 1] - ball[1], points[b, i, 2] - ball[2]
        away = x * x + y * y + z * z
        if not away <= reach:
            reach = away
    return ball[0], ball[1], ball[2], reach


@kernel
def enclosing_balls(points, out):
    """Write centre and radius of the smallest ball around each points[b] (B, N, 3) to `out` (B, 4)."""
    for b in range(len(points)):
        x, y, z, square = _smallest(points, b)
        out[b, 0], out[b, 1], out[b, 2], out[b, 3] = x, y, z, math.sqrt(square)


@compiled
def _closest(points, b):
    """Return the squared distance of the two nearest points."""
    nearest = math.inf
    for i in range(1, points.shape[1]):
        for j in range(i):
            x = points[b, i, 0] - points[b, j, 0]
            y = points[b, i, 1] - points[b, j, 1]
            z = points[b, i, 2] - points[b, j, 2]
            square = x * x + y * y + z * z
            if not square >= nearest:
                nearest = square
    return nearest


@kernel
def closest_pairs(points, out):
    """Write the distance of the two nearest points of each points[b] (B, N, 3) to `out` (B,)."""
    for b in range(len(points)):
        out[b] = math.sqrt(_closest(points, b))


@compiled
def _triangle(p, s0, s1, s2, h, u0, u1, u2, v0, v1, v2):
    """Return the signed area of the triangle p, a, b on the unit sphere: a = h s + u, b = h s + v.

    A. van Oosterom, J. Strackee, IEEE Trans. Biomed. Eng. 30, 125 (1983). All three lie in
    one open half of the sphere, so that the denominator is positive.
    """
    a0, a1, a2 = h * s0 + u0, h * s1 + u1, h * s2 + u2
    b0, b1, b2 = h * s0 + v0, h * s1 + v1, h * s2 + v2
    det = p[0] * (a1 * b2 - a2 * b1) + p[1] * (a2 * b0 - a0 * b2) + p[2] * (a0 * b1 - a1 * b0)
    cosines = a0 * b0 + a1 * b1 + a2 * b2
    cosines += p[0] * (a0 + b0) + p[1] * (a1 + b1) + p[2] * (a2 + b2)
    return 2.0 * math.atan2(det, 1.0 + cosines)


@compiled
def _pole(c, i):
    """Return the unit vector from centre i to another: every face of ball i lies around it."""
    other = 1 if i == 0 else 0
    x, y, z = c[other, 0] - c[i, 0], c[other, 1] - c[i, 1], c[other, 2] - c[i, 2]
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


@compiled
def _across(m0, m1, m2):
    """Return a unit vector at right angles to a unit vector."""
    if abs(m0) < 0.6:
        x, y, z = 0.0, m2, -m1
    else:
        x, y, z = -m2, 0.0, m0
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


@compiled
def _hidden(c, i, j, middle, e, f, h, rho, start, length):
    """Find the arcs of the circle where spheres i and j meet that lie outside other balls.

    Returns:
        How many, sorted by their beginnings `start` in [0, 2 pi), with their `length`;
        -1 where the whole circle is outside.
    """
    count = 0
    # Most circles are hidden as a whole: that is seen before any angle is worked out.
    for look in range(2):
        for k in range(len(c)):
            if k in (i, j):
                continue
            w0, w1, w2 = c[k, 0] - middle[0], c[k, 1] - middle[1], c[k, 2] - middle[2]
            # Inside ball k where x cos phi + y sin phi >= least.
            x, y = w0 * e[0] + w1 * e[1] + w2 * e[2], w0 * f[0] + w1 * f[1] + w2 * f[2]
            least = (w0 * w0 + w1 * w1 + w2 * w2 - h * h) / (2.0 * rho)
            most = math.sqrt(x * x + y * y)
            if least >= most:
                return -1
            if look == 0 or least <= -most:
                continue
            half = math.acos(least / most)
            begin = math.atan2(y, x) + half
            begin -= _TURN * math.floor(begin / _TURN)
            place = count
            while place > 0 and start[place - 1] > begin:
                start[place], length[place] = start[place - 1], length[place - 1]
                place -= 1
            start[place], length[place] = begin, _TURN - 2.0 * half
            count += 1
    return count


@compiled
def _edge(c, i, j, m, middle, e, f, h, rho, begin, end):
    """Return what one edge, from angle `begin` to `end` about m, adds to three times the volume."""
    angle = end - begin
    s, t, u, v = math.cos(begin), math.sin(begin), math.cos(end), math.sin(end)
    a0, a1, a2 = rho * (s * e[0] + t * f[0]), rho * (s * e[1] + t * f[1]), rho * (s * e[2] + t * f[2])
    b0, b1, b2 = rho * (u * e[0] + v * f[0]), rho * (u * e[1] + v * f[1]), rho * (u * e[2] + v * f[2])
    # Between the edge and the great circle through its ends: a sector of a cap less a triangle.
    square = rho * rho
    sine, cosine = t * u - s * v, s * u + t * v
    segment = (1.0 - h) * angle + 2.0 * math.atan2(square * sine, 1.0 + h * h + 2.0 * h + square * cosine)
    total = 2.0 * segment - h * square * angle
    total += _triangle(_pole(c, i), m[0], m[1], m[2], h, a0, a1, a2, b0, b1, b2)
    total += _triangle(_pole(c, j), m[0], m[1], m[2], -h, b0, b1, b2, a0, a1, a2)
    along_e, along_f = rho * (t - v), rho * (u - s)  # of m x (b - a)
    for axis in range(3):
        total += h * middle[axis] * (along_e * e[axis] + along_f * f[axis])
    return total


@compiled
def _intersection(c, start, length):
    """Return the volume common to unit balls about c (N, 3), N > 1, no two the same.

    With A_i the area and W_i the vector area (half the integral of r x dr along the edges) of
    the face on ball i, the divergence theorem says 3 V = sum of A_i + c_i . W_i.
    """
    total = 0.0
    for j in range(1, len(c)):
        for i in range(j):
            x, y, z = c[j, 0] - c[i, 0], c[j, 1] - c[i, 1], c[j, 2] - c[i, 2]
            d = math.sqrt(x * x + y * y + z * z)
            h = 0.5 * d
            if h >= 1.0:
                return 0.0
            rho = math.sqrt((1.0 - h) * (1.0 + h))
            m = (x / d, y / d, z / d)
            middle = (c[i, 0] + 0.5 * x, c[i, 1] + 0.5 * y, c[i, 2] + 0.5 * z)
            e = _across(m[0], m[1], m[2])
            f = (m[1] * e[2] - m[2] * e[1], m[2] * e[0] - m[0] * e[2], m[0] * e[1] - m[1] * e[0])
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
def shift_volumes(points, radius, closest, c, start, length, out):
    """Write to `out` (B,) the volume, bohr^3, over which a geometry can be shifted inside a ball.

    Args:
        points: (B, N, 3), bohr, N > 1.
        radius: Of the ball, bohr.
        closest: The least distance of two points, bohr: below it the volume is 0.
        c: (N, 3), scratch.
        start: (N,), scratch.
        length: (N,), scratch.
        out: (B,); above 0 just where a shift keeps all points inside, give or take `ROUNDING`.
    """
    for b in range(len(points)):
        out[b] = 0.0
        _, _, _, square = _smallest(points, b)
        reach = math.sqrt(square)
        if not (reach <= radius + ROUNDING and math.sqrt(_closest(points, b)) > closest - ROUNDING):
            continue
        # Shifts that keep point i inside fill a ball about -x_i: here the mirror image of it all.
        for i in range(len(c)):
            for axis in range(3):
                c[i, axis] = (points[b, i, axis] - points[b, 0, axis]) / radius
        # The common volume holds the ball of the shifts in all directions: where it is down to
        # rounding, that bound is better.
        slack = max(radius - reach, ROUNDING)
        least = 4.0 / 3.0 * math.pi * slack**3
        out[b] = max(least, radius**3 * _intersection(c, start, length))
