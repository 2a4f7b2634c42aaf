"""Coefficients of the integrator: Nystrom tableaux, and weights for the singular tail.

Both are data that the kernel in `_kernel` runs through. The tableaux are exact
rationals (J. R. Dormand, M. E. A. El-Mikkawy and P. J. Prince, IMA J. Numer. Anal.
7, 235 and 423 (1987)); their order conditions are a test. The tail weights are
integrals that are solved for here, once per process.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta-Nystrom method for y'' = f(z, y), first same as last.

    The last stage is taken at the end of the step, so its force is the first
    stage of the next one: a step costs one evaluation fewer than it has stages.

    Attributes:
        name: The name in the literature.
        order: The order of both y and y'.
        c: Nodes, (stages,).
        a: Strictly lower triangular stage weights, a list of rows.
        b: Weights of y.
        bp: Weights of y'.
    """

    name: str
    order: int
    c: tuple[Fraction, ...]
    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]
    bp: tuple[Fraction, ...]

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.c)

    def arrays(
        self, dtype: type[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """Return the nodes (s,), the stage weights (s, s) and the weights of y' (s,).

        The weights of y are the last row of the stage weights.
        """
        a = np.zeros((self.stages, self.stages))
        for i, row in enumerate(self.a):
            a[i, : len(row)] = [float(v) for v in row]
        c = np.array([float(v) for v in self.c])
        bp = np.array([float(v) for v in self.bp])
        return c.astype(dtype), a.astype(dtype), bp.astype(dtype)


def _row(text: str) -> tuple[Fraction, ...]:
    return tuple(Fraction(v) for v in text.split())


RKN64 = Tableau(
    name="RKN6(4)6FM",
    order=6,
    c=_row("0 1/10 3/10 7/10 17/25 1"),
    a=(
        (),
        _row("1/200"),
        _row("-1/2200 1/22"),
        _row("637/6600 -7/110 7/33"),
        _row("225437/1968750 -30073/281250 65569/281250 -9367/984375"),
        _row("151/2142 5/116 385/1368 55/168 -6250/28101"),
    ),
    b=_row("151/2142 5/116 385/1368 55/168 -6250/28101 0"),
    bp=_row("151/2142 25/522 275/684 275/252 -78125/112404 1/12"),
)
"""Sixth order, five evaluations a step: for single precision."""

RKN86 = Tableau(
    name="RKN8(6)9FM",
    order=8,
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
    b=_row("223/7938 0 1175/8064 925/6048 41/448 925/14112 1175/72576 0 0"),
    bp=_row("223/7938 0 5875/36288 4625/21168 41/224 4625/21168 5875/36288 223/7938 0"),
)
"""Eighth order, eight evaluations a step: for double precision."""


@dataclass(frozen=True)
class Tail:
    """Quadrature from z1 to 1, where y'' = S(y) / (1 - z^2) is singular but integrable.

    Node t (node 0 is z1 itself) is reached from the forces at the nodes before it,

        Y_t = y1 + (z_t - z1) w1 + sum_{j<t} weights[t, j] S_j,

    and the last row of `weights` leads to z = 1.

    Attributes:
        z1: Where the tail begins.
        nodes: z_1 ... z_n and 1, (n + 1,).
        weights: (n + 1, n + 1), lower triangular: row t - 1 leads to `nodes[t - 1]`.
    """

    z1: float
    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]


def _power(u: NDArray, p: int, q: int) -> NDArray:
    """Return u^p (ln u)^q."""
    return u**p * np.log(u) ** q if q else u**p


def _logarithmic(count: int) -> list[Callable[[NDArray], NDArray]]:
    """Return the first functions of the expansion of S at z = 1, u = (1 - z) / (1 - z1).

    y = y(1) + a d + b d ln d + ...: each power of d = 1 - z comes with powers of its
    logarithm up to its own. ln d and ln u differ by a constant, which only mixes a
    function with earlier ones: u serves as well and is far better conditioned.
    """
    powers = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (2, 2), (3, 1)]
    powers += [(4, 0), (3, 2), (4, 1), (3, 3), (5, 0)]
    return [partial(_power, p=p, q=q) for p, q in powers[:count]]


_GRADING = 1.25  # power by which nodes are crowded towards z = 1; found by trial


@lru_cache(maxsize=16)
def tail(z1: float, count: int) -> Tail:
    """Return the tail quadrature from `z1` with `count` nodes beyond `z1`.

    It is exact for the first terms of the logarithmic expansion of S at z = 1, on nodes
    graded towards it. In single precision too: polynomials on Gauss points, with as many
    nodes, end ten times further off for ten ions.

    Args:
        z1: Start of the tail, in (0, 1).
        count: Force evaluations after the one at `z1`.

    Returns:
        The nodes and the constant weights.
    """
    gauss = 0.5 + 0.5 * np.polynomial.legendre.leggauss(count)[0]
    width = 1.0 - z1
    depth = np.concatenate([[1.0], (1.0 - gauss) ** _GRADING])  # u at z1 and at the nodes
    functions = _logarithmic(count + 1)
    ends = np.append(depth[1:], 0.0)
    weights = np.zeros((count + 1, count + 1))
    for t, end in enumerate(ends, start=1):
        system = np.array([f(depth[:t]) for f in functions[:t]])
        moments = np.array([_moment(f, end, width) for f in functions[:t]])
        weights[t - 1, :t] = np.linalg.solve(system, moments)
    nodes = 1.0 - width * ends
    return Tail(z1=z1, nodes=nodes, weights=weights)


def _moment(f: Callable[[NDArray], NDArray], end: float, width: float) -> float:
    """Integrate (z_t - z) / (1 - z^2) f over z from z1 to z_t = 1 - width * end.

    In u = (1 - z) / width the integrand is (u - end) / (u (2 - width u)) f(u) width du.
    The substitution u = end + (1 - end) v^4 makes the logarithms at u = 0 smooth
    enough for sixty Gauss points to reach rounding.
    """
    x, g = np.polynomial.legendre.leggauss(60)
    v = 0.5 + 0.5 * x
    u = end + (1.0 - end) * v**4
    slope = 0.5 * g * 4.0 * (1.0 - end) * v**3
    ratio = (1.0 - end) * v**4 / u  # (u - end) / u without cancellation; 1 where end = 0
    return float(np.sum(slope * width * ratio * f(u) / (2.0 - width * u)))
