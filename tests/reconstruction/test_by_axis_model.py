"""A model of the noise of each axis and of build-up times: beside one of one level, by the posterior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quick import QUICK
from shell import Shell

import flowcei
from flowcei import Experiment, Schedule
from flowcei.errors import UsageError
from flowcei.experiment.detector import Noise
from flowcei.posterior.flags import FLAG_BITS
from flowcei.reconstruction.training_data import recorded

RANGE = "0.3%..5%/axis"
ROUGH = Experiment(noise=["4%", "0.5%", "0.5%"])
SMALL = {"couplings": 2, "hidden": 16}
OLD = Path(__file__).parents[1] / "data" / "models-v1" / "cinn-glow.safetensors"  # of one level of noise


@pytest.fixture(scope="module")
def model() -> flowcei.Reconstructor:
    """Three epochs of eight steps."""
    schedule = Schedule(epochs=3, batch=128)
    small = {"options": SMALL, "schedule": schedule, "events_per_epoch": 1000, "rules": QUICK}
    return flowcei.train("cinn", molecule="ocs", noise=RANGE, build_up="0..12fs", seed=1, **small)


def test_one_model_serves_detectors_whose_axes_differ(model: flowcei.Reconstructor, tmp_path: Path) -> None:
    """Efficiency at 4/0.5/0.5 % (of the bundled model 0.02) and 1 % (0.97); stored, it answers alike."""
    for experiment, least in ((ROUGH, 0.6), (Experiment(noise="1%"), 0.85)):
        events = flowcei.simulate("ocs", 30, experiment=experiment, seed=3)
        samples = model.sample(events, 200, seed=1, weigh=True, experiment=experiment)
        assert samples.weights is not None
        assert np.median(samples.weights.efficiency) > least
    assert (str(model.noise), model.frame.by_axis) == (RANGE, True)
    model.save(tmp_path / "m.safetensors")
    stored = flowcei.load(tmp_path / "m.safetensors")
    assert (str(stored.noise), stored.frame) == (RANGE, model.frame)
    again = stored.sample(events, 200, seed=1, weigh=True, experiment=experiment)
    np.testing.assert_allclose(again.positions, samples.positions, atol=1e-5)


@pytest.mark.parametrize("ion", ["c", "o", "s"])
def test_a_badly_resolved_ion_is_measured_by_the_others(model: flowcei.Reconstructor, ion: str) -> None:
    """Where the source is known; efficiency 0.01 if the model is told the rms noise of ions."""
    experiment = Experiment(noise={"c": 1.0, "o": 1.0, "s": 1.0} | {ion: 10.0}, spread=0.3)
    events = flowcei.simulate("ocs", 30, experiment=experiment, seed=3)
    samples = model.sample(events, 200, seed=1, weigh=True, experiment=experiment)
    assert samples.weights is not None
    assert np.median(samples.weights.efficiency) > 0.2


def test_evidences_are_those_of_a_model_of_one_level(model: flowcei.Reconstructor) -> None:
    """Two proposals, one posterior: with weights, evidences and means agree to their errors."""
    experiment = Experiment(noise=["1%", "1%", "0.6%"])
    events = flowcei.simulate("ocs", 12, experiment=experiment, seed=4)
    both = [
        m.sample(events, 2000, seed=1, weigh=True, experiment=experiment) for m in (model, flowcei.load())
    ]
    one, other = (samples.weights for samples in both)
    assert one is not None
    assert other is not None
    error = np.hypot(one.log_evidence_error, other.log_evidence_error)
    assert np.abs((one.log_evidence - other.log_evidence) / error).max() < 4.5
    means = [samples.mean(keep_flagged=True) for samples in both]
    assert np.abs(means[0] - means[1]).max() < 0.03


def test_plain_samples_are_of_an_experiment_that_the_model_knows(model: flowcei.Reconstructor) -> None:
    """They spread as weighed ones; a source, ions apart, an old model need weights; loud axes have a flag."""
    events = flowcei.simulate("ocs", 40, experiment=ROUGH, seed=5)
    plain = model.sample(events, 400, seed=1, experiment=ROUGH)
    weighed = model.sample(events, 400, seed=1, experiment=ROUGH, weigh=True)
    widths = [np.median(s.positions.std(axis=1)) for s in (plain, weighed)]
    assert abs(widths[0] / widths[1] - 1.0) < 0.05
    assert not plain.flagged.any()
    assert (plain.columns.keys(), plain.origin["experiment"]) == (events.columns.keys(), ROUGH.to_dict())
    source = Experiment(noise="1%", temperature=300)
    by_ion = Experiment(noise={"c": "1%", "o": "2%", "s": "1%"})
    mixed = Experiment(noise="1%", accidents=0.1)
    for asked, experiment in ((model, source), (model, by_ion), (model, mixed), (flowcei.load(OLD), ROUGH)):
        with pytest.raises(UsageError, match="exact or weighed"):
            asked.sample(events, 5, experiment=experiment)
    loud = Experiment(noise=["7%", "1%", "1%"])
    for how, flagged in (({}, True), ({"weigh": True}, False)):
        samples = model.sample(events, 20, seed=1, experiment=loud, **how)
        assert bool((samples.flag_bits & FLAG_BITS["noise"]).all()) is flagged


@pytest.mark.parametrize("time", ["3fs", "10fs", "20fs"])
def test_a_model_that_is_told_the_build_up_answers_for_it(model: flowcei.Reconstructor, time: str) -> None:
    """Without weights bonds lie about the truth and spread as weighed ones; beyond the range by weights."""
    experiment = Experiment(noise="1%", build_up=time)
    events = flowcei.simulate("ocs", 60, experiment=experiment, seed=5)
    weighed = model.sample(events, 100, seed=1, experiment=experiment, weigh=True)
    assert weighed.weights is not None
    assert np.median(weighed.weights.efficiency) > 0.8
    assert not weighed.flagged.any()
    if time == "20fs":
        with pytest.raises(UsageError, match="build-up to 12 fs, no more"):
            model.sample(events, 5, experiment=experiment)
        return
    plain = model.sample(events, 100, seed=1, experiment=experiment)
    bonds = [
        np.linalg.norm(x[..., 1, :] - x[..., 0, :], axis=-1) for x in (plain.positions, weighed.positions)
    ]
    true = np.linalg.norm(events.positions[:, 1] - events.positions[:, 0], axis=1)
    off = bonds[0].mean(axis=1) - true
    assert abs(off.mean()) < 4.0 * off.std() / np.sqrt(len(off))  # of charges at once it is 0.1 and 0.6 bohr
    assert abs(np.median(bonds[0].std(axis=1)) / np.median(bonds[1].std(axis=1)) - 1.0) < 0.07
    assert not plain.flagged.any()


def test_what_a_range_of_build_up_times_is_for(model: flowcei.Reconstructor, tmp_path: Path) -> None:
    """A range from 0, of simulated events; a model without it refuses; the file of a model holds it."""
    for text in ("15fs", "2..15fs", "0..inf fs", "0..-1fs", "5..2fs"):
        with pytest.raises(UsageError, match="build-up"):
            flowcei.train("mlp", build_up=text, seed=1)
    with pytest.raises(UsageError, match="events of data have theirs"):
        flowcei.train("mlp", data=flowcei.simulate("ocs", 300, seed=1), build_up="0..15fs", seed=1)
    grown = Experiment(noise="1%", build_up="5fs")
    events = flowcei.simulate("ocs", 5, experiment=grown, seed=1)
    with pytest.raises(UsageError, match="one level of noise, no more"):
        flowcei.load(OLD).sample(events, 5, experiment=grown)
    model.save(tmp_path / "m.safetensors")
    assert flowcei.load(tmp_path / "m.safetensors").frame.build_up == 12.0
    assert repr(model).endswith("build-up 0..12fs")


def test_poor_weights_are_flagged(model: flowcei.Reconstructor) -> None:
    """Thin, bent posteriors: events whose few weights count have the flag, and no others."""
    experiment = Experiment(noise=["5%", "5%", "0.1%"])
    events = flowcei.simulate("ocs", 60, experiment=experiment, seed=6)
    samples = model.sample(events, 60, seed=1, weigh=True, experiment=experiment)
    assert samples.weights is not None
    poor = (samples.flag_bits & FLAG_BITS["experiment"]) > 0
    np.testing.assert_array_equal(poor, ~samples.weights.reliable)
    assert 0 < poor.sum() < 60


def test_what_a_range_by_axis_is_for() -> None:
    """Written and read; of training alone: not of events, samples, one level or the raw frame."""
    assert str(Noise.parse(" 0.3% .. 5% / axis")) == RANGE
    for text in ("1%/axis", "0.3%..5%/axes", "/axis"):
        with pytest.raises(UsageError, match="noise"):
            Noise.parse(text)
    with pytest.raises(UsageError, match="an experiment states"):
        flowcei.simulate("ocs", 5, noise=RANGE)
    data = flowcei.simulate("ocs", 300, seed=1)
    with pytest.raises(UsageError, match="range"):
        flowcei.load().sample(data, 5, noise=RANGE)
    with pytest.raises(UsageError, match="recoil frame"):
        flowcei.train("mlp", data=data, noise=RANGE, frame="raw", seed=1)


def test_events_of_a_file_get_noise_of_each_axis() -> None:
    """Over what is stated it has unit size, on each axis its own, also beside noise that was there."""
    for own in ("0%", "1%"):
        data = flowcei.simulate("ocs", 4000, noise=own, seed=2)
        bare = flowcei.Events("ocs", data.momenta, data.positions)
        exact = flowcei.simulate("ocs", 4000, seed=2).momenta
        source, level, _ = recorded(bare, RANGE, 1)
        assert level.by_axis
        events = source.epoch(0)
        told = np.column_stack([events.columns[f"sigma_{axis}"] for axis in "xyz"])
        rows = np.array(
            [int(np.abs(data.positions - x).sum(axis=(1, 2)).argmin()) for x in events.positions[:500]]
        )
        unit = (events.momenta[:500] - exact[rows]) / told[:500, None]
        np.testing.assert_allclose(unit.std(axis=(0, 1)), 1.0, atol=4 / np.sqrt(2 * 1500) + 0.01)
        assert np.abs(np.corrcoef(np.log(told).T)[np.triu_indices(3, 1)]).max() < 0.1


def test_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Train by axis, see it in the card, sample an experiment without weights."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    words = [
        "--epochs",
        "1",
        "--events",
        "400",
        "--couplings",
        "2",
        "--hidden",
        "8",
        "--seed",
        "1",
        "-o",
        "m",
    ]
    assert shell("train", "--noise", RANGE, "--build-up", "2..9fs", *words) == 2
    assert shell("train", "--noise", RANGE, "--build-up", "0..9fs", *words) == 0, shell.err
    assert "whitened charts" in shell.err
    assert shell("info", "m") == 0
    assert RANGE in shell.out
    assert "0..9fs" in shell.out
    assert shell("models") == 0
    Path("e.toml").write_text(ROUGH.to_toml())
    assert shell("simulate", "ocs", "-n", "5", "--experiment", "e.toml", "--seed", "1", "-o", "a.h5") == 0
    assert shell("sample", "--momenta", "a.h5", "--model", "m", "--experiment", "e.toml", "-n", "20") == 0, (
        shell.err
    )
    assert flowcei.read_samples("a.samples.h5").weights is None
    assert (
        shell("sample", "--momenta", "a.h5", "--model", "m", "--noise", RANGE, "-n", "20", "-o", "b.h5") == 2
    )
