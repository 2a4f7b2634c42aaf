"""Shares of two pathways against the delay are the truth, at true delays, within their errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from linear import OCS, samples_of, with_origin
from scipy.special import expit
from shell import Shell

import flowcei
from flowcei.units import FWHM

if TYPE_CHECKING:
    from collections.abc import Callable

DELAYS, EVENTS, NOISE, PULSES = np.linspace(0.0, 140.0, 8), 150, 0.06, 50.0
HOW = {"law": "mixture", "by": "delay", "bootstrap": 0}


def share(t: np.ndarray) -> np.ndarray:
    """Of the molecules whose bond breaks, at true delays."""
    return 0.15 + 0.6 * expit((t - 90.0) / 15.0)


def bond(t: np.ndarray) -> np.ndarray:
    """Its length, bohr; of the others it is 2.9."""
    return 2.9 + 0.012 * np.clip(t - 40.0, 0.0, 140.0)


def samples_along(seed: int, broken: Callable[[np.ndarray], np.ndarray]) -> flowcei.PosteriorSamples:
    """Exact samples under `broad` at eight delays, whose pulses are 50 fs long; others stay at 2.9 bohr."""
    rng, blocks = np.random.default_rng(seed), []
    for delay in DELAYS:
        true = delay + PULSES / FWHM * rng.standard_normal(EVENTS)
        length = np.where(rng.random(EVENTS) < share(true), broken(true), 2.9)
        measured = length + np.hypot(0.1, NOISE) * rng.standard_normal(EVENTS)
        lengths = measured[:, None] + NOISE * rng.standard_normal((EVENTS, 60))
        z = np.stack([rng.uniform(2.0, 2.4, lengths.shape), lengths], axis=2)
        samples = samples_of(z, rng.uniform(1.0, 60.0, lengths.shape))
        one = with_origin(samples, prior=OCS.prior_table("broad"))
        blocks.append(replace(one, columns=one.columns | {"delay": np.full(EVENTS, delay)}))
    return flowcei.PosteriorSamples.concatenate(blocks)


@pytest.fixture(scope="module")
def movie() -> flowcei.PosteriorSamples:
    """A bond that breaks, of a part of the molecules."""
    return samples_along(2, bond)


@pytest.fixture(scope="module")
def isomers() -> flowcei.PosteriorSamples:
    """Two isomers whose geometries stay: only their shares change."""
    return samples_along(5, lambda true: np.full_like(true, 3.6))


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


def _isomer(r_cs: float) -> dict[str, object]:
    """A prior of OCS about a length of C-S, bohr."""
    rows = OCS.prior_table("broad")["zmatrix"]
    return {"kind": "internal", "zmatrix": [*rows[:2], rows[2] | {"length": {"normal": [r_cs, 0.1]}}]}


def test_shares_of_known_priors_along_a_delay(isomers: flowcei.PosteriorSamples) -> None:
    """The truth at every delay and true delay, also where one is rare; by the column as by its rows alone."""
    priors = [_isomer(2.9), _isomer(3.6)]
    how = {"by": "delay", "cross_correlation": PULSES, "check": False}
    found = flowcei.compare_priors(isomers, priors, **how)
    assert isinstance(found, flowcei.Pathways)
    assert found.names == ("prior-1", "prior-2")
    assert found.values.tolist() == DELAYS.tolist()
    assert not found.refused
    assert not found.overlapping
    scatter = PULSES / FWHM * np.random.default_rng(0).standard_normal(2000)
    nominal = share(DELAYS[:, None] + scatter).mean(axis=1)
    error = np.sqrt(nominal * (1.0 - nominal) / EVENTS)  # of a count: all events are told apart
    assert np.abs((found.share[:, 1] - nominal) / error).max() < 3.5
    assert found.smooth is not None
    off = (found.smooth.share(DELAYS)[:, 1] - share(DELAYS)) / found.smooth.errors(DELAYS)[:, 1]
    assert np.abs(off).max() < 3.5
    alone = flowcei.compare_priors(isomers[isomers.columns["delay"] == DELAYS[3]], priors, check=False)
    assert found.share[3] == pytest.approx(alone.share, abs=1e-9)
    with pytest.raises(flowcei.errors.UsageError, match="in units of the column that by names"):
        flowcei.compare_priors(isomers, priors, cross_correlation=PULSES)
    with pytest.raises(flowcei.errors.UsageError, match="no extra column 'time'"):
        flowcei.compare_priors(isomers, priors, by="time")


def test_the_command_compares_priors_along_a_delay(
    isomers: flowcei.PosteriorSamples,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Tables and a picture as of pathways, without laws that were sought."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    flowcei.write_samples([isomers], "i.h5")
    for r_cs in (2.9, 3.6):
        rows = "".join(
            f"{{ atom = '{atom}', from = 'c', length = {{ normal = [{r}, 0.1] }}{more} }},"
            for atom, r, more in (("o", 2.2, ""), ("s", r_cs, ", angle_to = 'o', angle = { bend = 20.0 }"))
        )
        Path(f"at-{r_cs}.toml").write_text(f"kind = 'internal'\nzmatrix = [{{ atom = 'c' }}, {rows}]\n")
    words = "--prior", "at-2.9.toml", "--prior", "at-3.6.toml", "--by", "delay", "--cross-correlation", "50"
    assert shell("compare-priors", "i.h5", *words, "-o", "out") == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"table.csv", "smooth.csv", "shares.png", "population.h5"}
    assert shell.out.splitlines()[0].split()[:5] == ["delay", "events", "law", "share", "error"]
    assert "components.csv" not in shell.err
