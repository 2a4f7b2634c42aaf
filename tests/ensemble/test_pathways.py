"""Shares of two pathways against the delay are the truth, at true delays, within their errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from linear import OCS, samples_of, with_origin
from scipy.special import expit
from shell import Shell

import flowcei
from flowcei.units import FWHM

DELAYS, EVENTS, NOISE, PULSES = np.linspace(0.0, 140.0, 8), 150, 0.06, 50.0
HOW = {"law": "mixture", "by": "delay", "bootstrap": 0}


def share(t: np.ndarray) -> np.ndarray:
    """Of the molecules whose bond breaks, at true delays."""
    return 0.15 + 0.6 * expit((t - 90.0) / 15.0)


def bond(t: np.ndarray) -> np.ndarray:
    """Its length, bohr; of the others it is 2.9."""
    return 2.9 + 0.012 * np.clip(t - 40.0, 0.0, 140.0)


@pytest.fixture(scope="module")
def movie() -> flowcei.PosteriorSamples:
    """Exact samples under `broad` at eight delays, whose pulses are 50 fs long."""
    rng, blocks = np.random.default_rng(2), []
    for delay in DELAYS:
        true = delay + PULSES / FWHM * rng.standard_normal(EVENTS)
        length = np.where(rng.random(EVENTS) < share(true), bond(true), 2.9)
        measured = length + np.hypot(0.1, NOISE) * rng.standard_normal(EVENTS)
        lengths = measured[:, None] + NOISE * rng.standard_normal((EVENTS, 60))
        z = np.stack([rng.uniform(2.0, 2.4, lengths.shape), lengths], axis=2)
        samples = samples_of(z, rng.uniform(1.0, 60.0, lengths.shape))
        one = with_origin(samples, prior=OCS.prior_table("broad"))
        blocks.append(replace(one, columns=one.columns | {"delay": np.full(EVENTS, delay)}))
    return flowcei.PosteriorSamples.concatenate(blocks)


def test_shares_are_the_truth(movie: flowcei.PosteriorSamples) -> None:
    """Where the pathways are separate; a word where they are not."""
    found = flowcei.population(movie, ["c-s"], **HOW, cross_correlation=PULSES, check=False)
    assert isinstance(found, flowcei.Pathways)
    assert 0.0 in found.refused
    assert "no better than one" in found.refused[0.0]
    assert found.overlapping == [60.0]
    assert found.values[-5:].tolist() == DELAYS[-5:].tolist()
    scatter = PULSES / FWHM * np.random.default_rng(0).standard_normal(2000)
    true = found.values[:, None] + scatter
    nominal = share(true).mean(axis=1)
    table = found.to_dataframe()
    broken = table[table["law"] == "normal-2"]
    assert np.abs((broken["share"] - nominal) / broken["error"]).max() < 3.0
    assert found.smooth is not None
    off = found.smooth.share(found.values) - np.stack([1 - share(found.values), share(found.values)], axis=1)
    assert np.abs(off / found.smooth.errors(found.values)).max() < 3.0
    assert found.smooth.errors(found.values).max() < 0.12
    assert found.misfit > 1e-3
    low, high = found.smooth.interval(found.values)
    assert np.all((low > 0.0) & (low < high) & (high < 1.0))
    means = found.components().query("law == 'normal-2'")["mean"].to_numpy()
    assert means == pytest.approx((share(true) * bond(true)).mean(axis=1) / nominal, abs=0.1)
    assert len(found.smooth_table()) == 2 * len(found.values)


def test_the_command_writes_them(
    movie: flowcei.PosteriorSamples,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Tables, a picture, and a word for the delays without shares; of three delays none are smooth."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    few = movie[(movie.columns["delay"] == 0.0) | (movie.columns["delay"] > 100.0)]
    flowcei.write_samples([few], "m.h5")
    words = ("--by", "delay", "--law", "mixture", "--coordinates", "c-s", "--bootstrap", "0")
    assert shell("population", "m.h5", *words, "-o", "out") == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"table.csv", "components.csv", "shares.png", "population.h5"}
    assert "no shares at delay = 0: 2 normal laws are no better than one" in shell.err
    assert "the laws are separate at 2 values, 5 are needed" in shell.err
    assert shell.out.splitlines()[0].split()[:5] == ["delay", "events", "law", "share", "error"]
