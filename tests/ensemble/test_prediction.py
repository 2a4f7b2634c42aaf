"""The run beside what a fitted law predicts of it: whatever the law, with an experiment and behind a gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from linear import OCS, samples_of, with_origin

import flowcei
from flowcei.ensemble.prediction import compared
from flowcei.ensemble.reduction import gathered
from flowcei.errors import DataError
from flowcei.physics.priors import build_prior
from flowcei.units import ELECTRONVOLT

EVENTS, NOISE = 600, 0.05
BEAM = {"noise": "1%", "spread": 1.0, "drift": [5.0, 0.0, 0.0], "accidents": 0.3}


def _prior(mean: float) -> dict[str, Any]:
    rows = OCS.prior_table("equilibrium")["zmatrix"]
    return {"kind": "internal", "zmatrix": [*rows[:2], rows[2] | {"length": {"normal": [mean, 0.1]}}]}


def _samples(means: tuple[float, ...], factor: float = 1.0, **how: Any) -> flowcei.PosteriorSamples:
    """Samples, under `broad`, of events of some priors, with normal posteriors; momenta are `factor` off."""
    rng, each = np.random.default_rng(1), EVENTS // len(means)
    runs = [flowcei.simulate(OCS, each, prior=_prior(one), seed=k, **how) for k, one in enumerate(means)]
    events = flowcei.Events.concatenate(runs)
    away = events.positions[:, 1:] - events.positions[:, :1]
    lengths, shape = np.linalg.norm(away, axis=2), (len(events), 80)
    angle = np.degrees(np.arccos(np.einsum("ei,ei->e", *np.moveaxis(away, 1, 0)) / lengths.prod(axis=1)))
    measured = lengths + NOISE * rng.standard_normal(lengths.shape)
    z = measured[:, None] + NOISE * rng.standard_normal((*shape, 2))
    bend = np.abs(180.0 - angle[:, None] + 0.3 * rng.standard_normal(shape))
    momenta = factor * events.momenta
    sigma = 0.01 * np.sqrt((momenta**2).mean(axis=(1, 2)))
    columns = {"r_hat": np.ones(len(events))}
    if "experiment" in how:
        columns["p_true"] = 1.0 - events.columns["accident"]
        momenta = flowcei.Experiment(**BEAM).of(OCS).calibrated(momenta)
    samples = replace(samples_of(z, bend), momenta=momenta, sigma=sigma, columns=columns)
    return with_origin(samples, prior=OCS.prior_table("broad"))


def _p_values(samples: flowcei.PosteriorSamples) -> list[float]:
    """Of a mixture of normals, and of two priors."""
    laws = [
        flowcei.population(samples, law="mixture", bootstrap=0),
        flowcei.compare_priors(samples, [_prior(2.8), _prior(3.4)]),
    ]
    assert all(law.check is not None and law.check.compared > 300 for law in laws)
    return [law.to_dict()["run"]["p_value"] for law in laws]


def test_every_law_predicts_its_run() -> None:
    """Two isomers, by normal laws that are sought and by their priors."""
    assert min(_p_values(_samples((2.8, 3.4), noise="1%"))) > 0.01


def test_a_wrong_law_is_seen_in_an_experiment() -> None:
    """Accidents of a beam are left out by their P(true); wrong momenta are seen, a third isomer refused."""
    own = {"experiment": flowcei.Experiment(**BEAM)}
    stated = {"experiment": flowcei.Experiment(**BEAM).to_dict()}
    two = with_origin(_samples((2.8, 3.4), **own), **stated)
    assert min(_p_values(two)) > 0.01
    free = flowcei.population(two, ["c-s"], law="free", bootstrap=0)
    assert free.to_dict()["run"]["p_value"] < 1e-6  # what it leaves open is as in `broad`, and not of the run
    assert max(_p_values(with_origin(_samples((2.8, 3.4), 1.05, **own), **stated))) < 1e-6
    third = with_origin(_samples((2.8, 3.4, 3.9), **own), **stated)
    with pytest.raises(DataError, match="fewer than 5 effective samples under the law"):
        flowcei.compare_priors(third, [_prior(2.8), _prior(3.4)])


def test_a_gate_cuts_the_prediction_too() -> None:
    """Events that passed a gate on the KER are those of the prior behind the same gate, and not without."""
    samples, prior = _samples((3.0,), noise="1%"), build_prior(OCS, _prior(3.0))
    ker = (samples.momenta**2 / (2.0 * OCS.masses[:, None])).sum(axis=(1, 2)) / ELECTRONVOLT
    low = float(np.median(ker))
    gated = with_origin(samples[ker > low], events={"selection": {"ker_ev": [low, 1e3]}})
    run = compared(gathered(gated, None), prior.sample, 0)
    assert run is not None
    assert run.sound
    wide = with_origin(gated, events={"selection": {"ker_ev": [0.1, 1e3]}})
    run = compared(gathered(wide, None), prior.sample, 0)
    assert run is not None
    assert run.p_value < 1e-6
