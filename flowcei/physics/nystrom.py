"""Coefficients of the integrator: Nystrom tableaux, and weights for the singular tail."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Tableau(NamedTuple):
    """An explicit Runge-Kutta-Nystrom method for y'' = f(z, y), exact; its order conditions are a test.

    J. R. Dormand, M. E. A. El-Mikkawy and P. J. Prince, IMA J. Numer. Anal. 7, 235 and 423 (1987). The
    last stage is taken at the end of the step, so its force is the first of the next step, and its
    weights are those of y: a step costs one evaluation fewer than it has stages.
    """

    c: tuple[Fraction, ...]  # nodes
    a: tuple[tuple[Fraction, ...], ...]  # weights of the stages before each
    bp: tuple[Fraction, ...]  # weights of y'

    def arrays(self, dtype: type[np.floating]) -> list[NDArray[np.floating]]:
        """Nodes (s,), weights of the stages (s, s) and of y' (1, s)."""
        a = [[float(v) for v in row] + [0.0] * (len(self.c) - len(row)) for row in self.a]
        rows = [float(v) for v in self.c], a, [[float(v) for v in self.bp]]
        return [np.array(row).astype(dtype) for row in rows]


def _row(text: str) -> tuple[Fraction, ...]:
    return tuple(Fraction(v) for v in text.split())


# RKN6(4)6FM: sixth order, five evaluations a step, for single precision.
RKN64 = Tableau(
    c=_row("0 1/10 3/10 7/10 17/25 1"),
    a=(
        (),
        _row("1/200"),
        _row("-1/2200 1/22"),
        _row("637/6600 -7/110 7/33"),
        _row("225437/1968750 -30073/281250 65569/281250 -9367/984375"),
        _row("151/2142 5/116 385/1368 55/168 -6250/28101"),
    ),
    bp=_row("151/2142 25/522 275/684 275/252 -78125/112404 1/12"),
)

# RKN8(6)9FM: eighth order, eight evaluations a step, for double precision.
RKN86 = Tableau(
    c=_row("0 1/20 1/10 3/10 1/2 7/10 9/10 1 1"),
    a=(
        (),
        _row("1/800"),
        _row("1/600 1/300"),
        _row("9/200 -9/100 9/100"),
        _row("-66701/197352 28325/32892 -2665/5482 2170/24669"),
        _row("227015747/304251000 -54897451/30425100 12942349/10141700 -9499/304251 539/9250"),
        _row("-1131891597/901789000 41964921/12882700 -6663147/3220675 270954/644135 -108/5875 114/1645"),
        _row(
            "13836959/3667458 -17731450/1833729 1063919505/156478208 -33213845/39119552 "
            "13335/28544 -705/14272 1645/57088"
        ),
        _row("223/7938 0 1175/8064 925/6048 41/448 925/14112 1175/72576 0"),
    ),
    bp=_row("223/7938 0 5875/36288 4625/21168 41/224 4625/21168 5875/36288 223/7938 0"),
)

_GRADING = 1.25  # power by which nodes are crowded towards z = 1, by trial

# Of the expansion of S at z = 1, d = 1 - z: y = y(1) + a d + b d ln d + ..., where each power of d comes with
# powers of its logarithm up to its own.
_POWERS = [
    (0, 0),
    (1, 0),
    (1, 1),
    (2, 0),
    (2, 1),
    (3, 0),
    (2, 2),
    (3, 1),
    (4, 0),
    (3, 2),
    (4, 1),
    (3, 3),
    (5, 0),
]


def _functions(u: NDArray[np.float64], most: int, fades: tuple[float, ...]) -> NDArray[np.float64]:
    """The first functions of the expansion, the last of `most` in place of them: (most, K), u (K,).

    u = (1 - z) / (1 - z1). Of charges that grow S has exp(-t / tau) too, nearly exp(-fade / u).
    """
    # ln d and ln u differ by a constant, which only mixes a function with earlier ones: u serves as well and
    # is far better conditioned.
    powers = [u**p * np.log(u) ** q for p, q in _POWERS[: most - len(fades)]]
    return np.array(powers + [np.exp(fade - fade / u) for fade in fades])


def tail(
    z1: float, count: int, fades: tuple[float, ...] = ()
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Quadrature from z1 to 1, where y'' = S(y) / (1 - z^2) is singular but integrable.

    Returns nodes (count + 1,), the last of them 1, and weights (count + 1, count + 1), lower triangular:
    with S_0 at z1, node t, where the force is S_(t+1), is reached by

        Y = y1 + (nodes[t] - z1) w1 + sum_{j<=t} weights[t, j] S_j.

    It is exact for the first terms of the expansion of S, on nodes graded towards 1, and from the last nodes
    for what fades like exp(-fade (1 - z1) / (1 - z)). In single precision too: polynomials on as many Gauss
    points end ten times further off for ten ions.
    """
    gauss = 0.5 + 0.5 * np.polynomial.legendre.leggauss(count)[0]
    ends = np.append((1.0 - gauss) ** _GRADING, 0.0)  # u at the nodes
    before = np.append(1.0, ends[:-1])
    weights = np.zeros((count + 1, count + 1))
    for t, end in enumerate(ends):
        moments = _moments(end, 1.0 - z1, count + 1, fades)[: t + 1]
        values = _functions(before[: t + 1], count + 1, fades)[: t + 1]
        weights[t, : t + 1] = np.linalg.solve(values, moments)
    return 1.0 - (1.0 - z1) * ends, weights


def _moments(end: float, width: float, count: int, fades: tuple[float, ...]) -> NDArray[np.float64]:
    """Integrals of (z_t - z) / (1 - z^2) times `_functions` over z from z1 to z_t = 1 - width * end.

    In u = (1 - z) / width the integrand is (u - end) / (u (2 - width u)) f(u) width du.
    """
    # u = end + (1 - end) v^4 makes the logarithms at u = 0 smooth: sixty Gauss points reach rounding.
    x, g = np.polynomial.legendre.leggauss(60)
    v = 0.5 + 0.5 * x
    u = end + (1.0 - end) * v**4
    slope = 0.5 * g * 4.0 * (1.0 - end) * v**3
    ratio = (1.0 - end) * v**4 / u  # (u - end) / u without cancellation; 1 where end = 0
    return _functions(u, count, fades) @ (slope * width * ratio / (2.0 - width * u))
