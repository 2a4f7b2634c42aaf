"""The mean of exp(trace(R^T M)) over all rotations R, for many geometries at once."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import i0e

from flowcei.physics._compilation import compiled, kernel

_SPLIT = 8.0  # argument beyond which the Bessel function is taken from its inverse
_NEAR = np.polynomial.chebyshev.chebinterpolate(lambda t: i0e(0.5 * _SPLIT * (t + 1.0)), 24)[::-1].copy()
_FAR = np.polynomial.chebyshev.chebinterpolate(
    lambda t: (
        np.sqrt(2.0 * _SPLIT / np.maximum(t + 1.0, 1e-9)) * i0e(2.0 * _SPLIT / np.maximum(t + 1.0, 1e-9))
    ),
    16,
)[::-1].copy()
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(18)
_NEGLIGIBLE = 30.0  # exp(-30) of the peak is left out


@compiled
def _bessel(x):
    """Return exp(-x) I0(x), x >= 0, by Chebyshev series: to 1e-13 of its value."""
    if x <= _SPLIT:
        t, top = 2.0 * x / _SPLIT - 1.0, 1.0
        series = _NEAR
    else:
        t, top = 2.0 * _SPLIT / x - 1.0, 1.0 / math.sqrt(x)
        series = _FAR
    p, q = 0.0, 0.0
    for k in range(len(series) - 1):
        p, q = series[k] + 2.0 * t * p - q, p
    return top * (series[-1] + t * p - q)


@compiled
def _panel(low, high, fall, narrow, wide):
    """Return the integral of the scaled integrand over q in [low, high]."""
    total, half = 0.0, 0.5 * (high - low)
    for k in range(len(_NODES)):
        q = low + half * (1.0 + _NODES[k])
        y = 2.0 * q * q
        value = _bessel(0.5 * narrow * y) * _bessel(0.5 * wide * (2.0 - y)) * math.exp(-fall * y)
        total += _WEIGHTS[k] * q * value
    return 2.0 * half * total


@compiled
def log_average(s1, s2, s3):
    """Return log of the average for proper singular values s1 >= s2 >= |s3|.

    1/2 I0((s2 - s3) y / 2) I0((s2 + s3) (2 - y) / 2) exp(s1 (1 - y)) over y in [0, 2]
    (T. Lee, IEEE Trans. Automat. Contr. 63, 3377 (2018), eq. 14, its axes turned so that the
    greatest value is in the exponential), with exp(s1 + s2 + s3) taken out; y = 2 q^2 puts the
    nodes where the peak is.
    """
    fall, narrow, wide = s1 + s3, s2 - s3, s2 + s3
    end = 1.0
    if 2.0 * fall > _NEGLIGIBLE:
        end = math.sqrt(0.5 * _NEGLIGIBLE / fall)
    # Where s3 is about -s1 the exponential does not fall: then panels grow from the narrow peak.
    high = end
    if narrow * end * end > 30.0:
        high = math.sqrt(15.0 / narrow)
    total = _panel(0.0, high, fall, narrow, wide)
    while high < end:
        low, high = high, min(3.0 * high, end)
        total += _panel(low, high, fall, narrow, wide)
    return s1 + s2 + s3 + math.log(total)


@compiled
def _turn_columns(a, p, q):
    """Rotate columns p and q of a (3, 3) until they are orthogonal; return whether it was needed."""
    alpha = a[0, p] * a[0, p] + a[1, p] * a[1, p] + a[2, p] * a[2, p]
    beta = a[0, q] * a[0, q] + a[1, q] * a[1, q] + a[2, q] * a[2, q]
    gamma = a[0, p] * a[0, q] + a[1, p] * a[1, q] + a[2, p] * a[2, q]
    if gamma * gamma <= 1e-30 * alpha * beta:
        return False
    zeta = (beta - alpha) / (2.0 * gamma)
    t = math.copysign(1.0, zeta) / (abs(zeta) + math.sqrt(1.0 + zeta * zeta))
    c = 1.0 / math.sqrt(1.0 + t * t)
    s = c * t
    for row in range(3):
        a[row, p], a[row, q] = c * a[row, p] - s * a[row, q], s * a[row, p] + c * a[row, q]
    return True


@compiled
def proper_singular_values(a):
    """Return s1 >= s2 >= |s3| of a (3, 3), s3 with the sign of the determinant; `a` is lost.

    One-sided Jacobi rotations, which keep every value to rounding of its own size.
    """
    det = a[0, 0] * (a[1, 1] * a[2, 2] - a[1, 2] * a[2, 1])
    det -= a[0, 1] * (a[1, 0] * a[2, 2] - a[1, 2] * a[2, 0])
    det += a[0, 2] * (a[1, 0] * a[2, 1] - a[1, 1] * a[2, 0])
    for _ in range(30):
        first, second, third = _turn_columns(a, 0, 1), _turn_columns(a, 0, 2), _turn_columns(a, 1, 2)
        if not (first or second or third):
            break
    x = math.sqrt(a[0, 0] ** 2 + a[1, 0] ** 2 + a[2, 0] ** 2)
    y = math.sqrt(a[0, 1] ** 2 + a[1, 1] ** 2 + a[2, 1] ** 2)
    z = math.sqrt(a[0, 2] ** 2 + a[1, 2] ** 2 + a[2, 2] ** 2)
    s1, s3 = max(x, y, z), min(x, y, z)
    return s1, x + y + z - s1 - s3, math.copysign(s3, det)


@kernel
def log_rotation_averages(matrices, out):
    """Write log of the mean over rotations R of exp(trace(R^T M)), for M (B, 3, 3), to `out` (B,)."""
    a = np.empty((3, 3))
    for b in range(len(matrices)):
        for row in range(3):
            for column in range(3):
                a[row, column] = matrices[b, row, column]
        s1, s2, s3 = proper_singular_values(a)
        out[b] = log_average(s1, s2, s3)


@kernel
def log_displaced(points, reference, variance, out):
    """Write the log density, up to a constant, of displaced geometries to `out` (B,).

    Args:
        points: (B, N, 3), bohr.
        reference: (N, 3), the geometry that is displaced, its centroid at the origin, bohr.
        variance: Of each component of each atom, bohr^2.
        out: -(|x|^2 + |E|^2) / (2 variance) + log c(x^T E / variance), x from its centroid.
    """
    n = points.shape[1]
    a = np.empty((3, 3))
    centre = np.empty(3)
    own = 0.0
    for i in range(n):
        for axis in range(3):
            own += reference[i, axis] ** 2
    for b in range(len(points)):
        squares = own
        a[:] = 0.0
        for axis in range(3):
            centre[axis] = 0.0
            for i in range(n):
                centre[axis] += points[b, i, axis]
            centre[axis] /= n
        for i in range(n):
            for row in range(3):
                x = points[b, i, row] - centre[row]
                squares += x * x
                for column in range(3):
                    a[row, column] += x * reference[i, column]
        for row in range(3):
            for column in range(3):
                a[row, column] /= variance
        s1, s2, s3 = proper_singular_values(a)
        out[b] = log_average(s1, s2, s3) - 0.5 * squares / variance
