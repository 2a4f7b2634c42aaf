"""Floor, re-simulation and calibration of an experiment, against DOP853 in plain time and closed forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
from shell import Shell

import flowcei
from flowcei import Experiment
from flowcei.errors import FlaggedWarning, UsageError
from flowcei.experiment.experiment import stated_experiment, stated_forward
from flowcei.plot.geometry import predicted
from flowcei.posterior.samples import PosteriorSamples
from flowcei.reconstruction.model import Reconstructor
from flowcei.report.sections import Material, check_section, data_section

OCS = flowcei.Molecule.load("ocs")
FEMTOSECOND = 41.341373335


def _bound(experiment: Experiment, x: np.ndarray, spread: np.ndarray, tau: float) -> np.ndarray:
    """Inverse Fisher information (9, 9) of one geometry, from finite differences of DOP853."""
    m, u = OCS.masses, OCS.masses / OCS.masses.sum()

    def exact(y: np.ndarray) -> np.ndarray:
        time = tau * FEMTOSECOND
        return oracle.momenta(y, m, OCS.charges, share=lambda t: 1.0 - np.exp(-t / time))

    step, shifts = 1e-4, np.eye(9).reshape(9, 3, 3)[3:]
    slope = np.array([exact(x + step * s) - exact(x - step * s) for s in shifts]) / (2.0 * step)
    unit = np.sqrt((exact(x) ** 2).mean()) if experiment.relative else 1.0 / experiment.momentum_scale
    levels = experiment.of(OCS).noise * unit
    information = np.zeros((6, 6))
    for axis in range(3):
        covariance = np.diag(levels[:, axis] ** 2) + spread[axis] ** 2 * np.outer(u, u)
        information += slope[:, :, axis] @ np.linalg.solve(covariance, slope[:, :, axis].T)
    shift = np.kron((np.eye(3) - u)[:, 1:], np.eye(3))
    return np.asarray(shift @ np.linalg.inv(information) @ shift.T)


@pytest.mark.parametrize(
    ("table", "spread"),
    [
        (
            {
                "noise": {"c": [2.0, 0.5, 0.3], "o": [1.0, 1.0, 0.2], "s": [3.0, 0.4, 0.4]},
                "spread": [3.0, 0.0, "unknown"],
                "momentum_scale": 1.25,
                "build_up": "6fs",
            },
            [3.0, 0.0, 1e6],
        ),
        ({"noise": ["4%", "0.5%", "0.5%"], "spread": 0.0, "build_up": "6fs"}, [0.0, 0.0, 0.0]),
    ],
)
def test_the_floor_is_that_of_covariance_and_build_up(table: dict, spread: list[float]) -> None:
    """Of `information_floor`, and of samples of the experiment; turned into another frame, the same."""
    experiment, x = Experiment(**table), flowcei.simulate("ocs", 1, seed=4).positions
    assert x is not None
    wanted = _bound(experiment, x[0], np.array(spread), 6.0)
    floor = flowcei.information_floor(OCS, x, experiment=experiment)
    np.testing.assert_allclose(floor.covariance[0], wanted, atol=1e-4 * np.abs(wanted).max())
    momenta = flowcei.asymptotic_momenta(x, *(OCS.masses, OCS.charges), build_up="6fs", accuracy=1e-9)
    origin = {"experiment": experiment.to_dict()}
    samples = PosteriorSamples(OCS, momenta, x[:, None], None, np.arange(1), np.ones(1), origin)
    squares = np.diag(wanted).reshape(3, 3).sum(axis=1)
    np.testing.assert_allclose(samples.floor()[0], np.sqrt(squares), rtol=1e-3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = floor.turned(turn[None], np.array([[2, 0, 1]]))
    np.testing.assert_allclose(turned.positions[0], floor.positions[0, [2, 0, 1]] @ turn.T)
    np.testing.assert_allclose(turned.atom_error, floor.atom_error[:, [2, 0, 1]], rtol=1e-9)


@pytest.mark.parametrize("source", [{}, {"spread": 0.0}])
def test_truths_are_simulated_again_as_the_experiment_was(source: dict) -> None:
    """What noise alone leaves, whatever drift, scale, build-up; of H2O at rest less than of centred."""
    table = {"noise": "1%", "drift": [9, 0, -4], "momentum_scale": 1.2, "build_up": "4fs", "accidents": 0.1}
    events = flowcei.simulate("h2o", 400, experiment=Experiment(**table, **source), seed=2)
    with pytest.warns(FlaggedWarning, match="are accidents"):
        found = flowcei.compare({}, events, n=2, resamples=2).table
    u = events.molecule.masses / events.molecule.masses.sum()
    noise = np.random.default_rng(0).normal(size=(20_000, 3, 3))  # over an rms of 1, so |p| is 3
    shares = np.full(3, 1.0 / 3.0) if source else u  # the sum, of which nothing is explained
    left = noise - shares[:, None] * noise.sum(axis=1, keepdims=True)
    wanted = np.median(np.linalg.norm(left, axis=(1, 2))) / 3.0
    assert found.loc["marginal", "resimulation_truth"] == pytest.approx(wanted, rel=0.06)
    assert found.loc["floor", "atom_error_median"] < found.loc["marginal", "atom_error_median"]


def test_what_simulated_events_state() -> None:
    """Experiment and build-up, but for a drift that is gone; a noise beside an experiment is refused."""
    table = {"noise": ["4.0%", "0.5%", "0.5%"], "drift": [9.0, 0.0, -4.0]}
    events = flowcei.simulate("ocs", 20, experiment=Experiment(**table), build_up="5fs", seed=1)
    assert stated_experiment(events.origin) == Experiment(**table, build_up="5fs")
    assert stated_forward(events).name == stated_forward(replace(events, origin={"build_up": "5fs"})).name
    bare = flowcei.without_drift(events, "9,0,-4")
    assert stated_experiment(bare.origin) == Experiment(noise=table["noise"], build_up="5fs")
    assert stated_experiment({}) is None
    for judge in (lambda **how: flowcei.compare({}, events, **how), flowcei.calibrate):
        with pytest.raises(UsageError, match="leave the other out"):
            judge(
                *[flowcei.load(), events][: 2 * (judge is flowcei.calibrate)],
                noise="1%",
                experiment=Experiment(**table),
            )


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_the_commands(shell: Shell, tiny_cinn: Reconstructor) -> None:
    """Exact samples pass, the model's own are not of the experiment; weights of one level are poor."""
    table = {"noise": ["2%", "2%", "1%"], "temperature": 20, "drift": [28, 0, 0], "momentum_scale": 1.05}
    Path("e.toml").write_text(Experiment(**table, accidents=0.1).to_toml())
    assert shell("simulate", "ocs", "-n", "75", "--experiment", "e.toml", "--seed", "1", "-o", "a.h5") == 0
    judge = ["calibrate", "bundled", "--data", "a.h5", "-n", "19", "-o", "c", "--overwrite", "--json"]
    assert shell(*judge, "--experiment", "e.toml", "--exact") == 0, shell.err
    assert "are accidents: left out" in shell.err
    exact = json.loads(shell.out)
    assert exact["passed"], exact["verdicts"]
    covered = {(row["quantity"], row["level"]): row["coverage"] for row in exact["coverage"]}
    for bond in ("c-o", "c-s"):
        assert covered[bond, 0.5] == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(60))
        assert covered[bond, 0.9] == pytest.approx(0.9, abs=4 * 0.3 / np.sqrt(60))
    assert shell(*judge, "--experiment", "e.toml") == 2
    assert "--exact or --weigh" in shell.err
    assert shell(*judge, "--experiment", "e.toml", "--drift", "1,2,3", "--weigh") == 2
    assert shell(*judge) == 0
    assert "--weigh or --exact judges answers that know of it" in shell.err
    words = ["compare", "bundled", "--data", "a.h5", "-n", "10", "-o", "c", "--overwrite", "--json"]
    assert shell(*words) == 0, shell.err
    found = json.loads(shell.out)["models"]
    assert found["bundled"]["resimulation_truth"]["value"] < 2.0
    assert found["floor"]["atom_error_median"]["value"] > 0.0
    Path("rough.toml").write_text('noise = ["2.4%", "2.4%", "0.1%"]\n')
    assert (
        shell("simulate", "ocs", "-n", "60", "--experiment", "rough.toml", "-o", "a.h5", "--overwrite") == 0
    )
    assert shell(*judge, "--weigh") == 0, shell.err
    tiny_cinn.save("one-level.safetensors")
    assert shell("calibrate", "one-level.safetensors", *judge[2:], "--weigh") == 3
    assert "--exact" in shell.err


