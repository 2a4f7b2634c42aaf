"""Training on a file: the noise is measured, the number of steps follows from the rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.errors import UsageError
from flowcei.experiment.detector import NOISE_FLOOR, Noise, rms_component
from flowcei.reconstruction.training_data import RecordedSource, measure_noise, recorded, settled_noise
from flowcei.training.schedule import Schedule


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _unstated(molecule: str, n: int, noise: str, seed: int = 1) -> flowcei.Events:
    return replace(flowcei.simulate(molecule, n, noise=noise, seed=seed), sigma=None)


@pytest.mark.parametrize("molecule", ["ocs", "ch2o"])
@pytest.mark.parametrize("level", [0.003, 0.01, 0.04])
def test_noise_is_measured(molecule: str, level: float) -> None:
    """To 6 %, four standard deviations of the median, from sums alone and with the positions."""
    events = _unstated(molecule, 1500, f"{100 * level}%")
    assert measure_noise(events).level == pytest.approx(level, rel=0.06)
    assert measure_noise(events).positions is not None
    assert measure_noise(events).sums == pytest.approx(level, rel=0.08)


def test_only_noise_counts_as_noise() -> None:
    """A moving source is none, centring hides none; rounded masses and digits are none."""
    noisy, clean = _unstated("ocs", 1500, "1%"), _unstated("ocs", 1500, "0%")
    shares = (noisy.molecule.masses / noisy.molecule.masses.sum())[:, None]
    centred = replace(noisy, momenta=noisy.momenta - shares * noisy.momenta.sum(axis=1, keepdims=True))
    assert measure_noise(centred).level == pytest.approx(0.01, rel=0.05)
    rng = np.random.default_rng(1)
    flying = replace(clean, momenta=clean.momenta + shares * rng.normal(0, 20, (1500, 1, 3)))
    assert measure_noise(flying).sums > 0.03
    assert measure_noise(flying).level == 0
    assert measure_noise(clean).level == 0
    rounded = replace(clean, momenta=np.round(clean.momenta, 3))
    assert measure_noise(rounded).level == 0


def test_what_is_added_completes_what_is_there() -> None:
    """Data with 1 % trained for 3 % have 3 % in the end and are told 3 %; for 1 % nothing is added."""
    noisy, truth = _unstated("ocs", 2000, "1%"), _unstated("ocs", 2000, "0%")
    for total in (0.01, 0.03):
        drawn = RecordedSource(noisy, noisy, Noise(total, total), 7, own=0.01).epoch(0)
        left = (drawn.momenta - truth.momenta) / rms_component(truth.momenta)[:, None, None]
        assert left.std() == pytest.approx(total, rel=5 / np.sqrt(2 * 9 * 2000))
        assert drawn.sigma is not None
        np.testing.assert_allclose(drawn.sigma, total * rms_component(drawn.momenta))


def test_what_is_asked_for_wins_within_what_is_there() -> None:
    """A level, a range from below the data's noise, and less than the data's noise."""
    clean, noisy = _unstated("ocs", 500, "0%"), _unstated("ocs", 500, "2%")
    assert settled_noise(clean, None)[0] == Noise(NOISE_FLOOR, 0.05)
    assert settled_noise(clean, "1%")[0] == Noise(0.01, 0.01)
    low = settled_noise(noisy, "0.1%..5%")[0].low
    assert low == pytest.approx(0.02, rel=0.05)
    assert settled_noise(noisy, None)[0] == Noise(low, 0.05)
    with pytest.raises(UsageError, match="the data show noise of"):
        settled_noise(noisy, "1%")
    assert recorded(noisy, None, 1)[2].data.noise == low


@pytest.mark.parametrize(
    ("rows", "fresh", "batch", "steps"),
    [
        (80, True, 32, (1800, 1800)),
        (960, True, 128, (4800, 4800)),
        (8_000, True, 128, (4800, 4900)),
        (80_000, True, 256, (4800, 5100)),
        (800_000, True, 1024, (7000, 8000)),
        (960, False, 128, (240, 240)),
        (8_000, False, 128, (1800, 2000)),
        (80_000, False, 256, (4800, 5100)),
    ],
)
def test_steps_follow_from_rows(rows: int, fresh: bool, batch: int, steps: tuple[int, int]) -> None:
    """Few rows get small batches and many passes; rows that can be learned by heart get fewer."""
    schedule = Schedule.for_rows(rows, fresh_noise=fresh)
    assert schedule.batch == batch
    assert steps[0] <= schedule.epochs * -(-rows // batch) <= steps[1]
    given = Schedule.for_rows(rows, fresh_noise=fresh, epochs=7, batch=50, patience=2, learning_rate=1e-4)
    assert (given.epochs, given.batch, given.patience, given.learning_rate) == (7, 50, 2, 1e-4)


def test_a_file_trains_by_itself(shell: Shell) -> None:
    """Noise and schedule are said and kept; a short training is far better than ten steps were.

    With all defaults 1,200 rows take about a minute and reach 3e-3 bohr (docs/models.md).
    """
    flowcei.write_events(_unstated("ocs", 1000, "0%"), "d.csv")
    words = ["train", "--data", "d.csv", "--couplings", "4", "--epochs", "20", "--seed", "1", "-o", "r"]
    assert shell(*words) == 0
    assert "noise of the data: none, below 0.01 % (sums and re-simulated positions)" in shell.err
    assert "trained for 0.01%..5%" in shell.err
    assert "20 passes over 800 events in batches of 128" in shell.err
    model = flowcei.load("r")
    assert model.default_noise == Noise(NOISE_FLOOR, NOISE_FLOOR)
    test = _unstated("ocs", 300, "0%", seed=2)
    samples = model.sample(test, 20, seed=1)
    np.testing.assert_allclose(samples.sigma, NOISE_FLOOR * rms_component(test.momenta))
    assert test.positions is not None
    error = np.linalg.norm(samples.positions.mean(axis=1) - test.positions, axis=2).mean()
    assert error < 0.05  # ten passes in batches of 1,024: 0.10
