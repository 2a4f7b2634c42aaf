"""The evidence test: runs that are not what was stated are found, sound ones are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, norm
from shell import Shell

import flowcei
from flowcei.check.evidence import LEVEL, check_evidence
from flowcei.errors import UsageError
from flowcei.experiment.detector import Noise, rms_component
from flowcei.posterior.files import arrays_of
from flowcei.posterior.quality import Quality
from flowcei.posterior.weights import scaled_evidence
from flowcei.reconstruction.sampling import SamplingRequest

OCS = flowcei.Molecule.load("ocs")
EVENTS, SAMPLES = 100, 60


def _told(momenta: np.ndarray) -> flowcei.Events:
    """Return events of OCS with charges 2, 2, 2 that state 1 % noise, whatever they are."""
    return flowcei.Events(OCS, momenta, sigma=Noise.parse("1%").sigma(momenta))


def _noisy(momenta: np.ndarray) -> flowcei.Events:
    scale = 0.01 * rms_component(momenta)[:, None, None]
    return _told(momenta + scale * np.random.default_rng(3).standard_normal(momenta.shape))


def _wrong(what: str) -> flowcei.Events:
    """Return a run that is not what it says."""
    clean = flowcei.simulate("ocs", EVENTS, seed=5)
    assert clean.positions is not None
    if what == "noise":
        return _told(flowcei.simulate("ocs", 300, noise="2%", seed=4).momenta)
    if what == "charges":
        charged = replace(OCS, charges=np.array([2.0, 2.0, 3.0]))
        return _told(flowcei.simulate(charged, EVENTS, noise="1%", seed=5).momenta)
    if what == "scale":
        return _noisy(1.05 * clean.momenta)
    if what == "build-up":
        return _noisy(flowcei.asymptotic_momenta(clean.positions, OCS.masses, OCS.charges, build_up=5.0))
    x = clean.positions.copy()
    bond = x[:, 2] - x[:, 0]
    x[:, 2] += 2.0 * bond / np.linalg.norm(bond, axis=1, keepdims=True)
    return _noisy(flowcei.asymptotic_momenta(x, OCS.masses, OCS.charges))


@pytest.mark.parametrize("what", ["noise", "charges", "scale", "build-up", "long bond"])
def test_a_run_that_is_not_what_was_stated_is_found(what: str) -> None:
    """Though every event is explained perfectly: efficiency and re-simulation see little of it."""
    model = flowcei.load()
    found = model.check_evidence(model.sample(_wrong(what), SAMPLES, seed=1, weigh=True))
    assert found.p_value < 1e-5
    assert not found.sound
    assert "less probable" in found.summary
    for cause in ("noise", "charges", "prior", "build up"):
        assert cause in found.summary
    if what in {"charges", "long bond"}:
        assert found.improbable.mean() > 0.2, np.quantile(found.p_values, [0.1, 0.5, 0.9])


def test_sound_runs_are_sound() -> None:
    """p-values of runs are uniform, those of events too; none of 1,200 events is flagged."""
    model = flowcei.load()
    whole = model.sample(flowcei.simulate("ocs", 1200, noise="1%", seed=11), SAMPLES, seed=2, weigh=True)
    runs = [model.check_evidence(whole[k : k + 80], seed=k) for k in range(0, 1200, 80)]
    assert min(run.p_value for run in runs) > LEVEL
    assert kstest([run.p_value for run in runs], "uniform").pvalue > 0.01
    assert not any(run.improbable.any() for run in runs)
    assert kstest(np.concatenate([run.p_values for run in runs]), "uniform").pvalue > 1e-3
    assert "is that of events of the prior" in runs[0].summary


def test_the_statistic_is_the_density_of_the_prior() -> None:
    """Of positions N(0, s) and momenta that are c times them, it is a normal density in closed form."""
    rng = np.random.default_rng(4)
    p = rng.standard_normal((200, 2, 3))
    p -= p.mean(axis=1, keepdims=True)
    relative = p[:, 0] - p[:, 1]
    log_density = norm.logpdf(relative).sum(axis=1)
    found = scaled_evidence(log_density, p, np.ones(2))
    size = np.sqrt((p**2).mean(axis=(1, 2)))
    np.testing.assert_allclose(found, -0.5 * (relative**2).sum(1) + 3 * np.log(size / np.sqrt(2 * np.pi)))


@pytest.mark.parametrize("freedom", [2, 6, 12])
def test_the_tail_of_an_event_is_not_too_light(freedom: int) -> None:
    """Log densities of normal laws: of 20,000 events beside 500 none is flagged, one far outside is."""
    rng = np.random.default_rng(freedom)
    for _ in range(20):
        found = check_evidence(
            -0.5 * rng.chisquare(freedom, 1000), np.sort(-0.5 * rng.chisquare(freedom, 500))
        )
        assert not found.improbable.any()
        assert found.p_values.min() > 1e-5
    far = check_evidence(np.array([-200.0, -np.inf, 0.0]), -0.5 * rng.chisquare(freedom, 500))
    assert far.improbable.tolist() == [True, True, False]


def test_what_no_reference_has_weights_for_is_no_error() -> None:
    """Where reference events have no weight either, an event without any is nothing unusual."""
    t = np.full(50, -np.inf)
    t[:40] = np.arange(40.0)
    found = check_evidence(np.array([-np.inf, 3.0]), t)
    assert found.p_values[0] == pytest.approx(11 / 51)
    assert np.isfinite(found.p_values).all()


def test_samples_without_weights_have_none() -> None:
    """In one line."""
    model = flowcei.load()
    with pytest.raises(UsageError, match="no weights"):
        model.check_evidence(model.sample(flowcei.simulate("ocs", 5, noise="1%", seed=1), 10, seed=1))


def test_noise_of_events_may_differ() -> None:
    """Reference events have the levels of the run: from 0.3 to 3 % a sound run stays sound."""
    model = flowcei.load()
    drawn = model.sample(flowcei.simulate("ocs", 200, noise="0.3%..3%", seed=7), SAMPLES, seed=2, weigh=True)
    assert model.check_evidence(drawn).p_value > 0.01


def test_flags_and_p_values_reach_every_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A run with a long bond: a warning, a column, a flag; without weights no word, and no column."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    flowcei.write_events(_wrong("long bond"), "e.h5")
    words = ("sample", "--momenta", "e.h5", "-n", "30", "--seed", "1")
    assert flow(*words, "--weigh", "-o", "a.h5") == 0
    assert "warning (evidence): the momenta are less probable" in flow.err
    drawn = flowcei.read_samples("a.h5")
    p = drawn.columns["evidence_p"]
    assert p.shape == (EVENTS,)
    flagged = np.array(["evidence" in names for names in drawn.flag_names])
    assert flagged.sum() > 10
    np.testing.assert_array_equal(flagged, p < 1e-6)
    request = SamplingRequest(30, 1, weigh=True)
    expected = flowcei.load().judge(Quality.of(arrays_of(drawn), OCS), request)[0].evidence_p
    np.testing.assert_array_equal(p, expected)
    assert flow("spread", "a.h5") in {0, 3}
    assert "evidence" in flow.err
    assert flow(*words, "--weigh", "-o", "a.csv") == 0
    table = pd.read_csv("a.csv").groupby("event").first()
    np.testing.assert_allclose(table["evidence_p"], p)
    assert flow(*words, "-o", "b.h5") in {0, 3}
    assert "(evidence)" not in flow.err
    assert "evidence_p" not in flowcei.read_samples("b.h5").columns
