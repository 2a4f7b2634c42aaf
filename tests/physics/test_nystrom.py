"""Coefficients: order conditions in exact rationals, order of convergence, tail quadrature."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pytest
from scipy.integrate import quad

from flowcei.physics.nystrom import RKN64, RKN86, Tableau, tail

METHODS = pytest.mark.parametrize(("method", "order"), [(RKN64, 6), (RKN86, 8)], ids=["6", "8"])


def test_tail_nodes_end_at_infinity() -> None:
    """Z = 1 is infinite time; the nodes rise towards it, weights are lower triangular."""
    nodes, weights = tail(0.9, 8)
    assert nodes[-1] == 1.0
    assert (np.diff([0.9, *nodes]) > 0).all()
    assert np.all(np.triu(weights, 1) == 0)


@pytest.mark.parametrize(("z1", "count"), [(0.7, 7), (0.8, 9), (0.9, 8), (0.95, 10), (0.985, 11), (0.99, 12)])
def test_tail_is_exact_for_logarithms_at_infinity(z1: float, count: int) -> None:
    """Quadrature of (z_t - z) / (1 - z^2) u^p ln^q u, u = (1 - z) / (1 - z1), to a node and to z = 1."""
    nodes, weights = tail(z1, count)
    width = 1.0 - z1
    depth = np.concatenate([[1.0], (1.0 - nodes[:-1]) / width])
    for t, end in ((count // 2, (1.0 - nodes[count // 2 - 1]) / width), (count + 1, 0.0)):
        for p, q in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (2, 2), (3, 1))[:t]:
            value = weights[t - 1, :t] @ (depth**p * np.log(depth) ** q)[:t]

            def integrand(s: float, p: int = p, q: int = q, end: float = end) -> float:
                u = np.exp(-s)
                return width * (u - end) / (2 - width * u) * u**p * (-s) ** q

            last = -np.log(end) if end else 60.0
            expected, _ = quad(integrand, 0.0, last, epsabs=1e-16, epsrel=1e-12, limit=200)
            assert value == pytest.approx(expected, rel=1e-9, abs=1e-15)


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
                value = sum(b * w for b, w in zip(method.a[-1], weights, strict=False))
                broken += value != exact / ((power + 1) * (power + 2))
    return broken


@METHODS
def test_every_order_condition_of_every_tree(method: Tableau, order: int) -> None:
    """All conditions of the stated order hold in exact rationals; some of the next do not."""
    assert method.c[-1] == 1  # the last stage is the first of the next step
    assert all(sum(row) == c**2 / 2 for c, row in zip(method.c, method.a, strict=True))
    assert _broken_conditions(method, order) == 0
    assert _broken_conditions(method, order + 1) > 0


@pytest.mark.parametrize("method", [RKN64, RKN86], ids=["6", "8"])
def test_a_misprinted_coefficient_breaks_a_condition(method: Tableau) -> None:
    """Any one coefficient changed by 1e-6 is found: the test above is sharp."""
    error = Fraction(1, 1_000_000)
    for i, row in enumerate(method.a):
        for j in range(len(row)):
            wrong = (*row[:j], row[j] + error, *row[j + 1 :])
            changed = method._replace(a=(*method.a[:i], wrong, *method.a[i + 1 :]))
            assert not all(sum(r) == c**2 / 2 for c, r in zip(changed.c, changed.a, strict=True))
    for j in range(len(method.c)):
        wrong = (*method.bp[:j], method.bp[j] + error, *method.bp[j + 1 :])
        assert _broken_conditions(method._replace(bp=wrong), 2) > 0


@METHODS
def test_orbit_of_kepler_is_followed_with_the_stated_order(method: Tableau, order: int) -> None:
    """Y'' = -y / |y|^3 has the ellipse of Kepler's equation as its exact solution."""
    e = 0.2
    c, a, bp = method.arrays(np.float64)
    end = anomaly = 1.0  # time is the mean anomaly
    for _ in range(50):
        anomaly = end + e * np.sin(anomaly)
    exact = np.array([np.cos(anomaly) - e, np.sqrt(1 - e * e) * np.sin(anomaly)])
    errors = []
    for steps in (4, 8) if order == 6 else (2, 4):
        h = end / steps
        y, w = np.array([1 - e, 0.0]), np.array([0.0, np.sqrt((1 + e) / (1 - e))])
        for _ in range(steps):
            k = np.zeros((len(method.c), 2))
            for i in range(len(method.c)):
                s = y + c[i] * h * w + h * h * a[i] @ k
                k[i] = -s / np.linalg.norm(s) ** 3
            y, w = y + h * w + h * h * a[-1] @ k, w + h * bp[0] @ k
        errors.append(np.linalg.norm(y - exact))
    assert np.log2(errors[0] / errors[1]) > order - 0.5
    assert errors[1] < 1e-7
