"""Orders of identical atoms: sums that prune against full enumeration, mirror images, bounds."""

from __future__ import annotations

from itertools import permutations, product
from math import factorial, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowcei
from flowcei.errors import UsageError
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import DisplacedPrior, GeometryPrior, InternalPrior, NormalModesPrior, build_prior
from flowcei.physics.priors.orders import OrderSearch

TETRAHEDRON = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
GOLDEN = 0.5 * (1.0 + 5.0**0.5)
ICOSAHEDRON = np.array([np.roll([0.0, a, b * GOLDEN], k) for k in range(3) for a in (-1, 1) for b in (-1, 1)])
RING = np.array([[np.cos(k), np.sin(k), 0.0] for k in 2 * np.pi * np.arange(12) / 12])
# Staggered ethane, r(CC) 1.52, r(CH) 1.09 angstrom, to the four digits of a file.
ETHANE = np.array(
    [
        [0.0, 0.0, 0.7600],
        [0.0, 0.0, -0.7600],
        [0.0, 1.0192, 1.1575],
        [-0.8827, -0.5096, 1.1575],
        [0.8827, -0.5096, 1.1575],
        [0.0, -1.0192, -1.1575],
        [-0.8827, 0.5096, -1.1575],
        [0.8827, 0.5096, -1.1575],
    ]
)
ACETONE = np.array(
    [
        [0.0, 0.0, 1.4],
        [0.0, 0.0, 0.18],
        [0.0, 1.29, -0.61],
        [0.0, -1.29, -0.61],
        [0.0, 2.14, 0.07],
        [0.0, -2.14, 0.07],
        [-0.88, 1.31, -1.27],
        [0.88, 1.31, -1.27],
        [-0.88, -1.31, -1.27],
        [0.88, -1.31, -1.27],
    ]
)


def _molecule(symbols: str, positions: np.ndarray, **priors: Any) -> Molecule:
    return Molecule.from_dict(
        {
            "name": "made",
            "symbols": list(symbols),
            "equilibrium": {"unit": "angstrom", "positions": positions.tolist()},
            "priors": priors,
        }
    )


