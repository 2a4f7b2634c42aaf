"""Coefficients: order conditions in exact rationals, order of convergence, tail quadrature."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import quad

from flowcei.physics.nystrom import RKN64, RKN86, Tableau, _logarithmic, _polynomials, tail

METHODS = pytest.mark.parametrize("method", [RKN64, RKN86], ids=lambda m: m.name)


@METHODS
def test_order_conditions_hold_exactly(method: Tableau) -> None:
    """Row sums, quadrature conditions of y and y', and those with one inner stage."""
    c, a, b, bp = method.c, method.a, method.b, method.bp
    for ci, row in zip(c, a, strict=True):
        assert sum(row) == ci**2 / 2
    for k in range(method.order - 1):
        assert sum(w * x**k for w, x in zip(b, c, strict=True)) == Fraction(1, (k + 1) * (k + 2))
    for k in range(method.order):
        assert sum(w * x**k for w, x in zip(bp, c, strict=True)) == Fraction(1, k + 1)
    # sum bp_i a_ij c_j^k = 1 / ((k + 1) (k + 2) (k + 3)), order k + 3.
    for k in range(method.order - 2):
        inner = [sum(v * x**k for v, x in zip(row, c, strict=False)) for row in a]
        expected = Fraction(1, (k + 1) * (k + 2) * (k + 3))
        assert sum(w * v for w, v in zip(bp, inner, strict=True)) == expected


@METHODS
def test_the_last_stage_is_the_next_first(method: Tableau) -> None:
    """First same as last: b is the last row of a, at c = 1."""
    assert method.c[-1] == 1
    assert (*method.a[-1], Fraction(0)) == method.b


@METHODS
def test_measured_order(method: Tableau) -> None:
    """Y'' = -y - 3 y^3 / 10 (1 - z / 6): halving the step divides the error by 2^order."""

    def force(z: float, y: float) -> float:
        return -y - 0.3 * y**3 * (1.0 - z / 6.0)

    def solve(steps: int) -> np.ndarray:
        c, a, bp = method.arrays(np.float64)
        h, z, y, v = 6.0 / steps, 0.0, 1.0, 0.4
        for _ in range(steps):
            k = np.zeros(method.stages)
            for i in range(method.stages):
                k[i] = force(z + c[i] * h, y + c[i] * h * v + h**2 * a[i] @ k)
            y, v, z = y + h * v + h**2 * a[-1] @ k, v + h * bp @ k, z + h
        return np.array([y, v])

    exact = solve(500)
    errors = [np.abs(solve(n) - exact).max() for n in (16, 32)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.5)


@pytest.mark.parametrize(
    ("z1", "count", "logarithmic"), [(0.8, 6, False), (0.95, 10, True), (0.99, 12, True)]
)
def test_tail_weights_integrate_their_basis(z1: float, count: int, logarithmic: bool) -> None:
    """Against adaptive quadrature of (z_t - z) / (1 - z^2) phi(z), for the node and for z = 1."""
    rule = tail(z1, count, logarithmic=logarithmic)
    width = 1.0 - z1
    depth = np.concatenate([[1.0], (1.0 - rule.nodes[:-1]) / width])
    basis = (_logarithmic if logarithmic else _polynomials)(count + 1)
    for t in (count // 2, count + 1):
        end = rule.nodes[t - 1]
        for f in basis[: min(t, 5)]:
            found = rule.weights[t - 1, :t] @ f(depth[:t])
            expected, _ = quad(
                lambda z, f=f, end=end: (end - z) / (1 - z * z) * float(f(np.array((1 - z) / width))),
                z1, end, epsabs=1e-14, epsrel=1e-12, limit=200,
            )  # fmt: skip
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-13)


def test_tail_nodes_end_at_infinity() -> None:
    """Z = 1 is infinite time; the nodes rise towards it, weights are lower triangular."""
    rule = tail(0.9, 8, logarithmic=True)
    assert rule.nodes[-1] == 1.0
    assert (np.diff([rule.z1, *rule.nodes]) > 0).all()
    assert np.all(np.triu(rule.weights, 1) == 0)
