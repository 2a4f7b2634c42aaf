"""Is a run what a prior predicts: sound runs pass, and every fault is named."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import kstest
from shell import Shell

import flowcei
from flowcei import check_run
from flowcei.check.comparison import Observables
from flowcei.check.run import RunCheck
from flowcei.events.container import Events
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior

_U = 1822.888486
_SI = 1.99285191410e-24


@cache
def _run(name: str = "ocs", seed: int = 5, n: int = 1000, prior: str | None = None) -> Events:
    return replace(flowcei.simulate(name, n, noise="1%", seed=seed, prior=prior), positions=None, origin={})


@cache
def _free(n: int = 1000) -> Events:
    return flowcei.simulate("ocs", n, seed=11)


def _noisy(momenta: np.ndarray, axes: float | list[float]) -> np.ndarray:
    rms = np.sqrt((momenta**2).mean(axis=(1, 2)))[:, None, None]
    return momenta + rms * np.asarray(axes) * np.random.default_rng(2).standard_normal(momenta.shape)


def _check(momenta: np.ndarray, molecule: Molecule | None = None) -> RunCheck:
    return check_run(Events(molecule or _run().molecule, momenta), noise="1%")


def _kinds(check: RunCheck) -> list[str]:
    return [cause.kind for cause in check.causes]


@pytest.mark.parametrize("n", [50, 200, 1000])
@pytest.mark.parametrize("name", ["ocs", "h2o", "chbrclf"])
def test_sound_runs_raise_nothing(name: str, n: int) -> None:
    """Of several seeds, with the noise stated, and with the noise measured from the sums."""
    for seed in range(3):
        run = _run(name, 100 + seed, n)
        for events in (run, replace(run, sigma=None)):
            check = check_run(events)
            assert check.sound, check.verdict
            assert (check.causes, check.severity) == ((), "note")


@pytest.mark.parametrize("prior", ["broad", "ball"])
def test_wide_priors_are_sound_too(prior: str) -> None:
    assert all(check_run(_run("ocs", seed, 500, prior), prior).sound for seed in range(3))


def test_p_values_of_sound_runs_are_uniform() -> None:
    """Of each comparison over 60 seeds: none is off by more than one in 20,000 is by chance."""
    tables = [
        check_run(_run("ocs", 1000 + k, 300), seed=k).table().set_index("observable") for k in range(60)
    ]
    for name in tables[0].index:
        assert kstest([float(table.loc[name, "p"]) for table in tables], "uniform").pvalue > 5e-5, name
    assert len(tables[0]) == 16


@pytest.mark.parametrize("name", ["h2o", "ch4"])
def test_labels_of_like_ions_and_orientation_of_all_change_nothing(name: str) -> None:
    """Shapes are those of the event, whatever its labels and however the laboratory is turned."""
    run, rng = _run(name, 3, 400), np.random.default_rng(4)
    group = list(run.molecule.identical[0])
    shuffled = run.momenta.copy()
    for event in shuffled:
        event[group] = event[rng.permutation(group)]
    turned = run.momenta @ Rotation.random(random_state=5).as_matrix().T
    expected = Observables.of(run.molecule, run.momenta, run.sigma).shapes
    for momenta in (shuffled, turned):
        shapes = Observables.of(run.molecule, momenta, run.sigma).shapes
        for key, values in expected.items():
            np.testing.assert_allclose(shapes[key], values, atol=1e-9)
    assert check_run(replace(run, momenta=shuffled)).p_value == pytest.approx(check_run(run).p_value)


@pytest.mark.parametrize(
    ("factor", "first"),
    [
        (np.sqrt(0.9), "scale"),
        (1.05, "scale"),
        (2.0, "scale"),
        (_SI / 1e-22, "units"),
        (_SI, "units"),
    ],
)
def test_a_factor_of_all_momenta_is_named(factor: float, first: str) -> None:
    """A tenth of the KER, calibrations, SI units; whether sigma was scaled with them or not."""
    run = _run()
    for sigma in (None, run.sigma) if factor in (2.0, _SI) else (None,):
        check = check_run(
            Events(run.molecule, factor * run.momenta, sigma=sigma), noise=None if sigma is not None else "1%"
        )
        others = [cause for cause in check.causes if cause.kind != "noise"]
        assert others[0].kind == first
        assert others[0].values["factor"] == pytest.approx(factor, rel=0.005)
        assert others[0].fits
    assert (first == "units" or factor == 2.0) == (others[0].severity == "error")


def test_low_energy_names_what_else_it_may_be() -> None:
    """Momentum scale, a prior of longer bonds, charges; build-up fits less well, and that is said."""
    check = _check(np.sqrt(0.9) * _run().momenta)
    assert _kinds(check) == ["scale", "prior", "build-up"]
    assert not check.causes[2].fits
    assert check.causes[1].values["lengths"] == pytest.approx(1 / 0.9, rel=0.01)
    ker = check.table().set_index("observable").loc["KER"]
    assert ker["measured"] == pytest.approx(97.3, abs=0.7)
    assert ker["predicted"] == pytest.approx(108.1, abs=0.5)
    assert ker["p"] < 1e-9
    assert "KER" in check.verdict
    assert "momentum scale" in check.verdict


def test_one_axis_is_named() -> None:
    check = _check(_run().momenta * [1.0, 1.0, 1.05])
    assert _kinds(check) == ["axis"]
    assert check.causes[0].values["axis"] == "z"
    assert check.causes[0].values["factor"] == pytest.approx(1.05, abs=0.01)


@pytest.mark.parametrize("axes", [[2.0, 2.0, 2.0], [4.0, 0.5, 0.5]])
def test_noise_is_measured_per_axis(axes: list[float]) -> None:
    check = _check(_noisy(_free().momenta, [a / 100 for a in axes]))
    assert _kinds(check) == ["noise"]
    np.testing.assert_allclose(check.causes[0].values["measured"], np.array(axes) / 100, rtol=0.1)


def test_drift_is_measured_and_is_no_fault_of_the_momenta() -> None:
    """28 hbar/bohr are 560 m/s of OCS."""
    mass = _run().molecule.masses
    check = _check(_run().momenta + (mass / mass.sum())[:, None] * [28.0, 0.0, 0.0])
    assert _kinds(check) == ["drift"]
    assert check.severity == "note"
    assert check.causes[0].values["momentum"][0] == pytest.approx(28.0, abs=0.3)
    assert "m/s" in check.causes[0].message


@pytest.mark.parametrize("names", ["o c s", "s c o", "c s o"])
def test_the_order_of_the_ions_is_found(names: str) -> None:
    """A file whose columns hold other ions than they were read as: which ones is said."""
    labels = list(_run().molecule.labels)
    columns = [labels.index(name) for name in names.split()]
    check = _check(_run().momenta[:, columns])
    assert _kinds(check)[0] == "order"
    assert check.causes[0].values["columns"] == names
    assert check.severity == "error"


@pytest.mark.parametrize("charges", [[1, 2, 2], [2, 2, 3], [1, 1, 1]])
def test_other_charges_are_named(charges: list[int]) -> None:
    """Also those with a common factor, where one factor of all momenta explains as much."""
    ocs = _run().molecule
    run = flowcei.simulate(replace(ocs, charges=np.array(charges, float)), 1000, noise="1%", seed=5)
    check = _check(run.momenta)
    named = [cause for cause in check.causes if cause.kind == "charges" and cause.fits]
    assert named[0].values["charges"] == charges
    assert _kinds(check)[0] == ("charges" if len(set(charges)) > 1 else "scale")
    assert check.severity == "error"


def test_isotopes_are_named() -> None:
    """34S read as S; 81Br and 37Cl read with average masses, which move each number by little."""
    ocs, other = _run().molecule, Molecule.load("chbrclf")
    heavy = replace(ocs, masses=ocs.masses * [1, 1, 0] + [0, 0, 33.9679 * _U])
    check = _check(flowcei.simulate(heavy, 1000, noise="1%", seed=5).momenta)
    assert check.causes[0].kind == "isotopes"
    assert check.causes[0].values["isotopes"] == "34S"
    mass = other.masses.copy()
    mass[2:4] = 80.9163 * _U, 36.9659 * _U
    run = flowcei.simulate(replace(other, masses=mass), 1000, noise="1%", seed=5)
    check = _check(run.momenta, other)
    assert check.causes[0].kind == "isotopes"
    assert "37Cl" in check.causes[0].values["isotopes"]


def test_another_molecule_is_named() -> None:
    """CO2 and N2O by their names; HCN, which is not built in, as another molecule."""
    for name in ("co2", "n2o"):
        assert _check(_run(name).momenta).causes[0].values["molecule"] == name
    hcn = Molecule.from_dict(
        {
            "name": "hcn",
            "symbols": ["C", "H", "N"],
            "charges": [2, 1, 2],
            "equilibrium": {"unit": "bohr", "positions": [[0, 0, 0], [0, 0, -2.01], [0, 0, 2.18]]},
            "priors": {"equilibrium": {"kind": "displaced", "sigma": 0.15}},
        }
    )
    check = _check(flowcei.simulate(hcn, 1000, noise="1%", seed=5).momenta)
    assert _kinds(check) == ["molecule"]
    assert not check.causes[0].fits
    assert check.severity == "error"


def test_a_run_of_a_part_of_a_wide_prior_is_not_first_called_another_molecule() -> None:
    """Its energies are far from those of most of the prior, and all are energies that the prior has."""
    rows = Molecule.load("ocs").priors["equilibrium"]["zmatrix"]
    near = {"kind": "internal", "zmatrix": [*rows[:2], rows[2] | {"length": {"normal": [2.6, 0.05]}}]}
    wide = {"kind": "internal", "zmatrix": [*rows[:2], rows[2] | {"length": {"uniform": [2.4, 9.0]}}]}
    check = check_run(flowcei.simulate("ocs", 300, prior=near, noise="1%", seed=1), wide, "1%")
    assert _kinds(check) == ["prior"]
    assert check.verdict.endswith("likely geometries of a part of the prior, or other ions")
    assert check.severity == "warning"


def test_another_prior_is_named() -> None:
    check = _check(_run(prior="broad").momenta)
    assert check.causes[0].values == {"prior": "broad"}


@pytest.mark.parametrize("tau", [2.0, 10.0])
def test_charge_build_up_is_named(tau: float) -> None:
    """Among the first two; the longer it takes the surer is the time."""
    events, ocs = _free(), _run().molecule
    p = flowcei.asymptotic_momenta(events.positions, ocs.masses, ocs.charges, build_up=tau)
    check = _check(_noisy(p, 0.01))
    assert check.causes[0].kind == "build-up"
    assert check.causes[0].values["tau_fs"] == pytest.approx(tau, rel=0.15)


def test_false_coincidences_do_not_cry_wolf() -> None:
    """One event in thirty whose ions come from three molecules."""
    run = _run(n=3000)
    mixed = run.momenta.copy()
    mixed[::30, 1], mixed[::30, 2] = run.momenta[1::30, 1], run.momenta[2::30, 2]
    check = check_run(Events(run.molecule, mixed), noise="1%")
    assert check.sound, check.verdict
    assert check.outlying == pytest.approx(1 / 30, abs=0.002)


def test_one_odd_event_is_no_other_run() -> None:
    """Of another unit, hardly moving, or along a line: it costs the others neither verdict nor cause."""
    sound = _run(n=100).momenta
    line = np.array([[1.0, 0.0, 0.0], [-150.0, 0.0, 0.0], [149.0, 0.0, 0.0]])
    for odd in (1e6 * sound[7], 1e-18 * sound[7], line, sound[7][[0, 2, 1]], 1e38 * np.sign(sound[7])):
        momenta = sound.copy()
        momenta[7] = odd
        check = _check(momenta)
        assert check.sound, check.verdict
    assert _kinds(_check(1.05 * momenta))[0] == "scale"


def test_what_cannot_be_compared_is_never_called_sound() -> None:
    """Few events; momenta that no arithmetic holds. Sums that vanish say nothing of noise."""
    few = check_run(_run(n=1000)[:49])
    assert (few.sound, few.compared, few.severity) == (False, 0, "note")
    assert "49 events are too few" in few.verdict
    tiny = Events(_run().molecule, 1e-100 * _run().momenta)
    assert not check_run(tiny).sound
    centred = _run().momenta - _run().momenta.mean(axis=1, keepdims=True)
    check = check_run(Events(_run().molecule, centred), noise="1%")
    assert check.remarks
    assert check.sound
    assert not [c for c in check.comparisons if c.observable.startswith("sum")]


def _file(folder: Path, events: Events, name: str = "run.csv") -> str:
    flowcei.write_events(events, folder / name)
    return str(folder / name)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _file(events: Events, name: str = "run.csv") -> str:
    flowcei.write_events(events, name)
    return name


def test_the_command_compares_and_says_what_it_has_not_compared(shell: Shell) -> None:
    """Exit code 0 for a sound run, 3 for another order of the ions; no claim without a prediction."""
    path = _file(_run())
    assert shell("check", path) == 0
    assert "was not compared" in shell.out.splitlines()[-1]
    assert "sound" not in shell.out
    assert shell("check", path, "--molecule", "ocs") == 0
    assert "the run agrees with the prior equilibrium" in shell.out.splitlines()[-1]
    assert shell("check", path, "--model", "bundled", "--json") == 0
    assert json.loads(shell.out)["run"]["sound"] is True
    assert (
        shell(
            "check",
            _file(Events(_run().molecule, 1.05 * _run().momenta), "scaled.csv"),
            "--molecule",
            "ocs",
            "--json",
        )
        == 0
    )
    run = json.loads(shell.out)["run"]  # programs read these keys
    assert set(run) >= {"molecule", "prior", "events", "compared", "outlying", "sound", "severity", "p_value"}
    assert set(run) >= {"verdict", "comparisons", "causes", "remarks"}
    compared = {"observable", "unit", "measured", "predicted", "p_value", "effect", "distance"}
    assert all(set(comparison) == compared for comparison in run["comparisons"])
    named = {"kind", "what", "p_value", "fits", "todo", "values", "severity"}
    assert [(cause["kind"], set(cause)) for cause in run["causes"][:1]] == [("scale", named)]
    np.savetxt("bare.txt", _run().momenta.reshape(-1, 9))
    words = ("--molecule", "ocs", "--columns", "s c o", "--unit", "hbar/bohr")
    assert shell("check", "bare.txt", *words) == 3
    assert '--columns "c o s"' in shell.out
    assert "ion order: columns read as c, o, s are o, s, c" in shell.out.splitlines()[-1]
    assert shell("check", path, "--model", "bundled", "--molecule", "ocs") == 2
    assert shell("check", path, "--prior", "broad") == 2  # of which molecule?
    assert "--molecule" in shell.err


def test_the_verdict_is_one_short_line_with_cause_and_size() -> None:
    """At most 160 characters, with the Kolmogorov-Smirnov distance of what differs most."""
    momenta = _run().momenta
    runs = (
        0.9487 * momenta,
        momenta[:, [2, 0, 1]],
        _run("n2o").momenta,
        _run("co2").momenta,
        4.0 * momenta,
        [1.0, 1.0, 1.05] * momenta,
    )
    for run in runs:
        verdict = _check(run).verdict
        assert len(verdict) <= 160
        assert "KS distance" in verdict or "p " in verdict
        assert "; likely " in verdict


def test_sums_that_vanish_say_nothing_of_the_noise_and_exclude_nothing() -> None:
    """Momenta centred after their noise, printed with six digits: rounding is no false coincidence."""
    momenta = _run().momenta
    momenta = momenta - momenta.mean(axis=1, keepdims=True)
    written = np.array([[float(f"{x:.6g}") for x in row] for row in momenta.reshape(-1, 9)])
    check = check_run(Events(Molecule.load("ocs"), written.reshape(-1, 3, 3)))
    assert check.outlying == 0.0
    assert not any(c.observable.startswith("sum") for c in check.comparisons)
    assert any("cannot be measured from them" in remark for remark in check.remarks)


def test_sample_says_whether_the_run_is_what_the_model_predicts(shell: Shell) -> None:
    """A line where it is, two or three where it is not."""
    low = replace(_run(n=300), momenta=np.sqrt(0.9) * _run(n=300).momenta)
    words = ("sample", "--model", "bundled", "-n", "2", "--seed", "1", "--noise", "1%", "--momenta")
    assert shell(*words, _file(_run(n=300))) == 0
    assert "the run agrees with the prior equilibrium" in shell.err
    assert "warning" not in shell.err
    assert shell(*words, _file(low, "low.csv")) == 0
    assert "warning (run): not as the prior equilibrium predicts: KER" in shell.err
    assert "warning (scale): likely: momentum scale" in shell.err


def test_a_prior_that_can_only_be_sampled() -> None:
    """A list of geometries has no density, and predicts all the same."""
    x = build_prior(_run().molecule).sample(3000, np.random.default_rng(1))
    prior = {"kind": "ensemble", "geometries": x.tolist()}
    assert check_run(_run(), prior).sound
    assert not check_run(replace(_run(), momenta=1.05 * _run().momenta), prior).sound


def test_a_ker_far_off_is_an_error_whatever_explains_it() -> None:
    """A hundredth of the energy, stretched along z by five: no axis is calibrated that badly."""
    events = flowcei.simulate("ocs", 60, noise="1%", seed=3)
    momenta = 0.1 * events.momenta * np.array([1.0, 1.0, 5.0])
    found = check_run(replace(events, momenta=momenta, sigma=None))
    assert found.severity == "error"
    assert not any(cause.kind == "axis" and "4." in cause.message for cause in found.causes)


def test_sums_that_were_made_to_vanish_leave_nothing_out() -> None:
    """What is left of imposed conservation is rounding, of which nothing is an outlier."""
    events = flowcei.simulate("ocs", 200, noise="1%", seed=4)
    momenta = events.momenta - events.momenta.mean(axis=1, keepdims=True)
    momenta = np.round(momenta, 6)
    assert check_run(replace(events, momenta=momenta)).outlying == 0.0
