"""Rotations of many geometries: averages of exp(trace(R^T M)) over all R."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import i0e

from flowcei.physics._vectors import across, copy, cross, dot
from flowcei.storage._compilation import compiled, kernel

_SCALE = 4.0  # x / (x + 4) brings all arguments of the Bessel function into [0, 1)
_CELLS, _DEGREE = 64, 5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(18)
_NEGLIGIBLE = 30.0  # exp(-30) of the peak is left out
_PEAK = _WEIGHTS * np.exp(-_NEGLIGIBLE * (0.5 * (1.0 + _NODES)) ** 2)


def _bessel_table() -> np.ndarray:
    """Polynomials (cells, degree + 1) of exp(-x) I0(x) sqrt(1 + x), which is smooth, in x / (x + 4)."""
    rows = []
    for cell in range(_CELLS):

        def smooth(t: np.ndarray, low: int = cell) -> np.ndarray:
            u = (low + 0.5 * (t + 1.0)) / _CELLS
            x = _SCALE * u / (1.0 - u)
            return i0e(x) * np.sqrt(1.0 + x)

        rows.append(
            np.polynomial.chebyshev.cheb2poly(np.polynomial.chebyshev.chebinterpolate(smooth, _DEGREE))
        )
    return np.array(rows)


_BESSEL = _bessel_table()


@compiled
def _smooth(x) -> float:
    """exp(-x) I0(x) sqrt(1 + x), x >= 0, from a table: to 1e-12 of its value."""
    place = _CELLS * (x / (x + _SCALE))
    cell = min(int(place), _CELLS - 1)
    row, t = _BESSEL[cell], 2.0 * (place - cell) - 1.0
    return row[0] + t * (row[1] + t * (row[2] + t * (row[3] + t * (row[4] + t * row[5]))))


@compiled
def _bessels(y, narrow, wide) -> float:
    """exp(-a - b) I0(a) I0(b), a = narrow y / 2, b = wide (2 - y) / 2."""
    a, b = 0.5 * narrow * y, 0.5 * wide * (2.0 - y)
    return _smooth(a) * _smooth(b) / math.sqrt((1.0 + a) * (1.0 + b))


@compiled
def _panel(low, high, fall, narrow, wide) -> float:
    """Integral of the scaled integrand over q in [low, high]."""
    total, half = 0.0, 0.5 * (high - low)
    for k in range(len(_NODES)):
        q = low + half * (1.0 + _NODES[k])
        y = 2.0 * q * q
        total += _WEIGHTS[k] * q * _bessels(y, narrow, wide) * math.exp(-fall * y)
    return 2.0 * half * total


@compiled
def _peak(end, narrow, wide) -> float:
    """The same over [0, end], where the exponential at the nodes does not depend on the matrix."""
    total = 0.0
    for k in range(len(_NODES)):
        q = 0.5 * end * (1.0 + _NODES[k])
        total += _PEAK[k] * q * _bessels(2.0 * q * q, narrow, wide)
    return end * total


@compiled
def log_average(s1, s2, s3) -> float:
    """Log of the average for proper singular values s1 >= s2 >= |s3| of M.

    1/2 I0((s2 - s3) y / 2) I0((s2 + s3) (2 - y) / 2) exp(s1 (1 - y)) over y in [0, 2]
    (T. Lee, IEEE Trans. Automat. Contr. 63, 3377 (2018), eq. 14, its axes turned so that the
    greatest value is in the exponential), with exp(s1 + s2 + s3) taken out; y = 2 q^2 puts the
    nodes where the peak is.
    """
    fall, narrow, wide = s1 + s3, s2 - s3, s2 + s3
    end = math.sqrt(0.5 * _NEGLIGIBLE / fall) if 2.0 * fall > _NEGLIGIBLE else 1.0
    if 2.0 * fall > _NEGLIGIBLE and narrow * end * end <= 30.0:
        return s1 + s2 + s3 + math.log(_peak(end, narrow, wide))
    # Where s3 is about -s1 the exponential does not fall: then panels grow from the narrow peak.
    high = math.sqrt(15.0 / narrow) if narrow * end * end > 30.0 else end
    total = _panel(0.0, high, fall, narrow, wide)
    while high < end:
        low, high = high, min(3.0 * high, end)
        total += _panel(low, high, fall, narrow, wide)
    return s1 + s2 + s3 + math.log(total)


@compiled
def _columns(a, p, q) -> float:
    """Scalar product of columns p and q of a (3, 3)."""
    return a[0, p] * a[0, q] + a[1, p] * a[1, q] + a[2, p] * a[2, q]


@compiled
def _turn_columns(a, v, p, q) -> bool:
    """Rotate columns p and q of a (3, 3) until they are orthogonal, and of v; whether it was needed."""
    alpha, beta, gamma = _columns(a, p, p), _columns(a, q, q), _columns(a, p, q)
    if gamma * gamma <= 1e-30 * alpha * beta:
        return False
    zeta = (beta - alpha) / (2.0 * gamma)
    t = math.copysign(1.0, zeta) / (abs(zeta) + math.sqrt(1.0 + zeta * zeta))
    c = 1.0 / math.sqrt(1.0 + t * t)
    s = c * t
    for row in range(3):
        a[row, p], a[row, q] = c * a[row, p] - s * a[row, q], s * a[row, p] + c * a[row, q]
        if v is not None:
            v[row, p], v[row, q] = c * v[row, p] - s * v[row, q], s * v[row, p] + c * v[row, q]
    return True


@compiled
def _orthogonalise(a, v) -> None:
    """Turn a = U S V^T (3, 3) into U S, and v, where there is one, into v V: one-sided Jacobi rotations."""
    for _ in range(30):
        turned = False
        for p in range(2):  # no constants: each would compile a function anew
            for q in range(p + 1, 3):
                turned = _turn_columns(a, v, p, q) or turned
        if not turned:
            break


@compiled
def proper_singular_values(a) -> tuple[float, float, float]:
    """s1 >= s2 >= |s3| of a (3, 3), s3 with the sign of the determinant; `a` is overwritten.

    One-sided Jacobi rotations, which give every value to rounding of its own size.
    """
    det = dot(a[0], cross(a[1], a[2]))
    _orthogonalise(a, None)
    x, y, z = math.sqrt(_columns(a, 0, 0)), math.sqrt(_columns(a, 1, 1)), math.sqrt(_columns(a, 2, 2))
    middle = max(min(x, y), min(max(x, y), z))
    return max(x, y, z), middle, math.copysign(min(x, y, z), det)


@kernel
def log_displaced(points, reference, variance, out) -> None:
    """Write the log density, up to a constant, of displaced geometries (B, N, 3), bohr, to `out` (B,).

    -(|x|^2 + |E|^2) / (2 variance) + log average(x^T E / variance), x from its centroid, for a
    reference E (N, 3) with its centroid at the origin and a variance, bohr^2, of each component.
    """
    n = points.shape[1]
    a = np.empty((3, 3))
    own = (reference**2).sum()
    for b in range(len(points)):
        squares = own
        a[:] = 0.0
        for row in range(3):
            centre = 0.0
            for i in range(n):
                centre += points[b, i, row]
            centre /= n
            for i in range(n):
                x = points[b, i, row] - centre
                squares += x * x
                for column in range(3):
                    a[row, column] += x * reference[i, column]
        a /= variance
        s1, s2, s3 = proper_singular_values(a)
        out[b] = log_average(s1, s2, s3) - 0.5 * squares / variance


@compiled
def nearest_rotation(a, v, out) -> bool:
    """Write the rotation R with the greatest tr(R^T a) to `out` (3, 3); whether there is one alone.

    `a` (3, 3) is overwritten, as is v. W. Kabsch, Acta Cryst. A 32, 922 (1976). Of several it writes one.
    """
    v[:] = 0.0
    v[0, 0] = v[1, 1] = v[2, 2] = 1.0
    _orthogonalise(a, v)
    least = 0
    for k in range(1, 3):
        if _columns(a, k, k) < _columns(a, least, least):
            least = k
    i, j = (least + 1) % 3, (least + 2) % 3
    long, short = (i, j) if _columns(a, i, i) >= _columns(a, j, j) else (j, i)
    one, two = math.sqrt(_columns(a, long, long)), math.sqrt(_columns(a, short, short))
    if not 0.0 < one < math.inf:
        copy(v, out)
        return False
    alone = two > 1e-12 * one
    u = a[0, long] / one, a[1, long] / one, a[2, long] / one
    w = (a[0, short] / two, a[1, short] / two, a[2, short] / two) if alone else across(u)
    for row in range(3):
        a[row, long], a[row, short] = u[row], w[row]
    # The last column of U by the cross product: of planar geometries too, and it makes R a rotation.
    for row in range(3):
        after, last = (row + 1) % 3, (row + 2) % 3
        a[row, least] = a[after, i] * a[last, j] - a[last, i] * a[after, j]
    for row in range(3):
        for column in range(3):
            out[row, column] = a[row, 0] * v[column, 0] + a[row, 1] * v[column, 1] + a[row, 2] * v[column, 2]
    return alone


@kernel
def log_normal_modes(points, reference, masses, modes, out) -> None:
    """Write -|q|^2 / 2 - log |det I'| of geometries (B, N, 3), bohr, to `out` (B,).

    q: what `modes` (F, 3N) make of the displacements from a reference (N, 3) with its centre of mass at the
    origin, in Eckart's frame; I' = sum m (x . e - x e^T). -inf where no frame is the best alone.
    """
    n = points.shape[1]
    total = masses.sum()
    x, moved = np.empty((n, 3)), np.empty(3 * n)
    m, a, v, turn = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    for b in range(len(points)):
        m[:] = 0.0
        for row in range(3):
            centre = 0.0
            for i in range(n):
                centre += masses[i] * points[b, i, row]
            for i in range(n):
                x[i, row] = points[b, i, row] - centre / total
                for column in range(3):
                    m[row, column] += masses[i] * x[i, row] * reference[i, column]
        copy(m, a)
        out[b] = -math.inf
        if not nearest_rotation(a, v, turn):
            continue
        for i in range(n):
            for column in range(3):
                body = x[i, 0] * turn[0, column] + x[i, 1] * turn[1, column] + x[i, 2] * turn[2, column]
                moved[3 * i + column] = body - reference[i, column]
        square = 0.0
        for k in range(len(modes)):
            q = 0.0
            for i in range(3 * n):
                q += modes[k, i] * moved[i]
            square += q * q
        for row in range(3):
            for column in range(3):
                a[row, column] = -(
                    turn[0, row] * m[0, column] + turn[1, row] * m[1, column] + turn[2, row] * m[2, column]
                )
        trace = -(a[0, 0] + a[1, 1] + a[2, 2])
        for row in range(3):
            a[row, row] += trace
        volume = abs(dot(a[0], cross(a[1], a[2])))
        if volume > 0.0:
            out[b] = -0.5 * square - math.log(volume)