def _enumerated(prior: GeometryPrior, x: np.ndarray, identical: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Return the mean density over every order, one order after the other."""
    total = np.full(len(x), -np.inf)
    for choice in product(*(permutations(group) for group in identical)):
        order = np.arange(x.shape[1])
        for group, members in zip(identical, choice, strict=True):
            order[list(group)] = members
        total = np.logaddexp(total, prior.log_prob(x[:, order]))
    return total - np.log(prod(factorial(len(group)) for group in identical))


@pytest.mark.parametrize("name", ["h2o", "ch4", "c2h2", "ch2o"])
@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0])
def test_displaced_prior_without_labels(name: str, sigma: float) -> None:
    """Near equilibrium, far from it, and where all orders count: to 1e-10 of every order's sum."""
    molecule = Molecule.load(name)
    prior = DisplacedPrior(molecule.equilibrium, molecule.kinds, sigma)
    rng = np.random.default_rng(1)
    x = np.concatenate([prior.sample(50, rng), 3.0 * rng.normal(size=(50, len(molecule), 3))])
    found = prior.log_prob_unlabelled(x, molecule.identical)
    np.testing.assert_allclose(found, _enumerated(prior, x, molecule.identical), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(("symbols", "positions"), [("CCHHHHHH", ETHANE), ("OCCCHHHHHH", ACETONE)])
def test_weights_of_ethane_and_acetone(symbols: str, positions: np.ndarray) -> None:
    """1,440 and 4,320 orders: near, far, and of a prior so wide that many of them count."""
    molecule = _molecule(symbols, positions)
    rng = np.random.default_rng(2)
    for sigma in (0.15, 0.8):
        prior = DisplacedPrior(molecule.equilibrium, molecule.kinds, sigma)
        x = np.concatenate([prior.sample(3, rng), 2.0 * rng.normal(size=(2, len(molecule), 3))])
        found = prior.log_prob_unlabelled(x, molecule.identical)
        np.testing.assert_allclose(found, _enumerated(prior, x, molecule.identical), rtol=1e-10, atol=1e-9)
        assert prior.allows(x, molecule.identical).all()
        if sigma == 0.15:
            assert prior.plausible(x, molecule.identical).tolist() == [True] * 3 + [False] * 2


def test_symmetry_counts_each_class_of_orders_once() -> None:
    """Rotations of a tetrahedron, an icosahedron, a ring and a line; none of a general molecule."""
    twelve, four = (tuple(range(12)),), ((0, 1, 2, 3),)
    general = np.random.default_rng(0).normal(size=(12, 3))
    for shape, identical, classes in (
        (TETRAHEDRON, four, 12),
        (ICOSAHEDRON, twelve, 60),
        (RING, twelve, 24),
        (np.array([[0.0, 0, -2], [0, 0, 2], [0, 0, -1], [0, 0, 1]]), ((0, 1), (2, 3)), 2),
        (general, twelve, 1),
        (TETRAHEDRON + 1e-6 * general[:4], four, 1),
    ):
        assert OrderSearch(shape, identical).classes == classes


@pytest.mark.parametrize("shape", [ICOSAHEDRON, RING, np.random.default_rng(3).normal(size=(12, 3))])
def test_twelve_like_atoms(shape: np.ndarray) -> None:
    """Half a billion orders: the density near equilibrium is that of the orders that rotations undo."""
    x = 3.0 * shape
    prior = DisplacedPrior(x, ["h"] * 12, 0.05)
    identical = (tuple(range(12)),)
    near = prior.sample(5, np.random.default_rng(1))
    classes = OrderSearch(x, identical).classes
    expected = prior.log_prob(near) + np.log(classes / factorial(12))
    rng = np.random.default_rng(4)
    shuffled = np.stack([g[rng.permutation(12)] for g in near])
    np.testing.assert_allclose(prior.log_prob_unlabelled(shuffled, identical), expected, rtol=1e-10)
    assert prior.plausible(shuffled, identical).all()


def test_a_geometry_beyond_any_bound_leaves_the_others_alone() -> None:
    """Twelve like atoms: what is far off has no density, in no time; what a wide prior allows is unknown."""
    identical = (tuple(range(12)),)
    shape = 3.0 * np.random.default_rng(3).normal(size=(12, 3))
    narrow = DisplacedPrior(shape, ["h"] * 12, 0.05)
    x = narrow.sample(6, np.random.default_rng(0))
    expected = narrow.log_prob_unlabelled(x, identical)
    x[2], x[4] = 3.0 * np.random.default_rng(5).normal(size=(12, 3)), 2.0 * x[4]
    expected[[2, 4]] = -np.inf
    np.testing.assert_allclose(narrow.log_prob_unlabelled(x, identical), expected, rtol=1e-12)
    wide = DisplacedPrior(shape / 3.0, ["h"] * 12, 0.4)
    x = wide.sample(1, np.random.default_rng(0))
    with pytest.warns(UserWarning, match="1 of 3 geometries have so many orders .* unknown"):
        found = wide.log_prob_unlabelled(np.concatenate([100.0 * x, x, 200.0 * x]), identical)
    assert np.array_equal(found, [-np.inf, np.nan, -np.inf], equal_nan=True)
    assert wide.allows(x, identical).all()


@given(st.integers(0, 10_000), st.floats(0.02, 3.0))
@settings(max_examples=20, deadline=None)
def test_no_order_is_below_the_bound_that_gives_geometries_up(seed: int, scale: float) -> None:
    """The residual of every order of four like atoms and one other, best turned, by SVD."""
    rng = np.random.default_rng(seed)
    x0, x = rng.normal(size=(5, 3)), scale * rng.normal(size=(5, 3))
    x0, x = x0 - x0.mean(axis=0), x - x.mean(axis=0)
    residuals = []
    for order in permutations(range(4)):
        u, s, v = np.linalg.svd(x[[*order, 4]].T @ x0)
        s[2] *= np.sign(np.linalg.det(u @ v))
        residuals.append((x**2).sum() + (x0**2).sum() - 2.0 * s.sum())
    search = OrderSearch(x0, ((0, 1, 2, 3),))
    assert search.least_residual(x[None])[0] <= min(residuals) + 1e-12


class _WithAHole(GeometryPrior):
    """A prior that cannot say how probable one geometry is."""

    kind = "hole"
    has_density = True

    def __init__(self, prior: GeometryPrior, hole: np.ndarray) -> None:
        self.prior, self.hole = prior, hole

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self.prior.sample(n, rng)

    def log_prob(self, positions: np.ndarray) -> np.ndarray:
        return np.where((positions == self.hole).all(axis=(1, 2)), np.nan, self.prior.log_prob(positions))

    def spec(self) -> dict[str, Any]:
        return {}


def test_an_event_without_a_prior_density_has_no_weights() -> None:
    """The density of one of 40 samples is unknown: that event is flagged, the other is weighed as ever."""
    model = flowcei.load()
    samples = model.sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 40, seed=1)
    assert samples.log_prob is not None
    whole = samples.weigh()
    weighed = samples.weigh(_WithAHole(model.prior, samples.positions[1, 7].astype(float)))
    assert weighed.weights is not None
    assert whole.weights is not None
    np.testing.assert_array_equal(weighed.weights.log_weights[0], whole.weights.log_weights[0])
    np.testing.assert_allclose(weighed.weights.normalised[1], 1 / 40)
    assert "weights" in weighed.flag_names[1]


class _Labelled(GeometryPrior):
    """A prior of somebody's own, that knows of no search."""

    kind = "labelled"
    has_density = True

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(n, 7, 3))

    def log_prob(self, positions: np.ndarray) -> np.ndarray:
        return np.where(positions[:, 0, 0] > positions[:, 1, 0], 0.0, -np.inf)

    def spec(self) -> dict[str, Any]:
        return {}


