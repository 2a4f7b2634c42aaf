"""Accidents of shots, against shots that are counted molecule by molecule."""

from __future__ import annotations

import numpy as np
import pytest

import flowcei
from flowcei import Experiment
from flowcei.errors import UsageError
from flowcei.experiment.missing import lost_ions
from flowcei.experiment.shots import Shots, kinds_of, patterns


def _counted(kinds: tuple[tuple[int, ...], ...], efficiency: list[float], rate: float, shots: int) -> dict:
    """Events and accidents among so many shots, by what is lost: one hit of each ion that is not.

    Of like ions as many hits as there are ions, whichever they are; only how many are lost is told.
    """
    rng, out = np.random.default_rng(0), dict[tuple[int, ...], list[int]]()
    molecules = rng.poisson(rate, shots)
    shot = np.repeat(np.arange(shots), molecules)
    seen = rng.random((len(shot), len(efficiency))) < efficiency
    hits = np.stack([np.bincount(shot, seen[:, list(kind)].sum(axis=1), shots) for kind in kinds], axis=1)
    several = np.bincount(shot, seen.any(axis=1), shots) > 1
    lost = np.array([len(kind) for kind in kinds]) - hits
    for number in np.flatnonzero((lost >= 0).all(axis=1) & (lost.sum(axis=1) <= 1)):
        counts = out.setdefault(tuple(lost[number].astype(int).tolist()), [0, 0])
        counts[0] += 1
        counts[1] += int(several[number])
    return out


@pytest.mark.parametrize(
    ("ions", "efficiency", "rate"),
    [("cos", [0.6, 0.5, 0.4], 0.8), ("ohh", [0.7, 0.5, 0.5], 0.6), ("abcd", [0.5, 0.5, 0.9, 0.7], 1.5)],
)
def test_events_and_accidents_are_those_of_counted_shots(
    ions: str, efficiency: list[float], rate: float
) -> None:
    """How many, and which share, complete or lacking an ion; of different ions by Touchard's polynomials."""
    kinds, number = kinds_of(ions), 400_000
    shots = Shots(kinds, np.array(efficiency), rate)
    table = patterns(len(ions), 1)
    chance, share = shots.chance(table), shots.share(table)
    for lost, (events, accidents) in _counted(kinds, efficiency, rate, number).items():
        mine = [tuple(int(one[list(kind)].sum()) for kind in kinds) == lost for one in table]
        expected = number * chance[mine].sum()
        assert abs(events - expected) < 4.5 * np.sqrt(expected)
        wanted = share[mine][0]
        assert abs(accidents - wanted * events) < 4.5 * np.sqrt(wanted * (1.0 - wanted) * events)
    if len(set(ions)) == len(ions) == 3:
        x = shots.unseen
        np.testing.assert_allclose(share[0], 1.0 - 1.0 / (1.0 + 3.0 * x + x**2), rtol=1e-10)
        np.testing.assert_allclose(share[1:], 1.0 - 1.0 / (1.0 + x), rtol=1e-10)
    again = Shots.of_share(kinds, np.array(efficiency), float(share[0]))
    assert again is not None
    assert again.rate == pytest.approx(rate, rel=1e-6)


def test_simulated_shots_have_the_share_of_their_rate_and_tell_it_again() -> None:
    """In the column, and by `measure_experiment`, with the efficiency; a seed gives the same events."""
    made = Experiment(
        noise=[3.0, 1.5, 1.0], temperature=20, rate=0.8, efficiency={"c": 0.6, "o": 0.5, "s": 0.4}
    )
    events = flowcei.simulate("ocs", 16_000, experiment=made, seed=3)
    lost, accident = lost_ions(events.columns, 3), events.columns["accident"] == 1
    assert lost is not None
    shots = Shots(kinds_of("cos"), np.array([0.6, 0.5, 0.4]), 0.8)
    for pattern, wanted in zip(patterns(3, 1), shots.share(patterns(3, 1)), strict=True):
        mine = (lost == pattern).all(axis=1)
        assert abs(accident[mine].mean() - wanted) < 4.5 * np.sqrt(wanted * (1.0 - wanted) / mine.sum())
    told = flowcei.measure_experiment(events, noise=[3.0, 1.5, 1.0])
    assert not told.remarks
    measured = told.quantities
    share, count = measured["accidents"], (~lost.any(axis=1)).sum()
    true = float(shots.share(np.zeros((1, 3), bool))[0])
    assert share.error < 3.0 * np.sqrt(true * (1.0 - true) / count)
    assert abs(share.value - true) < 4.0 * share.error
    for label, wanted in {"c": 0.6, "o": 0.5, "s": 0.4}.items():
        assert abs(measured["efficiency"].value[label] - wanted) < 4.0 * measured["efficiency"].error[label]
    again = flowcei.simulate("ocs", 100, experiment=made, seed=3)
    np.testing.assert_array_equal(again.momenta, events.momenta[:100])


def test_a_rate_needs_ions_that_are_lost() -> None:
    """And stands in place of the share of accidents."""
    with pytest.raises(UsageError, match="beside the efficiency"):
        Experiment(noise="1%", rate=0.3)
    with pytest.raises(UsageError, match="in place of accidents"):
        Experiment(noise="1%", rate=0.3, accidents=0.1, efficiency=0.5)
    with pytest.raises(UsageError, match="molecules a shot"):
        Experiment(noise="1%", rate=0.0, efficiency=0.5)
    own = Experiment(noise="1%", rate=0.3, efficiency=0.5)
    assert Experiment.from_dict(own.to_dict()) == own
    said = own.of(flowcei.Molecule.load("ocs")).shots
    assert said is not None
    assert said.in_words(1).startswith(
        "0.3 molecules a shot: 0.1 of complete events, 0.036 of those that lack"
    )
    assert own.of(flowcei.Molecule.load("ocs")).accidents == pytest.approx(
        1 - 1 / (1 + 3 * 0.0375 + 0.0375**2)
    )
