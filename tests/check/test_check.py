"""Checking data: the good case is clean, and every bad one is found, with its number."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import flowcei
from flowcei import check_file, repair
from flowcei.check.agreement import angles_of, best_rotations
from flowcei.check.diagnostic import Diagnostic, FileCheck
from flowcei.check.file import unbounded
from flowcei.cli.main import main
from flowcei.errors import DataError
from flowcei.events.container import Events
from flowcei.events.faults import Faults
from flowcei.events.foreign.interpretation import Reading
from flowcei.events.simulation import simulate
from flowcei.events.source import open_events
from flowcei.molecules.molecule import Molecule, built_in_molecules

_BOHR_IN_ANGSTROM = 0.529177210903
_MOMENTUM_IN_SI = 1.99285191410e-24


def _by_code(check: FileCheck) -> dict[str, Diagnostic]:
    return {line.code: line for line in check.diagnostics}


def _bad(check: FileCheck) -> set[str]:
    return {line.code for line in check.diagnostics if line.severity != "note"}


def _errors(check: FileCheck) -> set[str]:
    return {line.code for line in check.diagnostics if line.severity == "error"}


def _turned(events: Events, rotation: Rotation) -> Events:
    """Turn the positions only, as the first study did."""
    assert events.positions is not None
    matrices = rotation.as_matrix()
    return replace(events, positions=events.positions @ np.swapaxes(matrices, -1, -2))


@pytest.mark.parametrize("noise", ["0%", "1%", "0.1%..5%", "0.5"])
@pytest.mark.parametrize("count", [1, 12, 400])
@pytest.mark.parametrize("molecule", [m for m in built_in_molecules() if len(Molecule.load(m)) <= 5])
def test_simulated_events_are_sound(molecule: str, count: int, noise: str) -> None:
    """Neither error nor warning, for few events too, with or without the stated sigma."""
    events = simulate(molecule, count, noise=noise, seed=3)
    assert _bad(check_file(events)) == set()
    assert _bad(check_file(replace(events, sigma=None))) == set()
    assert _bad(check_file(replace(events, sigma=None, positions=None))) == set()
    assert unbounded(events) == []


@pytest.mark.parametrize("prior", ["equilibrium", "stretched", "broad", "cube", "ball"])
def test_the_prior_is_recognised(prior: str) -> None:
    """Of all priors of OCS, and a geometry of none of them resembles none."""
    events = simulate("ocs", 1000, prior=prior, seed=8)
    assert _by_code(check_file(events))["prior"].values["prior"] == prior
    other = simulate("ocs", 1000, prior={"kind": "ball", "radius": 2.5}, seed=8)
    assert _by_code(check_file(other))["prior"].values["prior"] is None


@pytest.mark.parametrize("molecule", ["ocs", "co2", "h2o", "ch4", "chbrclf"])
def test_rotations_apart_are_found_and_repaired(molecule: str) -> None:
    """Each event by its own known rotation: angle, and positions back to 1e-9 bohr."""
    events = simulate(molecule, 300, seed=1, accuracy=1e-9)
    rotation = Rotation.random(300, random_state=2)
    apart = _turned(events, rotation)
    found = check_file(apart)
    assert _errors(found) == {"frames"}
    angle = np.degrees(rotation.magnitude())
    values = _by_code(found)["frames"].values
    assert values["share"] == 1.0
    assert values["median"] == pytest.approx(np.median(angle), abs=1e-4)
    assert values["least"] == pytest.approx(angle.min(), abs=1e-4)
    assert values["greatest"] == pytest.approx(angle.max(), abs=1e-4)
    assert apart.positions is not None
    repaired, changes = repair(replace(apart, positions=apart.positions + np.array([0.3, -0.1, 0.2])))
    assert repaired.positions is not None
    np.testing.assert_allclose(repaired.positions, events.positions, atol=1e-9)
    np.testing.assert_allclose(changes.angle, angle, atol=1e-4)
    np.testing.assert_allclose(changes.shift, np.sqrt(0.14), atol=1e-12)
    assert _bad(check_file(repaired)) == set()


@pytest.mark.parametrize("molecule", ["ocs", "ch4", "chbrclf"])
def test_noise_moves_a_repair_by_as_much_as_the_noise(molecule: str) -> None:
    """With 1 % noise positions return to about 1 % of their size, and the angle to a degree."""
    events = simulate(molecule, 300, noise="1%", seed=1)
    rotation = Rotation.random(300, random_state=2)
    apart = _turned(events, rotation)
    found = _by_code(check_file(apart))["frames"]
    assert found.values["median"] == pytest.approx(np.degrees(np.median(rotation.magnitude())), abs=1.0)
    repaired, changes = repair(apart)
    assert repaired.positions is not None
    assert events.positions is not None
    away = np.sqrt(((repaired.positions - events.positions) ** 2).mean())
    assert 0.0 < away < 0.02 * np.sqrt((events.positions**2).mean())
    assert "300 of 300 events turned" in str(changes)
    # What is in one frame already is not turned after the noise.
    again, unchanged = repair(events)
    assert unchanged.angle.max() == 0.0
    assert again.positions is not None
    np.testing.assert_allclose(again.positions, events.positions, atol=1e-12)


def test_one_small_rotation_of_all_events_is_found() -> None:
    """Five degrees about z: far less than what noise hides in a single event's third angle."""
    for noise in ("0%", "1%"):
        events = _turned(
            simulate("ocs", 300, noise=noise, seed=1), Rotation.from_rotvec([0, 0, np.radians(5)])
        )
        assert _by_code(check_file(events))["frames"].values["median"] == pytest.approx(5.0, abs=0.3)