def test_a_prior_of_ones_own_goes_through_720_orders() -> None:
    """Half of all orders have density 1; 5,040 are refused."""
    x = np.random.default_rng(0).normal(size=(4, 7, 3))
    found = _Labelled().log_prob_unlabelled(x, (tuple(range(6)),))
    np.testing.assert_allclose(found, np.log(0.5), rtol=1e-12)
    assert _Labelled().allows(x, (tuple(range(6)),)).all()
    with pytest.raises(UsageError, match="7 identical ions are too many"):
        _Labelled().log_prob_unlabelled(x, (tuple(range(7)),))


def _methane_rows(length: dict[str, Any], angle: dict[str, Any], dihedral: float) -> list[dict[str, Any]]:
    first = {"atom": "h1", "from": "c", "length": length}
    second = {"atom": "h2", "from": "c", "length": length, "angle_to": "h1", "angle": angle}
    rows: list[dict[str, Any]] = [{"atom": "c"}, first, second]
    for label, turn in (("h3", dihedral), ("h4", -dihedral)):
        rows.append(
            second
            | {
                "atom": label,
                "dihedral_to": "h2",
                "dihedral": {"normal": [turn, 10.0]},
                "length": {"normal": [2.3, 0.1]},
            }
        )
    return rows


@pytest.mark.parametrize("sharp", [True, False])
def test_internal_prior_without_labels(sharp: bool) -> None:
    """Densities with limits and without, some orders forbidden, some all: as enumerated."""
    length = {"uniform": [1.9, 2.2]} if sharp else {"normal": [2.05, 0.3]}
    angle = {"truncated_normal": [109.5, 5.0, 90.0, 130.0]} if sharp else {"uniform": [0.0, 180.0]}
    molecule = Molecule.load("ch4")
    prior = InternalPrior(molecule.labels, _methane_rows(length, angle, 120.0))
    rng = np.random.default_rng(5)
    x = np.concatenate([prior.sample(40, rng), 2.0 * rng.normal(size=(40, 5, 3))])
    x[:40] = np.stack([g[[0, *(1 + rng.permutation(4))]] for g in x[:40]])
    expected = _enumerated(prior, x, molecule.identical)
    found = prior.log_prob_unlabelled(x, molecule.identical)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_array_equal(prior.allows(x, molecule.identical), expected > -np.inf)
    assert np.isfinite(expected[:40]).all()


def test_internal_prior_of_eight_like_atoms() -> None:
    """A chain of 40,320 orders: near its middle one order counts, and its reverse."""
    labels = [f"h{k}" for k in range(1, 9)]
    rows: list[dict[str, Any]] = [{"atom": "h1"}]
    for k in range(1, 8):
        rows.append({"atom": labels[k], "from": labels[k - 1], "length": {"normal": [3.0, 0.1]}})
        if k > 1:
            rows[-1] |= {"angle_to": labels[k - 2], "angle": {"normal": [150.0, 3.0]}}
        if k > 2:
            rows[-1] |= {"dihedral_to": labels[k - 3], "dihedral": {"normal": [180.0, 5.0]}}
    prior = InternalPrior(labels, rows)
    x = prior.sample(5, np.random.default_rng(1))
    both = np.logaddexp(prior.log_prob(x), prior.log_prob(x[:, ::-1])) - np.log(factorial(8))
    mixed = x[:, np.random.default_rng(2).permutation(8)]
    np.testing.assert_allclose(prior.log_prob_unlabelled(mixed, (tuple(range(8)),)), both, rtol=1e-10)


