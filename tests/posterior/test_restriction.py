"""Samples inside the prior: none outside, independent, and the evidence stays what it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import flowcei
from flowcei.physics.priors import build_prior
from flowcei.posterior.arrays import Rows
from flowcei.posterior.drawing import INSIDE, restricted
from flowcei.posterior.flags import FLAG_BITS
from flowcei.posterior.samples import PosteriorSamples
from flowcei.reconstruction.model import Reconstructor


def _model(low: float, high: float) -> Reconstructor:
    """The bundled flow with another prior: of 2.19 +/- 0.15 bohr it keeps c-o of low to high."""
    model = flowcei.load()
    rows = build_prior(model.molecule).spec()["zmatrix"]
    length = {"truncated_normal": [2.19, 0.15, low, high]}
    rows = [rows[0], rows[1] | {"length": length}, rows[2]]
    model.training.prior = {"kind": "internal", "zmatrix": rows}
    return model


def _bond(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[..., 1, :] - positions[..., 0, :], axis=-1)


def test_no_sample_lies_outside_and_the_share_is_said() -> None:
    """They are the flow's samples that lie inside, no others: the same distribution of the bond."""
    events = flowcei.simulate("ocs", 30, noise="1%", seed=5)
    drawn, plain = (model.sample(events, 400, seed=1) for model in (_model(2.1, 2.4), flowcei.load()))
    inside = (_bond(plain.positions) > 2.1) & (_bond(plain.positions) < 2.4)
    share = drawn.columns[INSIDE]
    np.testing.assert_allclose(share, inside.mean(axis=1), atol=0.12)
    filled = share > 0.3
    assert filled.sum() > 20
    bond = _bond(drawn.positions[filled].astype(float))
    assert ((bond > 2.1 - 1e-6) & (bond < 2.4 + 1e-6)).all()
    for event in np.flatnonzero(share > 0.5):
        expected = _bond(plain.positions[event])[inside[event]]
        got = _bond(drawn.positions[event])
        error = expected.std() * np.sqrt(1 / 400 + 1 / len(expected))
        assert abs(got.mean() - expected.mean()) < 5.0 * error
        assert len(np.unique(drawn.positions[event].reshape(400, -1), axis=0)) == 400
    assert drawn.flags is not None
    flagged = (drawn.flags & FLAG_BITS["outside-prior"]) > 0
    np.testing.assert_array_equal(flagged, share < 0.5)


def test_the_evidence_does_not_depend_on_when_samples_are_weighed() -> None:
    """At once, or afterwards when those outside had been drawn again: within its error."""
    events = flowcei.simulate("ocs", 20, noise="1%", seed=6)
    model = _model(2.0, 2.3)
    at_once = model.sample(events, 2000, seed=1, weigh=True)
    assert INSIDE not in at_once.columns
    drawn = model.sample(events, 2000, seed=2)
    afterwards = drawn.weigh()
    assert at_once.weights is not None
    assert afterwards.weights is not None
    one, other = at_once.weights, afterwards.weights
    good = (one.ess > 200) & (other.ess > 200)
    assert good.sum() > 12
    assert (drawn.columns[INSIDE][good] < 0.9).sum() > 3
    error = np.hypot(one.log_evidence_error, other.log_evidence_error)[good]
    inside = drawn.columns[INSIDE][good]
    share = np.sqrt((1 - inside) / inside / 2000)
    pull = (one.log_evidence - other.log_evidence)[good] / np.hypot(error, share)
    assert np.abs(pull).max() < 4.5
    assert np.isneginf(one.log_weights[_bond(at_once.positions) > 2.301]).all()


def test_a_prior_that_excludes_nothing_costs_nothing() -> None:
    """No column, and the samples of ever."""
    events = flowcei.simulate("ocs", 3, noise="1%", seed=5)
    model = flowcei.load()
    assert not model.prior.bounded
    assert model.sample(events, 10, seed=1).columns == {}
    assert build_prior(flowcei.Molecule.load("ocs"), "wide").bounded
    assert build_prior(flowcei.Molecule.load("ocs"), "ball").bounded
    assert not build_prior(flowcei.Molecule.load("ch4")).bounded


def test_an_event_that_is_hardly_inside_keeps_its_samples_and_is_flagged() -> None:
    """Of momenta of another geometry the flow draws nothing that the prior has."""
    events = flowcei.simulate("ocs", 3, noise="1%", seed=5)
    odd = replace(events, momenta=events.momenta * np.array([1.0, 0.5, 1.0])[:, None, None])
    drawn = _model(1.7, 2.7).sample(odd, 50, noise="1%", seed=1)
    plain = flowcei.load().sample(odd, 50, noise="1%", seed=1)
    assert drawn.columns[INSIDE][1] == pytest.approx(0.0, abs=0.05)
    np.testing.assert_array_equal(drawn.positions[1], plain.positions[1])
    assert drawn.flags is not None
    assert ((drawn.flags & FLAG_BITS["outside-prior"]) > 0).tolist() == [False, True, False]


def test_what_a_coupling_throws_away_is_drawn_again() -> None:
    """A normal prior excludes nothing; but samples 1e12 bohr away, one in a hundred, would be the mean."""
    model, events = flowcei.load(), flowcei.simulate("ocs", 3, noise="1%", seed=1)
    drawn, rng = model.sample(events, 200, seed=1), np.random.default_rng(2)

    def thrown(rows: Rows, n: int) -> PosteriorSamples:
        samples = model.sample(events[rows], n, seed=3)
        far = rng.random((len(rows), n)) < 0.01
        return replace(samples, positions=np.where(far[..., None, None], 1e12, samples.positions))

    samples = restricted(thrown(np.arange(3), 200), thrown, model.prior)
    assert np.abs(samples.positions).max() < 50.0
    np.testing.assert_allclose(samples.mean(), drawn.mean(), atol=0.05)
    assert "inside_prior" not in samples.columns
