"""Coefficients: order conditions in exact rationals, order of convergence, tail quadrature."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pytest
from scipy.integrate import quad

from flowcei.physics.nystrom import RKN64, RKN86, Tableau, _logarithmic, tail

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


@pytest.mark.parametrize(("z1", "count"), [(0.7, 7), (0.8, 9), (0.95, 10), (0.99, 12)])
def test_tail_weights_integrate_their_basis(z1: float, count: int) -> None:
    """Against adaptive quadrature of (z_t - z) / (1 - z^2) phi(z), for the node and for z = 1."""
    rule = tail(z1, count)
    width = 1.0 - z1
    depth = np.concatenate([[1.0], (1.0 - rule.nodes[:-1]) / width])
    basis = _logarithmic(count + 1)
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
    rule = tail(0.9, 8)
    assert rule.nodes[-1] == 1.0
    assert (np.diff([rule.z1, *rule.nodes]) > 0).all()
    assert np.all(np.triu(rule.weights, 1) == 0)


Tree = tuple[int, tuple["Tree", ...]]
"""An elementary differential of f(y): how many y' it is applied to, and which f."""


def _power(tree: Tree) -> int:
    """Return the power of h that a tree carries."""
    return tree[0] + sum(_power(t) + 2 for t in tree[1])


@cache
def _trees(power: int) -> tuple[Tree, ...]:
    """Return every tree of a power, each once (E. Hairer, Numer. Math. 25, 383 (1976))."""
    smaller = [t for p in range(power - 1) for t in _trees(p)]
    found = []
    for count in range(power // 2 + 1):
        for branches in combinations_with_replacement(smaller, count):
            left = power - sum(_power(t) + 2 for t in branches)
            if left >= 0:
                found.append((left, branches))
    return tuple(found)


def _exact(tree: Tree) -> Fraction:
    """Return g of the exact solution, whose stage weight at node s is g s^power."""
    value = Fraction(1)
    for t in tree[1]:
        value *= _exact(t) / ((_power(t) + 1) * (_power(t) + 2))
    return value


def _stage_weights(method: Tableau, tree: Tree) -> list[Fraction]:
    """Return what each stage of the method makes of a tree."""
    weights = [c ** tree[0] for c in method.c]
    for t in tree[1]:
        inner = _stage_weights(method, t)
        for i, row in enumerate(method.a):
            weights[i] *= sum((v * w for v, w in zip(row, inner, strict=False)), Fraction(0))
    return weights


def _broken_conditions(method: Tableau, order: int) -> int:
    """Return how many of all conditions for order `order` of y and y' do not hold exactly."""
    broken = 0
    for power in range(order):
        for tree in _trees(power):
            weights, exact = _stage_weights(method, tree), _exact(tree)
            slope = sum(b * w for b, w in zip(method.bp, weights, strict=True))
            broken += slope != exact / (power + 1)
            if power < order - 1:
                value = sum(b * w for b, w in zip(method.b, weights, strict=True))
                broken += value != exact / ((power + 1) * (power + 2))
    return broken


@METHODS
def test_every_order_condition_of_every_tree(method: Tableau) -> None:
    """All conditions of the stated order hold in exact rationals; some of the next do not."""
    assert _broken_conditions(method, method.order) == 0
    assert _broken_conditions(method, method.order + 1) > 0


@METHODS
def test_a_misprinted_coefficient_breaks_a_condition(method: Tableau) -> None:
    """Any one coefficient changed by 1e-6 is found: the test above is sharp."""
    error = Fraction(1, 1_000_000)
    for i, row in enumerate(method.a):
        for j in range(len(row)):
            wrong = (*row[:j], row[j] + error, *row[j + 1 :])
            changed = replace(method, a=(*method.a[:i], wrong, *method.a[i + 1 :]))
            row_sums = all(sum(r) == c**2 / 2 for c, r in zip(changed.c, changed.a, strict=True))
            assert not row_sums
    for j in range(method.stages):
        wrong = (*method.bp[:j], method.bp[j] + error, *method.bp[j + 1 :])
        assert _broken_conditions(replace(method, bp=wrong), 2) > 0


@METHODS
def test_orbit_of_kepler_is_followed_with_the_stated_order(method: Tableau) -> None:
    """Y'' = -y / |y|^3 has the ellipse of Kepler's equation as its exact solution."""
    e = 0.2
    c, a, bp = method.arrays(np.float64)
    end = anomaly = 1.0  # time is the mean anomaly
    for _ in range(50):
        anomaly = end + e * np.sin(anomaly)
    exact = np.array([np.cos(anomaly) - e, np.sqrt(1 - e * e) * np.sin(anomaly)])
    errors = []
    for steps in (4, 8) if method.order == 6 else (2, 4):
        h = end / steps
        y, w = np.array([1 - e, 0.0]), np.array([0.0, np.sqrt((1 + e) / (1 - e))])
        for _ in range(steps):
            k = np.zeros((method.stages, 2))
            for i in range(method.stages):
                s = y + c[i] * h * w + h * h * a[i] @ k
                k[i] = -s / np.linalg.norm(s) ** 3
            y, w = y + h * w + h * h * a[-1] @ k, w + h * bp @ k
        errors.append(np.linalg.norm(y - exact))
    assert np.log2(errors[0] / errors[1]) > method.order - 0.5
    assert errors[1] < 1e-7


@pytest.mark.parametrize(("z1", "count"), [(0.9, 8), (0.95, 10), (0.985, 11), (0.99, 12)])
def test_tail_is_exact_for_logarithms_at_infinity(z1: float, count: int) -> None:
    """The last row takes d^p ln^q d to z = 1 as adaptive quadrature does, d = (1 - z) / (1 - z1)."""
    rule = tail(z1, count)
    depth = np.concatenate([[1.0], (1.0 - rule.nodes[:-1]) / (1.0 - z1)])
    for p, q in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1)):
        found = rule.weights[-1] @ (depth**p * np.log(depth) ** q)
        # (1 - z) / (1 - z^2) = 1 / (1 + z), with 1 - z = (1 - z1) exp(-s)
        expected, _ = quad(
            lambda s, p=p, q=q: (1 - z1) * np.exp(-(p + 1) * s) * (-s) ** q
            / (2 - (1 - z1) * np.exp(-s)),
            0.0, 60.0, epsabs=1e-16, epsrel=1e-12, limit=200,
        )  # fmt: skip
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)
