"""Elementary functions of vectors of lanes, by polynomials: LLVM would call a library for each lane."""

from __future__ import annotations

from functools import partial

import numpy as np

from flowcei.physics._lanes import Lanes, exponent, power_of_two, rsqrt, where_greater
from flowcei.storage._compilation import compiled

LN2 = 0.6931471805599453


def fitted(function, low, high, count) -> tuple[float, ...]:
    """Coefficients, highest first, of nearly the best polynomial of so many terms on an interval."""
    near = np.polynomial.Chebyshev.interpolate(function, count - 1, (low, high))
    return tuple(near.convert(kind=np.polynomial.Polynomial).coef[::-1].tolist())


@compiled
def polynomial(x, coefficients, first, count) -> Lanes:
    """Value of the polynomial of `count` coefficients, highest first, from `first` on."""
    total = 0.0 * x + coefficients[first]
    for k in range(first + 1, first + count):
        total = total * x + coefficients[k]
    return total


# Of atanh(s) / s by s^2, for |s| to (sqrt(2) - 1) / (sqrt(2) + 1).
ROOTS = partial(fitted, lambda x: np.arctanh(np.sqrt(x)) / np.sqrt(x), 0.0, 0.02944)
_RATIO = ROOTS(8)
# Of cos(pi t) and sin(pi t) / t by t^2, for |t| to 1/2.
_COSINE = fitted(lambda x: np.cos(np.pi * np.sqrt(x)), 0.0, 0.25, 9)
_SINE = fitted(lambda x: np.pi * np.sinc(np.sqrt(x)), 0.0, 0.25, 9)


@compiled
def logarithm(x) -> Lanes:
    """Natural logarithm of normal numbers above 0, in double precision: to 1e-15, or that share of it."""
    whole = exponent(x * 1.4142135623730951)
    m = x * power_of_two(0.0 - whole)  # from sqrt(1/2) to sqrt(2)
    s = (m - 1.0) / (m + 1.0)
    return whole * LN2 + 2.0 * s * polynomial(s * s, _RATIO, 0, 8)


@compiled
def circle(t) -> tuple[Lanes, Lanes]:
    """Cosine and sine of t turns, from -1/2 to 1/2, in double precision: to 1e-15.

    Of half the angle, which needs no case for each quadrant, and doubled.
    """
    square = t * t
    c, s = polynomial(square, _COSINE, 0, 9), t * polynomial(square, _SINE, 0, 9)
    return c * c - s * s, 2.0 * c * s


@compiled
def root(x) -> Lanes:
    """Square root of positive numbers within the range of single precision: faster than the machine's own."""
    return x * rsqrt(x)


# Numerator and denominator, highest first, of AS 241 (M. J. Wichura, Appl. Statist. 37, 477 (1988)): of the
# middle, of the tails, and of those beyond p = e^-25.
_MIDDLE = (
    2.5090809287301226727e3,
    3.3430575583588128105e4,
    6.7265770927008700853e4,
    4.5921953931549871457e4,
    1.3731693765509461125e4,
    1.9715909503065514427e3,
    1.3314166789178437745e2,
    3.3871328727963666080e0,
    5.2264952788528545610e3,
    2.8729085735721942674e4,
    3.9307895800092710610e4,
    2.1213794301586595867e4,
    5.3941960214247511077e3,
    6.8718700749205790830e2,
    4.2313330701600911252e1,
    1.0,
)
_TAIL = (
    7.74545014278341407640e-4,
    2.27238449892691845833e-2,
    2.41780725177450611770e-1,
    1.27045825245236838258e0,
    3.64784832476320460504e0,
    5.76949722146069140550e0,
    4.63033784615654529590e0,
    1.42343711074968357734e0,
    1.05075007164441684324e-9,
    5.47593808499534494600e-4,
    1.51986665636164571966e-2,
    1.48103976427480074590e-1,
    6.89767334985100004550e-1,
    1.67638483018380384940e0,
    2.05319162663775882187e0,
    1.0,
)
_FAR = (
    2.01033439929228813265e-7,
    2.71155556874348757815e-5,
    1.24266094738807843860e-3,
    2.65321895265761230930e-2,
    2.96560571828504891230e-1,
    1.78482653991729133580e0,
    5.46378491116411436990e0,
    6.65790464350110377720e0,
    2.04426310338993978564e-15,
    1.42151175831644588870e-7,
    1.84631831751005468180e-5,
    7.86869131145613259100e-4,
    1.48753612908506148525e-2,
    1.36929880922735805310e-1,
    5.99832206555887937690e-1,
    1.0,
)


@compiled
def _ratio(x, coefficients) -> Lanes:
    return polynomial(x, coefficients, 0, 8) / polynomial(x, coefficients, 8, 8)


@compiled
def normal_quantile(p) -> Lanes:
    """What a normal number is below with probability p, above 0 and below 1, to 1e-15 of it."""
    q = p - 0.5
    outside = where_greater(q, 0.0, 1.0 - p, p)
    r = root(0.0 - logarithm(outside))
    tail = where_greater(r, 5.0, _ratio(r - 5.0, _FAR), _ratio(r - 1.6, _TAIL))
    tail = where_greater(q, 0.0, tail, 0.0 - tail)
    return where_greater(q * q, 0.180625, tail, q * _ratio(0.180625 - q * q, _MIDDLE))
