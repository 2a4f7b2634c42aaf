"""The recoil frame and the chart: exact to rounding, blind to what a detector cannot know."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from flowcei.frame.interface import FramedEvents
from flowcei.frame.kinds import frame_from_dict
from flowcei.frame.recoil import RecoilFrame
from flowcei.molecules.molecule import Molecule

if TYPE_CHECKING:
    from flowcei.physics.forward import Floats

CO = {
    "name": "co",
    "symbols": ["C", "O"],
    "bonds": [["c", "o"]],
    "equilibrium": {"unit": "bohr", "positions": [[0.0, 0.0, 0.0], [0.0, 0.0, 2.13]]},
}
POLYATOMIC = ["ocs", "co2", "ch2o", "ch4", "chbrclf"]
MOLECULES = ["co", *POLYATOMIC]
BATCH = 40


def _molecule(name: str) -> Molecule:
    return Molecule.from_dict(CO) if name == "co" else Molecule.load(name)


def _events(name: str, seed: int = 0) -> tuple[Molecule, Floats, Floats]:
    """Return a molecule, and positions and momenta that share nothing but their shape."""
    molecule = _molecule(name)
    rng = np.random.default_rng(seed)
    shape = (BATCH, len(molecule), 3)
    positions = 3.0 * rng.standard_normal(shape)
    return molecule, positions, 150.0 * rng.standard_normal(shape)


def _enter(frame: RecoilFrame, momenta: Floats) -> FramedEvents:
    return frame.enter(momenta, np.full(len(momenta), 1.5))


def _centred(positions: Floats, molecule: Molecule) -> Floats:
    weight = molecule.masses / molecule.masses.sum()
    return positions - (weight[:, None] * positions).sum(axis=-2, keepdims=True)


def _same(found: Floats, expected: Floats | float, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def _turn(seed: int) -> Floats:
    return Rotation.random(rng=np.random.default_rng(seed)).as_matrix()


@pytest.mark.parametrize("name", MOLECULES)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), reflect=st.booleans())
def test_inverse_chart_returns_every_geometry(
    name: str, data: st.DataObject, seed: int, *, reflect: bool
) -> None:
    """to_positions(to_chart(x)) is x, less the centre of mass, to 1e-12 of its size."""
    molecule, _, momenta = _events(name, seed)
    coordinate = st.floats(-50.0, 50.0, allow_subnormal=False)
    shape = (BATCH, 2, len(molecule), 3)
    x = data.draw(arrays(np.float64, shape, elements=coordinate))
    frame = RecoilFrame.of(molecule, momenta, reflect=reflect)
    events = _enter(frame, momenta)
    chart = frame.to_chart(x, events)
    assert chart.shape == (BATCH, 2, 3 * len(molecule) - 3)
    error = np.abs(frame.to_positions(chart, events)[0] - _centred(x, molecule)).max()
    assert error <= 1e-12 * max(1.0, float(np.abs(x).max()))


@pytest.mark.parametrize("name", MOLECULES)
def test_chart_of_the_inverse_returns_every_chart(name: str) -> None:
    """to_chart(to_positions(u)) is u to 1e-12: the map is one to one both ways."""
    molecule, _, momenta = _events(name, 1)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    events = _enter(frame, momenta)
    chart = np.random.default_rng(0).standard_normal((BATCH, 3, frame.width))
    _same(frame.to_chart(frame.to_positions(chart, events)[0], events), chart, 1e-12)


@pytest.mark.parametrize("name", MOLECULES)
def test_log_jacobian_is_that_of_differences(name: str) -> None:
    """log|det| of d chart / d (positions relative to the first atom): charts are linear in positions."""
    molecule, positions, momenta = _events(name, 2)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    events = _enter(frame, momenta)
    x = np.tile((positions - positions[:, :1])[:, None], (1, 1 + frame.width, 1, 1))
    x[:, 1:].reshape(BATCH, frame.width, -1)[..., 3:] += np.eye(frame.width)
    chart = frame.to_chart(x, events)
    volume = np.linalg.slogdet(chart[:, 1:] - chart[:, :1])[1]
    _same(frame.log_jacobian(chart[:, :1], events)[:, 0], volume, 1e-10)


@pytest.mark.parametrize("name", POLYATOMIC)
@pytest.mark.parametrize("reflect", [False, True])
def test_neither_orientation_nor_place_nor_motion_is_seen(name: str, *, reflect: bool) -> None:
    """Turned and moved positions, turned and boosted momenta: same condition, same chart."""
    molecule, positions, momenta = _events(name, 3)
    frame = RecoilFrame.of(molecule, momenta, reflect=reflect)
    before = _enter(frame, momenta)
    turn, shift, masses = _turn(4), np.array([3.0, -7.0, 1.0]), molecule.masses[:, None]
    after = _enter(frame, momenta @ turn.T + 1e-3 * masses * shift)
    _same(after.condition, before.condition)
    _same(
        frame.to_chart((positions @ turn.T + shift)[:, None], after),
        frame.to_chart(positions[:, None], before),
    )


def test_a_diatomic_is_seen_along_and_across_its_momenta() -> None:
    """Its momenta fix one axis only: along it and the distance from it are unchanged by a turn."""
    molecule, positions, momenta = _events("co", 3)
    frame = RecoilFrame.of(molecule, momenta, reflect=False)
    turn = _turn(5)
    charts = []
    for q, p in ((positions, momenta), (positions @ turn.T, momenta @ turn.T)):
        events = _enter(frame, p)
        chart = frame.to_chart(q[:, None], events)[:, 0]
        charts.append((events.condition, chart[:, 0], np.linalg.norm(chart[:, 1:], axis=1)))
    for before, after in zip(*charts, strict=True):
        _same(after, before)


@pytest.mark.parametrize("name", ["co2", "ch2o", "ch4"])
def test_the_order_of_identical_ions_is_not_seen(name: str) -> None:
    """Identical ions in another order, positions along: same condition, same chart."""
    molecule, positions, momenta = _events(name, 6)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    before = _enter(frame, momenta)
    (group,) = molecule.identical
    order = np.arange(len(molecule))
    order[list(group)] = np.roll(group, 1)
    after = _enter(frame, momenta[:, order])
    _same(after.condition, before.condition)
    mixed = frame.to_chart(positions[:, order][:, None], after)
    _same(mixed, frame.to_chart(positions[:, None], before))
    returned = frame.to_positions(mixed, after)[0][:, 0]
    _same(returned, _centred(positions[:, order], molecule), 1e-11)


@pytest.mark.parametrize("name", ["ch2o", "ch4", "chbrclf"])
def test_the_mirror_image_is_seen_only_where_handedness_counts(name: str) -> None:
    """With `reflect` a mirror image changes nothing; without it, the condition tells."""
    molecule, positions, momenta = _events(name, 7)
    mirror = np.array([1.0, 1.0, -1.0])
    for reflect in (True, False):
        frame = RecoilFrame.of(molecule, momenta, reflect=reflect)
        before, after = _enter(frame, momenta), _enter(frame, momenta * mirror)
        if reflect:
            _same(after.condition, before.condition)
            there = frame.to_chart((positions * mirror)[:, None], after)
            _same(there, frame.to_chart(positions[:, None], before))
        else:
            assert (np.abs(after.condition - before.condition).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("name", POLYATOMIC)
def test_positions_and_momenta_are_turned_by_the_same_matrix(name: str) -> None:
    """Positions laid exactly where the momenta point have the chart of those momenta."""
    molecule, _, momenta = _events(name, 8)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    events = _enter(frame, momenta)
    p = np.take_along_axis(_centred_momenta(momenta, molecule), events.order[:, :, None], axis=1)
    turned = p @ np.swapaxes(events.rotation, 1, 2)
    start, end = zip(*frame.tree, strict=True)
    bonds = turned[:, list(end)] - turned[:, list(start)]
    expected = bonds.reshape(BATCH, -1) * events.ker[:, None]
    chart = frame.to_chart(_centred_momenta(momenta, molecule)[:, None], events)[:, 0]
    np.testing.assert_allclose(chart, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def _centred_momenta(momenta: Floats, molecule: Molecule) -> Floats:
    weight = (molecule.masses / molecule.masses.sum())[:, None]
    return momenta - weight * momenta.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", MOLECULES)
def test_axes_are_orthonormal_and_lie_along_their_ions(name: str) -> None:
    """e1 along one momentum, e2 in the plane of a second, a third on the side of e3."""
    molecule, _, momenta = _events(name, 9)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    events = _enter(frame, momenta)
    rotation = events.rotation
    _same(rotation @ np.swapaxes(rotation, 1, 2), np.tile(np.eye(3), (BATCH, 1, 1)))
    _same(frame.rotation(momenta), rotation)
    p = np.take_along_axis(_centred_momenta(momenta, molecule), events.order[:, :, None], axis=1)
    turned = p @ np.swapaxes(rotation, 1, 2)
    _same(turned[:, frame.axes[0], 0], np.linalg.norm(p[:, frame.axes[0]], axis=1))
    assert np.abs(turned[:, frame.axes[1], 2]).max() < 1e-10
    assert (turned[:, frame.axes[1], 1] >= -1e-10).all()
    if len(molecule) > 3:
        assert (turned[:, frame.axes[2], 2] > 0).all()


@pytest.mark.parametrize("name", MOLECULES)
def test_conditions_have_their_width_and_hold_ker_and_noise(name: str) -> None:
    """3N - 4 numbers (two for a diatomic); the last two are log KER and log(sigma / rms)."""
    molecule, _, momenta = _events(name, 10)
    frame = RecoilFrame.of(molecule, momenta, reflect=False)
    events = _enter(frame, momenta)
    assert events.condition.shape == (BATCH, 3 * len(molecule) - 4)
    assert frame.condition_width == 3 * len(molecule) - 4
    p = _centred_momenta(momenta, molecule)
    ker = ((p**2).sum(axis=2) / (2.0 * molecule.masses)).sum(axis=1)
    _same(events.ker, ker)
    _same(events.condition[:, -2], np.log(ker))
    _same(events.condition[:, -1], np.log(1.5 / np.sqrt((p**2).mean(axis=(1, 2)))))


@pytest.mark.parametrize("name", ["ocs", "co2", "ch4"])
def test_scaling_a_molecule_moves_only_the_energy(name: str) -> None:
    """Twice the size is half the KER and momenta over sqrt 2: chart and directions stay."""
    molecule, positions, momenta = _events(name, 11)
    frame = RecoilFrame.of(molecule, momenta, reflect=False)
    small = _enter(frame, momenta)
    large = frame.enter(momenta / 2**0.5, np.full(BATCH, 1.5 / 2**0.5))
    _same(frame.to_chart(2.0 * positions[:, None], large), frame.to_chart(positions[:, None], small))
    difference = large.condition - small.condition
    _same(difference[:, -2], -np.log(2.0))
    assert np.abs(difference[:, :-2]).max() < 1e-12


@pytest.mark.parametrize("direction", [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.6, 0.0, -0.8], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize("name", ["co", "co2", "ocs", "ch4"])
def test_collinear_momenta_give_finite_numbers_and_a_rotation(name: str, direction: list[float]) -> None:
    """Momenta on one line fix no plane: any is taken, and the chart still inverts."""
    molecule, positions, momenta = _events(name, 12)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    flat = momenta[:, :, :1] * np.array(direction)
    events = _enter(frame, flat)
    assert np.isfinite(events.condition).all()
    _same(np.abs(np.linalg.det(events.rotation)), 1.0)
    returned = frame.to_positions(frame.to_chart(positions[:, None], events), events)[0][:, 0]
    _same(returned, _centred(positions, molecule), 1e-10)


def test_an_ion_at_rest_gives_a_rotation() -> None:
    """An ion without any momentum, where e1 should lie along it, collapses no geometry."""
    molecule, positions, momenta = _events("ocs", 13)
    frame = RecoilFrame.of(molecule, momenta, reflect=False)
    still = np.zeros_like(momenta)
    others = [k for k in range(3) if k != frame.axes[0]]
    still[:, others[0], 2], still[:, others[1], 2] = 5.0, -5.0
    events = _enter(frame, still)
    assert np.isfinite(events.condition).all()
    _same(np.linalg.det(events.rotation), 1.0)
    returned = frame.to_positions(frame.to_chart(positions[:, None], events), events)[0][:, 0]
    _same(returned, _centred(positions, molecule), 1e-10)


@pytest.mark.parametrize("name", MOLECULES)
def test_a_frame_returns_from_its_table(name: str) -> None:
    """The frame of its own fields is the same frame."""
    molecule, _, momenta = _events(name, 14)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    assert frame_from_dict(asdict(frame)) == frame


@pytest.mark.parametrize(
    "change",
    [
        {"axes": [0, 0]},
        {"axes": [0]},
        {"axes": [0, 1, 2]},
        {"axes": [0, 1, 9]},
        {"tree": [[0, 1]]},
        {"tree": [[0, 1], [0, 1]]},
        {"tree": [[2, 1], [1, 2]]},
        {"identical": [[1, 7]]},
        {"identical": [[1, 1]]},
    ],
)
def test_a_table_that_is_no_frame_is_refused(change: dict[str, list]) -> None:
    """Axes, groups and bonds must fit the ions; the message shows them."""
    molecule, _, momenta = _events("ocs", 15)
    table = asdict(RecoilFrame.of(molecule, momenta, reflect=False)) | change
    with pytest.raises(ValueError, match="no frame of 3 ions"):
        frame_from_dict(table)


def test_the_frame_does_not_depend_on_rounding() -> None:
    """Axes chosen from the same events, turned, are the same ions."""
    molecule, _, momenta = _events("ch4", 16)
    frame = RecoilFrame.of(molecule, momenta, reflect=True)
    assert RecoilFrame.of(molecule, momenta @ _turn(17).T, reflect=True) == frame
