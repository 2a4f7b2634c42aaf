"""The drift of the beam: measured from the sums of momenta, subtracted, said; gates are about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import constants, stats
from shell import Shell

import flowcei
from flowcei.errors import UsageError
from flowcei.events.foreign.interpretation import Reading
from flowcei.events.source import open_events
from flowcei.experiment.drift import Drift, measure_drift, parse_drift
from flowcei.molecules.molecule import Molecule
from flowcei.reconstruction.training_data import settled_noise

OCS = Molecule.load("ocs")
SHARES = (OCS.masses / OCS.masses.sum())[:, None]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _drifting(
    n: int, drift: tuple[float, float, float], *, seed: int = 5, false: float = 0.0
) -> flowcei.Events:
    """Return events at 1 % noise of a beam, a share of them with ions of different molecules."""
    events = flowcei.simulate("ocs", n, noise="1%", seed=seed)
    momenta = events.momenta + SHARES * np.asarray(drift)
    wrong = round(false * n)
    momenta[:wrong, 0] = np.roll(momenta[:wrong, 0], 1, axis=0)
    return replace(events, momenta=momenta, sigma=None)


@pytest.mark.parametrize("false", [0.0, 0.3])
def test_a_drift_is_measured_through_false_coincidences(false: float) -> None:
    """(28, 0, -9) a.u. are recovered to 5 standard errors, and these are as small as the noise allows."""
    drift = np.array([28.0, 0.0, -9.0])
    events = _drifting(4000, tuple(drift), false=false)
    measured = measure_drift(events.momenta)
    clean = flowcei.simulate("ocs", 4000, noise="1%", seed=5)
    assert clean.sigma is not None
    spread = np.sqrt(3 * np.mean(clean.sigma**2))
    assert (np.abs(measured.momentum - drift) < 5 * measured.error).all()
    np.testing.assert_allclose(measured.error, spread / np.sqrt(4000 * (1 - false)), rtol=0.15)
    np.testing.assert_allclose(measured.spread, spread, rtol=0.1)
    assert measured.significant


def test_the_spread_of_sums_is_noise_and_source() -> None:
    """var(sum) = sum of sigma_i^2 of the ions + s^2 of the source, on each axis of its own."""
    events = flowcei.simulate("ocs", 4000, seed=3)
    rng = np.random.default_rng(1)
    ions, source = np.array([1.0, 2.0, 4.0]), np.array([0.5, 3.0, 8.0])
    momenta = events.momenta + rng.normal(0, ions, (4000, 3, 3))
    momenta += SHARES * rng.normal(0, source, (4000, 1, 3))
    wanted = np.sqrt(3 * ions**2 + source**2)
    np.testing.assert_allclose(measure_drift(momenta).spread, wanted, rtol=5 / np.sqrt(2 * 4000))


@pytest.mark.parametrize(("n", "runs"), [(30, 4000), (300, 3000)])
def test_no_drift_is_claimed_of_sound_runs(n: int, runs: int) -> None:
    """Fewer than one false alarm in 1,000 runs: none in so many leaves that at 95 % confidence."""
    rng = np.random.default_rng(4)
    sigma = rng.uniform(1.0, 3.0, n)[:, None, None]  # a relative level differs from event to event
    base = 200.0 * np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    alarms = sum(
        measure_drift(base + sigma * rng.standard_normal((n, 2, 3))).significant for _ in range(runs)
    )
    assert alarms == 0


def test_rounding_and_few_events_are_no_drift() -> None:
    """Sums that are 0 but for rounding have a mean that is rounding; nine events tell nothing."""
    assert not measure_drift(flowcei.simulate("ocs", 1000, seed=1).momenta + 1e-9).significant
    assert not measure_drift(_drifting(9, (28.0, 0.0, 0.0)).momenta).significant
    assert measure_drift(flowcei.simulate("ocs", 1000, seed=1).momenta + 9.0).significant


def test_the_gate_is_about_the_drift(shell: Shell) -> None:
    """A beam at 560 m/s along x: 4 standard deviations leave out one true event in 882, not all."""
    n, chance = 20_000, stats.chi.sf(4.0, 3)
    assert round(1 / chance) == 882
    total = OCS.masses.sum() * constants.m_e * 560.0  # kg m/s
    along_x = total / (constants.hbar / constants.physical_constants["Bohr radius"][0])
    assert abs(along_x - 28.0) < 0.1
    flowcei.write_events(_drifting(n, (along_x, 0.0, 0.0)), "beam.h5")
    assert shell("convert", "beam.h5", "--max-sum", "4", "--noise", "1%", "-o", "a.h5") == 0
    assert "drift of the beam" in shell.err
    assert "along x" in shell.err
    assert "1 in 882" in shell.err
    kept = flowcei.read_events("a.h5")
    assert stats.binomtest(n - len(kept), n, chance).pvalue > 1e-3
    told = kept.origin["drift"]
    assert abs(told["momentum"][0] - along_x) < 5 * told["error"][0]
    assert np.abs(kept.momenta.sum(axis=1).mean(axis=0)).max() < 0.2
    assert (
        shell("convert", "beam.h5", "--max-sum", "4", "--noise", "1%", "--drift", "none", "-o", "b.h5") == 3
    )
    words = ["convert", "beam.h5", "--max-sum-chance", "0.1", "--noise", "1%", "--drift", "560,0,0 m/s"]
    assert shell(*words, "-o", "c.h5") == 0
    gone = n - len(flowcei.read_events("c.h5"))
    assert stats.binomtest(gone, n, 0.1).pvalue > 1e-3
    assert shell(*words, "--max-sum", "4", "-o", "d.h5") == 2
    assert shell("convert", "a.h5", "-o", "again.h5") == 0
    assert "drift" not in shell.err


def test_the_flag_is_about_the_drift(shell: Shell) -> None:
    """`sample` of a drifting beam flags no momentum sum, and answers as without the drift."""
    flowcei.write_events(_drifting(40, (28.0, 0.0, 0.0)), "beam.h5")
    for drift, name in (("auto", "a.h5"), ("none", "b.h5")):  # with none, all are flagged
        words = ["--momenta", "beam.h5", "-n", "5", "--seed", "1", "--noise", "1%", "--keep-flagged"]
        assert shell("sample", *words, "--drift", drift, "-o", name) == 0
    subtracted, untouched = (flowcei.read_samples(name) for name in ("a.h5", "b.h5"))
    assert subtracted.flags is not None
    assert untouched.flags is not None
    assert not (subtracted.flags & 1).any()
    assert (untouched.flags & 1).all()
    assert subtracted.origin["events"]["drift"]["events"] >= 36


def test_comparison_is_about_the_drift(shell: Shell) -> None:
    """`compare` of a drifting beam scores all as without the drift, counts what is left out; so in Python."""
    rest = flowcei.simulate("ocs", 40, noise="1%", seed=5)
    beam = replace(rest, momenta=rest.momenta + SHARES * np.array([28.0, 0.0, 0.0]), sigma=None)
    momenta = beam.momenta.copy()
    momenta[3, 1], momenta[7] = np.nan, 3.0 * momenta[7]
    flowcei.write_events(beam, "beam.csv")
    table = pd.read_csv("beam.csv")
    table[[c for c in table if c.startswith("p")]] = momenta.reshape(40, 9)
    table.to_csv("beam.csv", index=False)
    words = ["compare", "bundled", "--data", "beam.csv", "-n", "5", "--noise", "1%", "--json", "--overwrite"]
    assert shell(*words) == 0, shell.err
    told = json.loads(shell.out)
    assert told["events"] == 38
    assert told["left_out"] == {"unusable": 1, "flagged": 1}
    assert "drift of the beam" in shell.err
    assert "1 lacking an ion" in shell.err
    assert shell(*words, "--drift", "none") == 3
    still = flowcei.without_drift(beam)
    assert not measure_drift(still.momenta).significant
    measured = np.array(still.origin["drift"]["momentum"])
    np.testing.assert_allclose(beam.momenta - still.momenta, np.broadcast_to(SHARES * measured, (40, 3, 3)))
    np.testing.assert_array_equal(flowcei.without_drift(beam, "none").momenta, beam.momenta)


def test_training_noise_is_about_the_drift() -> None:
    """The noise that a training measures is that of the beam at rest: 1 %."""
    rest = flowcei.simulate("ocs", 1000, noise="1%", seed=5)
    beam = replace(rest, momenta=rest.momenta + SHARES * np.array([28.0, 0.0, 9.0]), sigma=None)
    own = settled_noise(beam, None)[1]
    assert own is not None
    assert abs(own.level - 0.01) < 5e-4


def test_only_what_a_beam_can_do_is_subtracted(tmp_path: Path) -> None:
    """Sums with the mean of a beam of 20 km/s are no drift: an ion is missing, or a unit is wrong."""
    path = tmp_path / "fast.h5"
    flowcei.write_events(_drifting(500, (1000.0, 0.0, 0.0)), path)
    source = open_events(path, None, Reading(drift="auto"))
    assert "not subtracted" in source.conclusions[-1]
    assert abs(source.read().momenta.sum(axis=1)[:, 0].mean() - 1000.0) < 1.0


def test_a_stated_drift() -> None:
    """In hbar/bohr, or as the velocity of the molecule; anything else is refused in one line."""
    assert parse_drift("auto", OCS) is None
    np.testing.assert_array_equal(parse_drift("28, 0,-9", OCS).momentum, [28.0, 0.0, -9.0])  # type: ignore[union-attr]
    fast = parse_drift("0.56,0,0 km/s", OCS)
    assert isinstance(fast, Drift)
    np.testing.assert_allclose(fast.velocity(OCS), 560.0)
    si = parse_drift("0,0,5.6e-23 kg m/s", OCS)
    assert isinstance(si, Drift)
    bohr = constants.physical_constants["Bohr radius"][0]
    np.testing.assert_allclose(si.momentum, [0, 0, 5.6e-23 * bohr / constants.hbar], rtol=1e-6)
    for text in ("", "28", "1,2", "1,2,x", "1,2,3 parsec", "nan,0,0", "1e300,0,0"):
        with pytest.raises(UsageError, match=r"--drift|unknown unit") as caught:
            parse_drift(text, OCS)
        assert "\n" not in str(caught.value)
