"""Laws along a delay are those of the events at each delay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from linear import Linear

import flowcei
from flowcei.errors import DataError, UsageError
from flowcei.posterior.flags import NOT_MIXED

DELAYS = (0.0, 50.0, 100.0)


@pytest.fixture(scope="module")
def movie() -> flowcei.PosteriorSamples:
    """120 events at each of three delays (fs), between which r(CS) grows by 0.1 bohr."""
    rng, parts = np.random.default_rng(1), []
    for k, delay in enumerate(DELAYS):
        truth = Linear(mean=np.array([2.25, 3.0 + 0.1 * k]))
        samples = truth.samples(truth.measured(120, rng), 120, rng)
        parts.append(replace(samples, columns=samples.columns | {"delay": np.full(120, delay)}))
    return flowcei.PosteriorSamples.concatenate(parts)


def test_a_bond_grows_with_the_delay(movie: flowcei.PosteriorSamples) -> None:
    """Each law is that of its events alone, and the table says of which delay it is."""
    found = flowcei.population(movie[::-1], by="delay", bootstrap=0, check=False)
    assert found.values.tolist() == list(DELAYS)
    assert found.mean[:, 1] == pytest.approx([3.0, 3.1, 3.2], abs=0.04)
    alone = flowcei.population(movie[120:240], bootstrap=0, check=False)
    assert found[1].mean == pytest.approx(alone.mean, rel=1e-4)
    table = found.to_dataframe()
    assert table.columns[:2].tolist() == ["delay", "events"]
    assert len(table) == 9
    assert len(found.plot().axes) == 3
    assert found.to_dict()["events"] == 360


def test_many_delays_are_ranges(movie: flowcei.PosteriorSamples) -> None:
    """Of a column with a value for each event: ranges with as many events, too few of them here."""
    spread = replace(movie, columns=movie.columns | {"delay": np.arange(360.0)})
    with pytest.raises(DataError, match=r"at delay = 8.5: 18 events are too few"):
        flowcei.population(spread, by="delay", check=False)


def test_chains_that_have_not_mixed_are_counted(movie: flowcei.PosteriorSamples) -> None:
    """They stay, and their number is said, of one law and of laws along a column."""
    flags = np.where(np.arange(360) < 7, NOT_MIXED, 0).astype(np.uint16)
    for by in (None, "delay"):
        fit = flowcei.population(replace(movie, flags=flags), by=by, bootstrap=0, check=False)
        assert (fit.events, fit.left_out["chains that have not mixed"]) == (360, 7)


def test_faults_of_the_column(movie: flowcei.PosteriorSamples) -> None:
    """One that is not there, and one with gaps."""
    with pytest.raises(UsageError, match="no extra column 'time'; they have r_hat, delay"):
        flowcei.population(movie, by="time")
    gap = replace(movie, columns=movie.columns | {"delay": np.where(np.arange(360) < 5, np.nan, 1.0)})
    with pytest.raises(DataError, match=r"'delay': 5 of 360 events have no value \(the first is event \d+\)"):
        flowcei.population(gap, by="delay")
    with pytest.raises(UsageError, match="normal laws and mixtures"):
        flowcei.population(movie, by="delay", law="free")
    with pytest.raises(
        DataError, match="the laws are separate at no value of delay; at 100: 2 normal laws are no"
    ):
        flowcei.population(movie, ["c-s"], by="delay", law="mixture")