def test_some_events_rotated_apart_are_found() -> None:
    """One in ten; the others are left as they are."""
    events = simulate("chbrclf", 300, noise="1%", seed=1)
    chosen = np.arange(300) % 10 == 0
    apart = _turned(events, Rotation.random(300, random_state=2))
    assert apart.positions is not None
    assert events.positions is not None
    mixed = replace(events, positions=np.where(chosen[:, None, None], apart.positions, events.positions))
    found = check_file(mixed)
    assert _errors(found) == {"frames"}
    assert _by_code(found)["frames"].values["share"] == pytest.approx(0.1)
    assert (repair(mixed)[1].angle > 0).tolist() == chosen.tolist()


def test_collinear_events_have_a_smallest_angle() -> None:
    """A rotation about the axis of a straight molecule turns nothing; a tilt has its angle."""
    straight = {"kind": "ensemble", "geometries": [Molecule.load("co2").equilibrium.tolist()]}
    events = simulate("co2", 50, prior=straight, seed=4, accuracy=1e-9)
    assert events.positions is not None
    axis = events.positions[:, 1] / np.linalg.norm(events.positions[:, 1], axis=1, keepdims=True)
    about = _turned(events, Rotation.from_rotvec(2.0 * axis))
    assert "frames" not in _by_code(check_file(about))
    across = np.cross(axis, [0.1, 0.2, 0.97])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    tilted = _turned(about, Rotation.from_rotvec(0.5 * across))
    found = _by_code(check_file(tilted))["frames"].values
    assert found["least"] == pytest.approx(np.degrees(0.5), abs=1e-5)
    assert found["greatest"] == pytest.approx(np.degrees(0.5), abs=1e-5)
    assert _by_code(check_file(events))["collinear"].unbounded == "chart"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), ions=st.integers(1, 5), flat=st.integers(1, 3))