def test_a_file_of_an_experiment_is_sound() -> None:
    """Scale, drift, source, accidents and build-up are no faults of the file; others than it states are."""
    table = {"noise": ["4%", "0.5%", "0.5%"], "temperature": 300, "momentum_scale": 1.05, "build_up": "10fs"}
    table |= {"drift": [28.0, 0.0, 0.0]}
    events = flowcei.simulate("ocs", 300, experiment=Experiment(**table, accidents=0.1), seed=1)
    found = flowcei.check_file(events)
    assert found.verdict == "sound: 0 errors, 0 warnings; the positions explain the momenta"
    (sums,) = [line for line in found.diagnostics if line.code == "experiment"]
    assert sums.values["ratio"] == pytest.approx(1.0, abs=0.15)
    for wrong, code in (({"build_up": "5fs"}, "scale"), ({"temperature": 30}, "experiment")):
        other = replace(events, origin=events.origin | {"experiment": table | wrong})
        lines = [line.code for line in flowcei.check_file(other).diagnostics if line.severity != "note"]
        assert code in lines


def test_pictures_and_pages_are_of_the_experiment() -> None:
    """Re-simulated momenta are those of charges that build up; a run is not compared with those at once."""
    events = flowcei.simulate("ocs", 60, experiment=Experiment(noise=0.01, build_up="10fs"), seed=3)
    origin = {"experiment": events.origin["experiment"], "prior": events.origin["prior"]}
    x, sigma = events.positions, events.sigma
    samples = PosteriorSamples(OCS, events.momenta, x[:, None], None, np.arange(60), sigma, origin)
    np.testing.assert_allclose(predicted(samples)["re-simulated"].momenta, events.momenta, atol=0.1)
    material = Material(samples, "a.h5")
    section = check_section(material)
    assert section is not None
    assert "sample --experiment" in section.words[0]
    assert data_section(material).facts["noise"] == "of the experiment, below"


def test_ranks_of_events_that_lack_an_ion() -> None:
    """Exact samples of two ions of OCS pass; what cannot be judged so is refused."""
    model, flying = flowcei.load(), Experiment(noise="1%", spread=0.0, drift=[9, 0, 0])
    events = flowcei.simulate("ocs", 100, experiment=flying, seed=3)
    result = flowcei.calibrate(model, events, n=20, exact=True, missing=1)
    assert result.passed, [v for v in result.verdicts if not v.passed]
    with pytest.raises(UsageError, match="two of an event must be there"):
        flowcei.calibrate(model, events, n=20, exact=True, missing=2)
    with pytest.raises(UsageError, match="exact samples"):
        flowcei.calibrate(model, events, n=20, weigh=True, missing=1)