def test_normal_modes_prior_without_labels() -> None:
    """Modes of methane with random springs: near and far, as enumerated."""
    molecule = Molecule.load("ch4")
    x0 = molecule.equilibrium
    rng = np.random.default_rng(6)
    n = len(x0)
    i, j = np.triu_indices(n, 1)
    strength = rng.uniform(0.05, 0.4, len(i))
    bond = (x0[i] - x0[j]) / np.linalg.norm(x0[i] - x0[j], axis=1, keepdims=True)
    hessian = np.zeros((n, 3, n, 3))
    for k in range(len(i)):
        block = strength[k] * np.outer(bond[k], bond[k])
        for a, b, sign in ((i[k], i[k], 1), (j[k], j[k], 1), (i[k], j[k], -1), (j[k], i[k], -1)):
            hessian[a, :, b, :] += sign * block
    root = np.repeat(np.sqrt(molecule.masses), 3)
    square, vectors = np.linalg.eigh(hessian.reshape(3 * n, -1) / np.outer(root, root))
    modes = (vectors[:, 6:] / root[:, None]).T.reshape(-1, n, 3)
    prior = NormalModesPrior(x0, molecule.masses, np.sqrt(square[6:]) / 4.556335252912e-6, modes, 300.0)
    x = np.concatenate([prior.sample(30, rng), 2.0 * rng.normal(size=(10, n, 3))])
    x[:15] = x[:15, [0, 3, 1, 4, 2]]
    found = prior.log_prob_unlabelled(x, molecule.identical)
    np.testing.assert_allclose(found, _enumerated(prior, x, molecule.identical), rtol=1e-10)
    x[3, 1, 1] = np.nan
    assert np.isnan(prior.log_prob_unlabelled(x, molecule.identical)).tolist() == [k == 3 for k in range(40)]
    assert prior.allows(x, molecule.identical).tolist() == [k != 3 for k in range(40)]


def _superposable(x: np.ndarray, kinds: list[str]) -> bool:
    """Whether some order of like atoms, of all, is a rotation of the mirror image."""
    x = x - x.mean(axis=0)
    groups = [[i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)]
    source = [i for group in groups for i in group]
    for choice in product(*(permutations(group) for group in groups)):
        target = [i for group in choice for i in group]
        u, s, v = np.linalg.svd((x * [1, 1, -1.0])[target].T @ x[source])
        s[2] *= np.sign(np.linalg.det(u) * np.linalg.det(v))
        if (x**2).sum() - s.sum() < 1e-6 * (x**2).sum():
            return True
    return False


@given(
    st.lists(st.tuples(*[st.sampled_from([-2.0, -1.0, 0.0, 1.0])] * 3), min_size=3, max_size=6, unique=True),
    st.lists(st.sampled_from("ab"), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_handedness_is_that_of_every_order(places: list[tuple[float, ...]], kinds: list[str]) -> None:
    """Atoms on a lattice are often symmetric: the search agrees with trying all orders."""
    x, alike = np.array(places), kinds[: len(places)]
    assert DisplacedPrior(x, alike, 0.1).mirror_symmetric == _superposable(x, alike)


def test_handedness_of_large_molecules() -> None:
    """Rings and icosahedra have none, twelve atoms anywhere have one, and neither takes a second."""
    general = np.random.default_rng(3).normal(size=(12, 3))
    hundred = np.random.default_rng(3).normal(size=(100, 3))
    apart = general + np.array([9.0, 0.0, 0.0])
    both = np.concatenate([apart, apart * [-1.0, 1.0, 1.0]])
    for x, symmetric in ((ICOSAHEDRON, True), (RING, True), (general, False), (hundred, False), (both, True)):
        assert DisplacedPrior(x, ["h"] * len(x), 0.1).mirror_symmetric == symmetric


def test_a_file_of_twelve_like_atoms_simulates_and_weighs() -> None:
    """What hung in a search through all orders; CHBrClF keeps its hand."""
    molecule = _molecule("H" * 12, ICOSAHEDRON * 1.5, equilibrium={"kind": "displaced", "sigma": 0.15})
    prior = build_prior(molecule)
    assert prior.mirror_symmetric
    x = prior.sample(10, np.random.default_rng(0))
    assert np.isfinite(prior.log_prob_unlabelled(x, molecule.identical)).all()
    assert not build_prior(Molecule.load("chbrclf"), "equilibrium").mirror_symmetric
