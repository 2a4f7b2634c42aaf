"""Like ions aligned with the equilibrium: the best of all orders, whatever nobody can know."""

from __future__ import annotations

from dataclasses import asdict
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import flowcei
from flowcei.frame.interface import FramedEvents
from flowcei.frame.kinds import frame_from_dict
from flowcei.frame.recoil import RecoilFrame
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta
from flowcei.reconstruction.framing import ordered_frame

ANGSTROM = 1.8897261246
VINYL = Molecule.from_dict(
    {
        "name": "vinyl",
        "symbols": ["C", "C", "H", "H", "H"],
        "bonds": [["c1", "c2"], ["c1", "h1"], ["c1", "h2"], ["c2", "h3"]],
        "equilibrium": {
            "unit": "angstrom",
            "positions": [
                [0.0, 0.0, 0.0],
                [1.31, 0.0, 0.0],
                [-0.56, 0.93, 0.0],
                [-0.58, -0.94, 0.0],
                [2.0, 0.83, 0.0],
            ],
        },
        "priors": {"equilibrium": {"kind": "displaced", "sigma": 0.15}},
        "default_prior": "equilibrium",
    }
)
MOLECULES = {"c2h2": Molecule.load("c2h2"), "vinyl": VINYL}


def _rest(molecule: Molecule) -> tuple[tuple[float, float, float], ...]:
    p = asymptotic_momenta(molecule.equilibrium, molecule.masses, molecule.charges, accuracy=1e-9)
    return tuple((float(x), float(y), float(z)) for x, y, z in p)


def _enter(frame: RecoilFrame, momenta: np.ndarray) -> FramedEvents:
    return frame.enter(momenta, np.full(len(momenta), 1.5))


def _case(name: str, seed: int, spread: float, *, reflect: bool) -> tuple[Molecule, np.ndarray, RecoilFrame]:
    """Momenta (20, N, 3) about those of the equilibrium, turned and in any order of like ions."""
    molecule, rng = MOLECULES[name], np.random.default_rng(seed)
    rest = np.array(_rest(molecule))
    p = rest + spread * np.abs(rest).max() * rng.standard_normal((20, *rest.shape))
    p -= (molecule.masses / molecule.masses.sum())[:, None] * p.sum(axis=1, keepdims=True)
    for k in range(len(p)):
        for group in map(list, molecule.identical):
            p[k, group] = p[k, rng.permutation(group)]
    p = p @ Rotation.random(len(p), rng=rng).as_matrix()
    frame = RecoilFrame.of(molecule, p, reflect=reflect, reference=_rest(molecule))
    assert frame.reference
    return molecule, p, frame


def _alike(p: np.ndarray, molecule: Molecule, *, reflect: bool) -> float:
    """Greatest sum over i of p_i . R p_eq,i / m_i of all rotations R (and reflections)."""
    u, s, v = np.linalg.svd((p / molecule.masses[:, None]).T @ np.array(_rest(molecule)))
    return float(s[:2].sum() + s[2] * (1.0 if reflect else np.sign(np.linalg.det(u @ v))))


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_no_order_lies_nearer(name: str, spread: float, *, reflect: bool) -> None:
    """All orders of like ions, each turned as suits it best by SVD: none is nearer than the one taken."""
    molecule, p, frame = _case(name, 1, spread, reflect=reflect)
    order = _enter(frame, p).order
    groups = [list(group) for group in molecule.identical]
    for k in range(len(p)):
        values = []
        for choice in product(*map(permutations, groups)):
            every = np.arange(len(molecule))
            for group, ions in zip(groups, choice, strict=True):
                every[group] = ions
            values.append(_alike(p[k, every], molecule, reflect=reflect))
        assert sorted(order[k]) == list(range(len(molecule)))
        assert _alike(p[k, order[k]], molecule, reflect=reflect) >= max(values) * (1 - 1e-9)