def test_best_rotations_agree_with_scipy(seed: int, ions: int, flat: int) -> None:
    """Any vectors, also in a plane or on a line: the fit is as good as SciPy's, the angle not larger."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, ions, 3)) * (np.arange(3) < flat)
    y = rng.standard_normal((1, ions, 3)) * (np.arange(3) < flat)
    if flat == 1:
        y = y @ Rotation.random(random_state=seed).as_matrix().T
    mine = best_rotations(x, y)
    assert np.linalg.det(mine[0]) == pytest.approx(1.0)
    np.testing.assert_allclose(mine[0] @ mine[0].T, np.eye(3), atol=1e-12)
    size = np.linalg.norm(x @ np.swapaxes(mine, 1, 2) - y)
    u, s, vt = np.linalg.svd(y[0].T @ x[0])
    s[2] *= np.sign(np.linalg.det(u @ vt))
    least = np.sqrt(max((x**2).sum() + (y**2).sum() - 2.0 * s.sum(), 0.0))
    assert size == pytest.approx(least, abs=1e-6)
    if flat == 1 or ions == 1:
        cosine = min(1.0, abs(np.linalg.svd(x[0])[2][0] @ np.linalg.svd(y[0])[2][0]))
        smallest = np.degrees(np.arccos(cosine))
        assert min(abs(angles_of(mine)[0] - smallest), abs(180.0 - smallest - angles_of(mine)[0])) < 1e-4


def test_opposite_directions_are_turned_by_half_a_turn() -> None:
    """From a to -a: a rotation all the same."""
    x = np.array([[[0.0, 0.0, 1.0], [0.0, 0.0, -2.0]]])
    turn = best_rotations(x, -x)
    np.testing.assert_allclose(x @ np.swapaxes(turn, 1, 2), -x, atol=1e-12)
    assert angles_of(turn)[0] == pytest.approx(180.0)
    assert np.linalg.det(turn[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("noise", ["0%", "1%"])
def test_mirror_images_are_reported_and_not_reflected(noise: str) -> None:
    """Five ions know their handedness; three, always in a plane, do not."""
    events = simulate("chbrclf", 200, noise=noise, seed=1)
    assert events.positions is not None
    mirror = replace(events, positions=events.positions * [1.0, 1.0, -1.0])
    found = _by_code(check_file(mirror))
    assert found["mirrored"].severity == "error"
    assert found["mirrored"].values["share"] > 0.98
    repaired, changes = repair(mirror)
    assert "fit only as mirror images" in str(changes)
    assert repaired.positions is not None
    volume = np.linalg.det(repaired.positions[:, 1:4] - repaired.positions[:, :1])
    assert (
        np.sign(volume) == np.sign(np.linalg.det(mirror.positions[:, 1:4] - mirror.positions[:, :1]))
    ).all()
    ocs = simulate("ocs", 200, noise=noise, seed=1)
    assert ocs.positions is not None
    assert _errors(check_file(replace(ocs, positions=ocs.positions * [1.0, 1.0, -1.0]))) == {"frames"}


def test_an_offset_of_the_centre_of_mass_is_measured() -> None:
    """A shift of each event, normal with 0.5 bohr: its floor is 0.25 bohr^2."""
    events = simulate("ocs", 4000, noise="1%", seed=1)
    shift = 0.5 * np.random.default_rng(0).standard_normal((4000, 1, 3))
    assert events.positions is not None
    found = check_file(replace(events, positions=events.positions + shift))
    assert _bad(found) == {"centre-of-mass"}
    values = _by_code(found)["centre-of-mass"].values
    assert values["rms"] == pytest.approx(np.sqrt((shift**2).sum(axis=2).mean()))
    assert values["floor"] == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("noise", ["0%", "1%"])
@pytest.mark.parametrize(
    ("molecule", "charges"),
    [
        ("ocs", [4, 4, 4]),
        ("ocs", [1, 1, 1]),
        ("h2o", [2, 2, 2]),
        ("ocs", [3, 1, 2]),
        ("ch4", [2, 1, 1, 1, 1]),
    ],
)
def test_charges_are_inferred(molecule: str, charges: list[float], noise: str) -> None:
    """Simulated with others than the molecule declares: those are named."""
    known = Molecule.load(molecule)
    other = simulate(replace(known, charges=np.array(charges, float)), 300, noise=noise, seed=2)
    found = check_file(replace(other, molecule=known))
    assert _errors(found) == {"charges"}
    assert _by_code(found)["charges"].values["charges"] == charges


def test_a_charge_scale_that_is_no_integer_is_named() -> None:
    """Momenta 1.3 times too large: KE / U0 is 1.69."""
    events = simulate("ocs", 200, noise="1%", seed=2)
    found = _by_code(check_file(replace(events, momenta=1.3 * events.momenta, sigma=None)))
    assert found["scale"].severity == "error"
    assert found["scale"].values["charge_factor"] == pytest.approx(1.3, rel=0.01)
    slight = _by_code(check_file(replace(events, momenta=1.01 * events.momenta, sigma=None)))
    assert slight["scale"].severity == "warning"


@pytest.mark.parametrize(
    ("length", "momentum", "name"),
    [
        (_BOHR_IN_ANGSTROM, 1.0, "positions in angstrom"),
        (_BOHR_IN_ANGSTROM * 1e-10, _MOMENTUM_IN_SI, "positions in metres and momenta in kg m/s"),
        (1.0, _MOMENTUM_IN_SI, "momenta in kg m/s"),
        (_BOHR_IN_ANGSTROM / 10.0, 1.0, "positions in nanometres"),
    ],
)
def test_other_units_are_found(length: float, momentum: float, name: str) -> None:
    """Angstrom and SI, from KE / U0."""
    events = simulate("ocs", 200, noise="1%", seed=2)
    assert events.positions is not None
    assert events.sigma is not None
    other = replace(
        events,
        positions=length * events.positions,
        momenta=momentum * events.momenta,
        sigma=momentum * events.sigma,
    )
    found = check_file(other)
    assert _errors(found) == {"units"}
    assert _by_code(found)["units"].message.endswith(name)
    if momentum != 1.0:
        alone = _by_code(check_file(replace(other, positions=None)))["units"]
        assert "kg m/s" in alone.message


def test_velocities_are_no_momenta() -> None:
    """They sum to zero only with the masses."""
    events = simulate("chbrclf", 100, seed=2)
    masses = events.molecule.masses[:, None]
    assert "velocities" in _errors(
        check_file(replace(events, momenta=events.momenta / masses, positions=None))
    )


@pytest.mark.parametrize("molecule", ["ocs", "co2", "ch4"])
def test_rows_in_another_order_are_found_and_not_repaired(molecule: str) -> None:
    """Positions of one event beside the momenta of another."""
    events = simulate(molecule, 300, noise="1%", seed=2)
    assert events.positions is not None
    shuffled = replace(events, positions=events.positions[::-1].copy())
    assert "unexplained" in _errors(check_file(shuffled))
    with pytest.raises(DataError, match="do not explain the momenta"):
        repair(shuffled)


def test_duplicates_are_counted() -> None:
    """Five events twice, two of them with other positions."""
    events = simulate("ocs", 100, noise="1%", seed=2)
    twice = events[np.r_[0:100, 0:5]]
    assert twice.positions is not None
    twice.positions[103:] += 1e-3
    found = check_file(twice.unnumbered())
    assert _by_code(found)["duplicates"].values == {"count": 5, "first": 101, "identical": 3}
    assert _by_code(found)["duplicates"].severity == "warning"


@pytest.mark.parametrize("molecule", ["h2o", "ch4", "co2"])
def test_identical_ions(molecule: str) -> None:
    """Unsorted, sorted together, and momenta sorted alone, which is an error."""
    events = simulate(molecule, 400, noise="0.2%", seed=2)
    group = list(events.molecule.identical[0])
    values = _by_code(check_file(events))["identical-ions"].values
    assert values["falling"] == pytest.approx(1.0 / np.prod(np.arange(1, len(group) + 1)), abs=0.15)
    order = np.argsort(-np.linalg.norm(events.momenta[:, group], axis=2), axis=1)[:, :, None]
    assert events.positions is not None
    momenta, positions = events.momenta.copy(), events.positions.copy()
    momenta[:, group] = np.take_along_axis(momenta[:, group], order, axis=1)
    positions[:, group] = np.take_along_axis(positions[:, group], order, axis=1)
    together = check_file(replace(events, momenta=momenta, positions=positions))
    assert _by_code(together)["identical-ions"].values["falling"] == 1.0
    assert _bad(together) == set()
    assert _errors(check_file(replace(events, momenta=momenta))) == {"order"}


def test_the_momentum_sum_shows_the_noise() -> None:
    """2 %, whether stated or not; a wrong statement, or none left, is found."""
    events = simulate("ocs", 4000, noise="2%", seed=2)
    assert events.sigma is not None
    found = _by_code(check_file(events))["noise"]
    assert found.values["relative"] == pytest.approx(0.02, rel=0.05)
    assert found.values["absolute"] == pytest.approx(np.median(events.sigma), rel=0.05)
    wrong = _by_code(check_file(replace(events, sigma=0.5 * events.sigma)))
    assert wrong["sigma"].values["ratio"] == pytest.approx(2.0, rel=0.05)
    share = events.molecule.masses / events.molecule.masses.sum()
    centred = events.momenta - share[:, None] * events.momenta.sum(axis=1, keepdims=True)
    assert "sigma" in _bad(check_file(replace(events, momenta=centred)))
    assert "unexplained" in _bad(check_file(replace(events, momenta=centred, sigma=None)))
    assert "conserved-sums" in _by_code(check_file(simulate("ocs", 20, seed=1)))


def test_momenta_that_do_not_belong_together_are_found() -> None:
    """One ion of another event in every row, and in every twentieth."""
    events = simulate("ocs", 1000, noise="1%", seed=2)
    momenta = events.momenta.copy()
    momenta[:, 2] = momenta[::-1, 2]
    assert "momentum-sum" in _errors(check_file(replace(events, momenta=momenta, positions=None)))
    mixed = np.where(np.arange(1000)[:, None, None] % 20 == 0, momenta, events.momenta)
    found = _by_code(check_file(replace(events, momenta=mixed, positions=None)))["momentum-sum-outliers"]
    assert found.values["share"] == pytest.approx(0.05, abs=0.005)
    flying = _by_code(
        check_file(replace(events, momenta=events.momenta + np.array([0.0, 3.0, 0.0]), sigma=None))
    )
    assert flying["momentum-offset"].values["offset"] == pytest.approx(9.0, abs=0.3)


def test_constant_columns_are_named_and_unbounded() -> None:
    """S on x and O in the plane, as in the first study's files: 1e-12 counts as zero."""
    events = simulate("ocs", 100, seed=2, accuracy=1e-9)
    assert events.positions is not None
    x = events.positions - events.positions[:, :1]
    first = x[:, 2] / np.linalg.norm(x[:, 2], axis=1, keepdims=True)
    second = x[:, 1] - (x[:, 1] * first).sum(axis=1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    axes = np.stack([first, second, np.cross(first, second)], axis=1)
    plane = replace(
        events,
        positions=x @ np.swapaxes(axes, 1, 2),
        momenta=events.momenta @ np.swapaxes(axes, 1, 2),
    )
    found = _by_code(check_file(plane))
    assert found["constant-columns"].values["columns"] == ["cx", "cy", "cz", "oz", "sy", "sz"]
    assert found["constant-momenta"].values["columns"] == ["pcz", "poz", "psz"]
    assert {f.code for f in unbounded(plane, coordinates="raw")} == {"constant-columns"}
    assert unbounded(plane) == []  # the chart turns with noisy momenta
    assert [f.code for f in unbounded(events, coordinates="raw")] == ["linear-relations"]


def test_geometries_without_a_volume_are_unbounded_in_any_coordinates() -> None:
    """A rigid bond, a molecule that is always planar, a list of two geometries."""
    rigid = {"zmatrix": [
        {"atom": "c"},
        {"atom": "o", "from": "c", "length": {"normal": [2.2, 1e-12]}},
        {"atom": "s", "from": "c", "length": {"normal": [3.0, 0.2]}, "angle_to": "o", "angle": {"bend": 8.0}},
    ], "kind": "internal"}  # fmt: skip
    found = unbounded(simulate("ocs", 60, prior=rigid, seed=1))
    assert [(f.code, f.values["distances"]) for f in found] == [("rigid", ["c-o"])]
    planar = simulate("ch2o", 60, seed=1)
    assert planar.positions is not None
    x = planar.positions * [1.0, 1.0, 0.0]
    p = flowcei.asymptotic_momenta(x, planar.molecule.masses, planar.molecule.charges)
    assert [f.code for f in unbounded(replace(planar, positions=x, momenta=p))] == ["planar"]
    two = simulate("h2o", 2, seed=1).positions
    assert two is not None
    listed = simulate("h2o", 60, prior={"kind": "ensemble", "geometries": two.tolist()}, seed=1)
    assert [(f.code, f.values["count"]) for f in unbounded(listed)] == [("few-geometries", 2)]
    # Repaired three-ion events lie in the plane of momenta that are said to be noisy.
    noisy = simulate("h2o", 60, noise="1%", seed=1)
    repaired, _ = repair(_turned(noisy, Rotation.random(60, random_state=1)))
    assert [f.code for f in unbounded(repaired)] == ["in-plane"]
    assert unbounded(noisy) == []


def test_coincident_ions_are_counted() -> None:
    """They have no momenta, and do not keep the rest from being looked at."""
    events = simulate("ocs", 40, seed=2)
    assert events.positions is not None
    events.positions[3, 1] = events.positions[3, 0]
    found = _by_code(check_file(events))
    assert "1 of 40" in found["coincident"].message
    assert found["explained"].severity == "note"
    with pytest.raises(DataError, match="coincide"):
        repair(events)
    assert _by_code(check_file(replace(events, positions=np.zeros_like(events.momenta))))["coincident"]


# The rest goes through files and the command line.


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Work in an empty folder, and return the lines of a sound CSV of sixty OCS events."""
    monkeypatch.chdir(tmp_path)
    flowcei.write_events(simulate("ocs", 60, noise="1%", seed=1), "good.csv")
    return Path("good.csv").read_text().splitlines()


def _check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["flowcei", "check", *words])
    try:
        main()
        code = 0
    except SystemExit as leave:
        code = int(leave.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def _write(lines: list[str], name: str = "bad.csv") -> str:
    Path(name).write_text("\n".join([*lines, ""]))
    return name


def _with_cell(lines: list[str], row: int, column: int, cell: str) -> list[str]:
    cells = lines[row].split(",")
    cells[column] = cell
    return [*lines[:row], ",".join(cells), *lines[row + 1 :]]


@pytest.mark.usefixtures("lines")
def test_a_sound_file_ends_with_0(monkeypatch: Any, capsys: Any) -> None:
    """As text and as JSON; nothing on stderr."""
    code, out, err = _check(monkeypatch, capsys, "good.csv")
    assert (code, err) == (0, "")
    assert out.startswith("good.csv: ocs, 60 events")
    assert out.splitlines()[-1] == "sound: 0 errors, 0 warnings; the positions explain the momenta"
    code, out, err = _check(monkeypatch, capsys, "good.csv", "--json")
    table = json.loads(out)
    assert (code, err) == (0, "")
    assert table["sound"] is True
    assert {f["severity"] for f in table["findings"]} == {"note"}
    assert set(table) == {"file", "molecule", "rows", "sound_rows", "sound", "verdict", "findings", "run"}
    assert set(table["findings"][0]) == {"severity", "code", "what", "means", "todo", "unbounded", "values"}


def test_every_bad_row_is_counted(lines: list[str], monkeypatch: Any, capsys: Any) -> None:
    """NaN, blanks, text and short rows in one file: all of them are said, the rest is checked."""
    bad = _with_cell(lines, 3, 0, "nan")
    bad = _with_cell(bad, 4, 10, "")
    bad = _with_cell(bad, 5, 11, "")
    bad = _with_cell(bad, 6, 2, "two")
    bad[7] = "1.0,2.0"
    code, out, _ = _check(monkeypatch, capsys, _write(bad), "--json")
    table = json.loads(out)
    assert code == 3
    assert (table["rows"], table["sound_rows"]) == (60, 55)
    text = " ".join(f["what"] for f in table["findings"] if f["severity"] != "note")
    for words in (
        "3 of 58 events: with a number that is blank, not finite",
        "1 of 60 rows (6) hold text",
        "1 of 60 rows (7) have another number of fields",
    ):
        assert words in text
    assert any(f["code"] == "explained" for f in table["findings"])


_ILL = st.sampled_from(["two", "1e", "0x1", "1_0", "1.0d3", "=1", "1,2", "\x00"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ill=st.dictionaries(st.integers(1, 40), st.tuples(st.integers(0, 8), _ILL), min_size=1, max_size=6),
    foreign=st.booleans(),
)
def test_what_is_sound_is_what_the_strict_reader_reads_without_the_bad_rows(
    ill: dict[int, tuple[int, str]], foreign: bool, tmp_path: Path
) -> None:
    """Whatever rows are spoilt, in a file of flowcei or of another program; each is counted once."""
    momenta = simulate("ocs", 40, seed=2).momenta.reshape(40, 9)
    ions = ["_C", "_O", "_S"] if foreign else ["c", "o", "s"]
    names = [f"p{a}{k} [kg m/s]" if foreign else f"p{k}{a}" for k in ions for a in "xyz"]
    rows = [[repr(p * (_MOMENTUM_IN_SI if foreign else 1.0)) for p in row] for row in momenta.tolist()]
    lines = [",".join(names), *map(",".join, rows)]
    whole, bad = tmp_path / "whole.csv", tmp_path / "bad.csv"
    whole.write_text("\n".join(line for k, line in enumerate(lines) if k not in ill) + "\n")
    for row, (column, cell) in ill.items():
        lines = _with_cell(lines, row, column, cell)
    bad.write_text("\n".join(lines) + "\n")
    strict = flowcei.read_events(whole, "ocs")
    report = check_file(bad, "ocs")
    assert report.events is not None
    np.testing.assert_allclose(report.events.momenta, strict.momenta, rtol=1e-15)
    faults = [f for f in report.diagnostics if f.code in ("cells", "fields")]
    assert (report.rows, sum(f.values["count"] for f in faults)) == (40, len(ill))
    parts = [
        *open_events(bad, Molecule.load("ocs"), Reading(faults=Faults())).chunks(7)
    ]  # pandas reads some, and then fails
    np.testing.assert_allclose(Events.concatenate(parts).momenta, strict.momenta, rtol=1e-15)
    with pytest.raises(DataError, match=f"row {min(ill)}\\b"):
        flowcei.read_events(bad, "ocs")


def test_leading_columns_of_row_numbers(lines: list[str], monkeypatch: Any, capsys: Any) -> None:
    """Without a name: a note. Without even a comma in the header: an error. With a name: an extra column."""
    numbered = [f"{k - 1},{line}" for k, line in enumerate(lines)]
    unnamed = ["," + lines[0], *numbered[1:]]
    code, out, _ = _check(monkeypatch, capsys, _write(unnamed))
    assert code == 0
    assert "index-column: the first column has no name" in out
    code, out, _ = _check(monkeypatch, capsys, _write([lines[0], *numbered[1:]]))
    assert code == 3
    assert "rows have one field more than the header" in out
    assert "explained" in out
    code, out, _ = _check(monkeypatch, capsys, _write(["index," + lines[0], *numbered[1:]]))
    assert code == 0
    assert "extra columns carried along: index" in out


def test_other_faults_of_files(lines: list[str]) -> None:
    """Doubled and missing columns, ions at rest, negative sigma, doubled event numbers."""
    doubled = [f"{line},{line.split(',')[0]}" for line in lines]
    assert "duplicate column: cx" in _by_code(check_file(_write(doubled)))["columns"].message
    partial = [",".join(line.split(",")[1:]) for line in lines]
    report = check_file(_write(partial))
    assert "missing: cx" in _by_code(report)["columns"].message
    assert report.events is not None
    assert report.events.positions is None
    still = [*lines[:2], ",".join(["1.0"] * len(lines[0].split(","))), *lines[3:]]
    report = check_file(_write(still))
    what = "1 of 60 events: without kinetic energy (first: row 2)"
    assert what in [line.message for line in report.diagnostics]
    assert report.rows == 60
    negative = _with_cell(lines, 5, 18, "-1.0")
    assert _by_code(check_file(_write(negative)))["events"].message.startswith("1 of 60 rows (5) have a neg")
    twice = ["event," + lines[0], *(f"{k // 2},{line}" for k, line in enumerate(lines[1:]))]
    assert "30 are there twice" in _by_code(check_file(_write(twice)))["event-numbers"].message


def test_a_file_of_another_molecule_is_named(lines: list[str], monkeypatch: Any, capsys: Any) -> None:
    """In one line, with what is missing and what would fit."""
    code, out, err = _check(monkeypatch, capsys, "good.csv", "--molecule", "ch4")
    assert (code, out) == (3, "")
    assert "12 of the 15 momentum columns of ch4" in err
    assert "ph1x" in err
    assert "the columns fit ocs: name it with --molecule" in err
    assert err.count("\n") == 1
    for text in ("no,columns\n1,2\n", "a;b\n1;2\n", "\n\n", lines[0] + "\n"):
        Path("odd.csv").write_text(text)
        code, out, err = _check(monkeypatch, capsys, "odd.csv")
        assert (code, out) == (3, "")
        assert err.startswith("flowcei: error: odd.csv")
        assert err.count("\n") == 1
    assert _check(monkeypatch, capsys, "nothing.csv")[0] == 2


def test_hdf5_with_nan_is_reported(lines: list[str]) -> None:
    """Rows are counted and left out; a file that is no HDF5 of events is refused."""
    assert lines
    flowcei.write_events(simulate("ch4", 60, noise="1%", seed=1), "events.h5")
    assert check_file("events.h5").sound
    with h5py.File("events.h5", "r+") as file:
        file["momenta"][4, 0, 0] = np.nan
        file["positions"][5, 0, 0] = np.inf
    report = check_file("events.h5")
    assert report.molecule == "ch4"
    assert report.rows == 60
    assert report.events is not None
    assert len(report.events) == 58
    assert any("2 of 60 events: with a number that is" in line.message for line in report.diagnostics)
    with h5py.File("events.h5", "r+") as file:
        del file["momenta"]
    with pytest.raises(DataError, match="no dataset /momenta"):
        check_file("events.h5")


@pytest.mark.parametrize("ending", [".csv", ".h5"])
def test_repair_writes_a_sound_file(ending: str, lines: list[str], monkeypatch: Any, capsys: Any) -> None:
    """Rotated apart and off centre: exit code 3 for FILE, and OUT is sound."""
    assert lines
    events = simulate("ocs", 60, seed=1, accuracy=1e-9)
    apart = _turned(events, Rotation.random(60, random_state=1))
    assert apart.positions is not None
    flowcei.write_events(replace(apart, positions=apart.positions + 0.2), "apart.csv")
    out_file = f"repaired{ending}"
    code, out, err = _check(monkeypatch, capsys, "apart.csv", "--repair", out_file)
    assert code == 3
    assert "frames: in every event positions and momenta are rotated apart" in out
    assert "centres of mass moved by 0.3464 bohr" in err
    assert "positions of 60 of 60 events turned by" in err
    assert _check(monkeypatch, capsys, out_file)[0] == 0
    repaired = flowcei.read_events(out_file).positions
    assert repaired is not None
    np.testing.assert_allclose(repaired, events.positions, atol=1e-9)
    code, _, err = _check(monkeypatch, capsys, "apart.csv", "--repair", out_file)
    assert code == 2
    assert "exists" in err
    assert _check(monkeypatch, capsys, "apart.csv", "--repair", out_file, "--overwrite")[0] == 3


def test_repair_refuses_the_file_itself_and_what_cannot_be_repaired(
    lines: list[str], monkeypatch: Any, capsys: Any
) -> None:
    """Also through a link and with --overwrite; momenta alone have nothing to turn."""
    before = Path("good.csv").read_bytes()
    Path("link.csv").symlink_to("good.csv")
    for name in ("good.csv", "./good.csv", "link.csv"):
        code, _, err = _check(monkeypatch, capsys, "good.csv", "--repair", name, "--overwrite")
        assert code == 2
        assert "good.csv is what is read" in err
    assert Path("good.csv").read_bytes() == before
    assert _check(monkeypatch, capsys, "good.csv", "--repair", "out.txt")[0] == 2
    momenta = _write([",".join(line.split(",")[9:]) for line in lines], "momenta.csv")
    code, out, err = _check(monkeypatch, capsys, momenta)
    assert code == 0
    assert "momenta-only: " in out
    assert out.splitlines()[-1].startswith("the run was not compared")
    assert "sound" not in out
    code, _, err = _check(monkeypatch, capsys, momenta, "--repair", "out.csv")
    assert code == 3
    assert "momenta only" in err
    assert not Path("out.csv").exists()
