"""An experiment as it is stated, and the events that it makes, against statistics and physics."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import constants, stats
from scipy.optimize import brentq
from shell import Shell

import flowcei
from flowcei import Experiment
from flowcei.errors import DataError, UsageError
from flowcei.events.foreign.interpretation import Reading
from flowcei.events.selection import Selection
from flowcei.experiment.missing import lost_column, lost_ions

OCS = flowcei.Molecule.load("ocs")
SHARES = OCS.masses / OCS.masses.sum()
DETECTOR = {"field": "20 V/cm", "length": "10 cm", "sigma_t": "0.5 ns", "sigma_x": "0.1 mm"}

_percent = st.floats(0.01, 100.0).map(lambda level: f"{level!r}%")
_absolute = st.floats(1e-6, 1e6)
_levels = st.one_of(_percent, _absolute, st.lists(_percent, min_size=3, max_size=3))
_ions = st.fixed_dictionaries(dict.fromkeys("cos", st.lists(_absolute, min_size=3, max_size=3)))
_triple = st.lists(st.floats(0.0, 10.0), min_size=3, max_size=3)
_resolution = st.one_of(
    st.fixed_dictionaries({"noise": st.one_of(_levels, _ions)}), st.just({"detector": DETECTOR})
)
_source = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"spread": st.one_of(_triple, st.just([1.0, "unknown", 2.0]))}),
    st.fixed_dictionaries({"temperature": st.floats(0.0, 3000.0)}, optional={"drift": _triple}),
)
_rest = st.fixed_dictionaries(
    {},
    optional={
        "efficiency": st.one_of(st.floats(0.01, 1.0), st.just({"c": 0.5, "o": 0.4, "s": 1})),
        "accidents": st.floats(0.0, 0.9),
        "momentum_scale": st.floats(0.5, 2.0),
    },
)


@settings(max_examples=60, deadline=None)
@given(_resolution, _source, _rest)
def test_what_is_written_is_read(resolution: dict, source: dict, rest: dict) -> None:
    """TOML and tables give back the same experiment, and the same arrays for a molecule."""
    experiment = Experiment(**resolution, **source, **rest)
    for again in (
        Experiment.from_dict(tomllib.loads(experiment.to_toml())),
        Experiment.from_dict(experiment.to_dict()),
        Experiment(**experiment.to_dict()),
    ):
        assert again == experiment
        for name in ("noise", "spread", "drift"):
            np.testing.assert_array_equal(getattr(again.of(OCS), name), getattr(experiment.of(OCS), name))


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({}, "noise, or its detector"),
        ({"noise": "1%", "detector": DETECTOR}, "leave one out"),
        ({"noise": "1%", "spread": 1, "temperature": 5}, "leave one out"),
        ({"noise": ["1%", "2%"]}, "each of x, y and z"),
        ({"noise": ["1%", "1%", "0%"]}, "without resolution"),
        ({"noise": [1.0, 1.0, float("inf")]}, "must be a number"),
        ({"noise": [1.0, "1%", 1.0]}, "alike"),
        ({"noise": "1%..2%"}, "range"),
        ({"noise": "200%"}, "100 %"),
        ({"noise": -1.0}, "not understood"),
        ({"noise": {}}, "must be a number"),
        ({"noise": True}, "must be a number"),
        ({"detector": DETECTOR | {"field": "20"}}, r"detector\.field.*V/cm"),
        ({"detector": DETECTOR | {"axis": "t"}}, "x, y or z"),
        ({"detector": {"field": "20 V/cm"}}, "sigma_t"),
        ({"noise": "1%", "drift": 3}, "each of x, y and z"),
        ({"noise": "1%", "spread": [1, 2, -3]}, "0 or more"),
        ({"noise": "1%", "temperature": -5}, "from 0 to 3000"),
        ({"noise": "1%", "efficiency": 0}, "from 0 to 1, not 0"),
        ({"noise": "1%", "accidents": 1}, "from 0 to 1, not 1"),
        ({"noise": "1%", "momentum_scale": 10}, "from 0.5 to 2"),
        ({"noise": "1%", "build_up": "10"}, "write 10fs"),
        ({"noise": "1%", "build_up": True}, "numbers in fs"),
        ({"noise": "1%", "build_up": {"low": 2.0}}, r"high = \"8fs\" }"),
        ({"noise": "1%", "build_up": {"low": "8fs", "high": "2fs"}}, "no range"),
        ({"noise": "1%", "build_up": {"mean": "5fs", "deviation": 0.0}}, "above 0"),
        ({"noise": "1%", "build_up": {"mean": "5fs,6fs", "deviation": 1.0}}, "only one for all ions"),
        ({"noise": "1%", "temprature": 5}, "unknown key 'temprature'"),
    ],
)
def test_what_is_no_experiment(table: dict, word: str) -> None:
    """One line, that says what to do."""
    with pytest.raises(DataError, match=word) as caught:
        Experiment.from_dict(table, "e.toml")
    assert str(caught.value).startswith("e.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"noise": {"c": "1%", "o": "1%"}}, "ocs has c, o, s"),
        ({"noise": "1%", "efficiency": {"c": 0.5, "h": 0.5}}, "ocs has c, o, s"),
        ({"noise": "1%", "build_up": "5fs,10fs"}, "2 build-up times for 3 ions"),
        ({"noise": "1%", "spread": 100}, "no source is as hot"),
    ],
)
def test_what_is_no_experiment_of_a_molecule(table: dict, word: str) -> None:
    """Other ions, and a spread that no temperature gives."""
    with pytest.raises(UsageError, match=word):
        flowcei.simulate("ocs", 5, experiment=Experiment(**table), seed=1)


def test_a_detector_by_its_flight() -> None:
    """Resolution of time and place, turned into momenta by the equations of motion, in SI."""
    noise = Experiment(detector=DETECTOR | {"axis": "y"}).of(OCS).noise
    unit = constants.hbar / constants.physical_constants["Bohr radius"][0]
    for k in range(3):
        mass, force = OCS.masses[k] * constants.m_e, 2 * constants.e * 2000.0

        def flight(p: float, mass: float = mass, force: float = force) -> float:
            return brentq(lambda t: p / mass * t + force * t**2 / (2 * mass) - 0.1, 1e-9, 1e-3, xtol=1e-20)

        step = 1e-23
        along = 0.5e-9 * 2 * step / (flight(-step) - flight(step))
        across = 1e-4 * mass / flight(0.0)
        np.testing.assert_allclose(noise[k] * unit, [across, along, across], rtol=1e-4)


def test_events_have_the_covariance_of_their_experiment() -> None:
    """Noise of each ion and axis, the motion of the source, drift and scale: 5 standard errors."""
    n, spread = 20_000, np.array([3.0, 0.0, 9.0])
    levels = {"c": [4.0, 1.0, 0.5], "o": [2.0, 3.0, 1.0], "s": [0.5, 0.5, 6.0]}
    experiment = Experiment(noise=levels, drift=[28, 0, -9], spread=spread.tolist(), momentum_scale=1.05)
    events = flowcei.simulate("ocs", n, experiment=experiment, seed=1)
    exact = flowcei.asymptotic_momenta(events.positions, OCS.masses, OCS.charges, accuracy=1e-5)
    left = events.momenta - 1.05 * exact
    np.testing.assert_allclose(
        left.mean(axis=0), 1.05 * SHARES[:, None] * [28, 0, -9], atol=5 * 7 / np.sqrt(n)
    )
    for axis in range(3):
        noise = np.array([levels[ion][axis] for ion in "cos"])
        wanted = np.diag(noise**2) + (1.05 * spread[axis]) ** 2 * np.outer(SHARES, SHARES)
        error = np.sqrt((np.outer(*[np.diag(wanted)] * 2) + wanted**2) / n)
        assert (np.abs(np.cov(left[:, :, axis].T) - wanted) < 5 * error).all()
    assert events.sigma is not None
    np.testing.assert_allclose(events.sigma, np.sqrt(np.mean(np.square(list(levels.values())))))


def test_relative_noise_of_an_axis() -> None:
    """4 % of the rms component of the geometry along x, 0.5 % along y and z; stated is the rms of these."""
    events = flowcei.simulate("ocs", 20_000, experiment=Experiment(noise=["4%", "0.5%", "0.5%"]), seed=1)
    exact = flowcei.asymptotic_momenta(events.positions, OCS.masses, OCS.charges, accuracy=1e-5)
    rms = np.sqrt((exact**2).mean(axis=(1, 2)))[:, None, None]
    found = ((events.momenta - exact) / rms).std(axis=(0, 1))
    np.testing.assert_allclose(found, [0.04, 0.005, 0.005], rtol=5 / np.sqrt(2 * 60_000))
    measured = np.sqrt((events.momenta**2).mean(axis=(1, 2)))
    np.testing.assert_allclose(events.sigma, np.sqrt(np.mean([16, 0.25, 0.25])) / 100 * measured)


def test_accidents_mix_ions_of_other_events() -> None:
    """So many, each of three ions of three other molecules; the first of a longer run are the same."""
    experiment = Experiment(noise=1e-5, accidents=0.3)
    events = flowcei.simulate("ocs", 3000, experiment=experiment, seed=1)
    accident = events.columns["accident"] == 1
    assert stats.binomtest(int(accident.sum()), 3000, 0.3).pvalue > 1e-3
    still = np.abs(events.momenta.sum(axis=1)).max(axis=1) < 1e-2
    np.testing.assert_array_equal(still, ~accident)
    all_of_them = flowcei.simulate("ocs", 3100, noise="0%", seed=1).momenta
    rows = np.flatnonzero(accident)[:50]
    near = [np.abs(all_of_them[:, k] - events.momenta[rows, None, k]).max(axis=2) < 1e-3 for k in range(3)]
    sources = np.array([each.argmax(axis=1) for each in near]).T
    assert all(each.any(axis=1).all() for each in near)
    assert all(len({*map(int, row), int(own)}) == 4 for row, own in zip(sources, rows, strict=True))
    few = flowcei.simulate("ocs", 20, experiment=experiment, seed=1)
    np.testing.assert_array_equal(few.momenta, events.momenta[:20])


def test_ions_are_lost_by_their_efficiency() -> None:
    """Each by itself, but for events that lack too many; nothing else changes, and truth stays."""
    table = {"noise": "1%", "efficiency": {"c": 0.5, "h1": 0.9, "h2": 0.8, "o": 0.7}}
    events = flowcei.simulate("ch2o", 4000, experiment=Experiment(**table), missing=2, seed=1)
    whole = flowcei.simulate("ch2o", 4000, experiment=Experiment(noise="1%"), seed=1)
    lost = lost_ions(events.columns, 4)
    assert lost is not None
    np.testing.assert_array_equal(lost_column(lost), events.columns["lost_ion"])
    np.testing.assert_array_equal(events.momenta[~lost], whole.momenta[~lost])
    np.testing.assert_array_equal(events.positions, whole.positions)
    drawn = np.random.default_rng(0).random((400_000, 4)) >= list(table["efficiency"].values())
    drawn = drawn[drawn.sum(axis=1) <= 2]
    patterns = [np.bincount(some @ [1, 2, 4, 8], minlength=16) for some in (drawn, lost)]
    there = patterns[0] > 0
    assert not patterns[1][~there].any()
    assert stats.chisquare(patterns[1][there], 4000 * patterns[0][there] / len(drawn)).pvalue > 1e-3
    np.testing.assert_allclose(events.momenta[lost.any(axis=1)].sum(axis=1), 0.0, atol=1e-9)


def test_rows_that_a_long_table_lacks_are_missing_ions(tmp_path: Path) -> None:
    """One row an ion: with `missing` an event may lack some; a foreign or repeated row still spoils it."""
    events = flowcei.simulate("ocs", 6, noise="1%", seed=2)
    names = ["event", "ion", "px", "py", "pz"]
    rows = [(k, "COS"[i], *events.momenta[k, i]) for k in range(6) for i in range(3)]
    table = pd.DataFrame(rows, columns=names).drop(index=[4, 9, 10, 15])  # o of 1; c and o of 3; c of 5
    table.loc[16, "ion"] = "S"  # two of them in 5
    table.to_csv(tmp_path / "a.csv", index=False)
    for missing, lost in ((0, [0, 0, 0]), (1, [0, 2, 0, 0]), (2, [0, 2, 0, 0])):
        reading = Reading(selection=Selection(missing=missing), unit="a.u.")
        with pytest.warns(UserWarning, match="incomplete" if missing < 2 else "lacking an ion"):
            read = flowcei.read_events(tmp_path / "a.csv", "ocs", reading)
        assert read.columns.get("lost_ion", np.zeros(len(read))).tolist() == lost
        sound = read.columns.get("lost_ion", np.zeros(len(read))) == 0
        np.testing.assert_allclose(read.momenta[sound], events.momenta[read.event_id[sound]])


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_the_command(shell: Shell) -> None:
    """CSV and HDF5 hold the same; the origin says what was done; what is wrong leaves no file."""
    experiment = Experiment(noise=["4%", "0.5%", "0.5%"], temperature=300, accidents=0.2, efficiency=0.5)
    Path("e.toml").write_text(experiment.to_toml())
    for name in ("a.h5", "a.csv"):
        assert shell("simulate", "ocs", "-n", "50", "--experiment", "e.toml", "--seed", "3", "-o", name) == 0
    assert "events that lack more than 1 are not kept" in shell.err
    lacking = Reading(selection=Selection(missing=1))
    one, other = (flowcei.read_events(name, "ocs", lacking) for name in ("a.h5", "a.csv"))
    made = flowcei.simulate("ocs", 50, experiment=experiment, seed=3)
    for file in (one, other):
        np.testing.assert_array_equal(file.columns["lost_ion"], made.columns["lost_ion"])
        np.testing.assert_allclose(file.momenta, made.momenta, atol=1e-9)
    np.testing.assert_array_equal(one.momenta, other.momenta)
    np.testing.assert_array_equal(one.columns["accident"], other.columns["accident"])
    assert Experiment.from_dict(one.origin["experiment"]) == experiment
    assert shell("info", "a.h5") == 0
    assert "temperature" in shell.out
    assert shell("simulate", "ocs", "--experiment", "e.toml", "--noise", "1%", "-o", "b.h5") == 2
    Path("e.toml").write_text('noise = "1%"\ntemperature = 300\nspread = 4\n')
    assert shell("simulate", "ocs", "--experiment", "e.toml", "-o", "b.h5") == 3
    assert "e.toml: spread and temperature" in shell.err
    Path("e.toml").write_text('noise = "1%"\nspread = 400\n')
    assert shell("simulate", "ocs", "--experiment", "e.toml", "-o", "b.h5") == 2
    assert not Path("b.h5").exists()


def test_charges_of_simulated_events_build_up(shell: Shell) -> None:
    """By command, Python and experiment alike, and said in the origin; what makes no sense is refused."""
    for name in ("a.h5", "a.csv"):
        run = "simulate", "ocs", "-n", "40", "--build-up", "10fs", "--seed", "3", "-o", name
        assert shell(*run) == 0
        assert "build-up 10fs" in shell.err
    file = flowcei.read_events("a.h5")
    python = flowcei.simulate("ocs", 40, build_up=10.0, seed=3)
    stated = flowcei.simulate("ocs", 40, experiment=Experiment(noise=1e-6, build_up="10fs"), seed=3)
    assert file.origin["build_up"] == python.origin["build_up"] == "10fs"
    assert stated.origin["experiment"]["build_up"] == "10fs"
    np.testing.assert_array_equal(file.momenta, python.momenta)
    np.testing.assert_array_equal(flowcei.read_events("a.csv").momenta, python.momenta)
    np.testing.assert_allclose(stated.momenta, python.momenta, atol=1e-4)
    truth = flowcei.asymptotic_momenta(file.positions, OCS.masses, OCS.charges, build_up=10.0, accuracy=1e-9)
    np.testing.assert_allclose(file.momenta, truth, atol=3e-5 * np.abs(truth).max())
    for wrong, word in (
        ("-1fs", "0 to 1e+06 fs"),
        ("nanfs", "nan fs"),
        ("10ps", "write 10fs"),
        ("5fs,5fs", "3 ions"),
    ):
        assert shell("simulate", "ocs", f"--build-up={wrong}", "-o", "b.h5") == 2
        assert word in shell.err
    assert shell("simulate", "--like", "random_cos3d_10000", "--build-up", "5fs", "-o", "b.h5") == 2
    Path("e.toml").write_text('noise = "1%"\nbuild_up = "5fs"\n')
    both = "simulate", "ocs", "--experiment", "e.toml", "--build-up", "5fs", "-o", "b.h5"
    assert shell(*both) == 2
    assert "states the build-up" in shell.err
    assert not Path("b.h5").exists()
    with pytest.raises(UsageError, match="states its build-up"):
        flowcei.simulate("ocs", 5, experiment=Experiment(noise="1%", build_up=5), build_up=5.0)