@pytest.mark.parametrize("name", MOLECULES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0.02, 2.0), reflect=st.booleans())
def test_turned_moved_scaled_and_exchanged_events_are_the_same(
    name: str, seed: int, spread: float, *, reflect: bool
) -> None:
    """Any rotation, boost and order of like ions, and where it is folded a reflection: the same condition."""
    molecule, p, frame = _case(name, seed, spread, reflect=reflect)
    before, rng = _enter(frame, p), np.random.default_rng(seed + 1)
    order = np.arange(len(molecule))
    for group in map(list, molecule.identical):
        order[group] = rng.permutation(group)
    turn = Rotation.random(rng=rng).as_matrix() * (-1.0 if reflect else 1.0)
    moved = p[:, order] @ turn.T + 1e-3 * molecule.masses[:, None] * rng.standard_normal(3)
    after = _enter(frame, moved)
    np.testing.assert_allclose(after.condition, before.condition, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(order[after.order], before.order)


@pytest.mark.parametrize("name", ["h2o", "co2", "ch2o", "ch4"])
def test_orders_that_symmetry_undoes_are_those_of_speed(name: str) -> None:
    """Where every order is a rotation or a reflection of the equilibrium, alignment says nothing."""
    molecule = Molecule.load(name)
    p = 150.0 * np.random.default_rng(0).standard_normal((30, len(molecule), 3))
    aligned = RecoilFrame.of(molecule, p, reflect=True, reference=_rest(molecule))
    assert aligned == RecoilFrame.of(molecule, p, reflect=True)


def test_methane_with_handedness_has_two_classes() -> None:
    """12 of 24 orders are rotations; of those that tie, the first ion is the fastest."""
    methane = Molecule.load("ch4")
    p = 150.0 * np.random.default_rng(0).standard_normal((200, 5, 3))
    frame = RecoilFrame.of(methane, p, reflect=False, reference=_rest(methane))
    assert frame.reference
    order = _enter(frame, p).order
    speed = np.linalg.norm(
        p - methane.masses[:, None] / methane.masses.sum() * p.sum(axis=1, keepdims=True), axis=2
    )
    ranks = np.take_along_axis(speed, order, axis=1)[:, 1:].argsort(axis=1)
    assert (ranks[:, -1] == ranks[0, -1]).all()
    assert len(np.unique(ranks, axis=0)) == 2


def test_twelve_like_ions_find_their_places() -> None:
    """Half a billion orders: of displaced ones the order that was hidden is found."""
    rng = np.random.default_rng(2)
    x = 8.0 * rng.standard_normal((12, 3))
    table = {"name": "h12", "symbols": ["H"] * 12, "equilibrium": {"unit": "bohr", "positions": x.tolist()}}
    rest = 50.0 * rng.standard_normal((12, 3))
    rest -= rest.mean(axis=0)
    p = rest + rng.standard_normal((20, 12, 3))
    hidden = np.stack([rng.permutation(12) for _ in p])
    reference = tuple((float(a), float(b), float(c)) for a, b, c in rest)
    molecule = Molecule.from_dict(table)
    frame = RecoilFrame.of(molecule, p, reflect=False, reference=reference)
    found = _enter(frame, np.take_along_axis(p, hidden[:, :, None], axis=1)).order
    np.testing.assert_array_equal(np.take_along_axis(hidden, found, axis=1), np.tile(np.arange(12), (20, 1)))


def test_a_frame_keeps_its_alignment_and_older_ones_are_by_speed() -> None:
    """Through the table that a file holds; what is no reference is refused."""
    _, _, frame = _case("vinyl", 1, 0.1, reflect=True)
    table = asdict(frame)
    assert frame_from_dict(table) == frame
    older = {key: value for key, value in table.items() if key != "reference"}
    assert frame_from_dict(older).reference == ()  # type: ignore[union-attr]
    for wrong in ([[1.0, 2.0, 3.0]], [[0.0] * 3] * 5, [[1e9, 0.0, 0.0]] * 5, [[1.0, 2.0]] * 5):
        with pytest.raises(ValueError, match=r"reference|align"):
            frame_from_dict(table | {"reference": wrong})


@pytest.mark.parametrize(
    ("name", "prior", "aligned"),
    [("vinyl", None, True), ("c2h2", None, True), ("c2h2", "ball", False), ("ch2o", None, False)],
)
def test_the_pilot_aligns_where_it_tells_more(
    name: str, prior: str | None, aligned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Vinyl and acetylene near equilibrium; in a ball there is nothing to align with. It is said."""
    molecule = MOLECULES.get(name) or Molecule.load(name)
    pilot = flowcei.simulate(molecule, 2000, prior=prior, noise="1%", seed=3, accuracy=1e-4)
    with caplog.at_level("INFO", logger="flowcei"):
        frame = ordered_frame(pilot, reflect=True)
    assert bool(frame.reference) == aligned
    assert ("aligned with the equilibrium" in caplog.text) == aligned
