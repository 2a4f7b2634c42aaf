"""Noise that differs between the axes of the lab, as a network is told it, against matrices made by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import logm
from scipy.spatial.transform import Rotation

import flowcei
from flowcei.experiment.covariance import CovarianceLikelihood
from flowcei.frame.interface import Condition, FramedEvents
from flowcei.frame.recoil import RecoilFrame, turned_logarithm
from flowcei.frame.whitening import Whitening
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.framing import ordered_frame

ROUGH = np.array([0.04, 0.005, 0.01])
PERMUTATIONS = [np.eye(3)[list(order)] for order in permutations(range(3))]
TURNS = [np.diag(signs) @ p for signs in product((1.0, -1.0), repeat=3) for p in PERMUTATIONS]


def _case(name: str, n: int = 6) -> tuple[flowcei.Events, RecoilFrame]:
    """Events with the noise `ROUGH`, and their frame with whitened charts."""
    levels = [f"{100 * level:g}%" for level in ROUGH]
    events = flowcei.simulate(name, n, experiment=flowcei.Experiment(noise=levels), seed=1)
    prior = build_prior(events.molecule)
    whitening = Whitening.of(events.molecule, prior.sample(5000, np.random.default_rng(0)))
    frame = ordered_frame(events, reflect=prior.mirror_symmetric)
    return events, replace(frame, by_axis=True, whitening=whitening)


CASES = {name: _case(name) for name in ("ocs", "ch2o")}


def _rms(momenta: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt((momenta**2).mean(axis=(1, 2))))


def _enter(frame: RecoilFrame, momenta: np.ndarray, sigma: np.ndarray) -> FramedEvents:
    return frame.enter(momenta, sigma)


@pytest.mark.parametrize("name", CASES)
def test_the_condition_holds_the_logarithm_of_the_covariance(name: str) -> None:
    """SciPy's logarithm of the covariance in axes along two of the momenta; one level is a multiple of 1."""
    events, frame = CASES[name]
    frame = replace(frame, whitening=None)
    p = (
        events.momenta
        - events.momenta.sum(axis=1, keepdims=True)
        * (events.molecule.masses / events.molecule.masses.sum())[:, None]
    )
    sigma = ROUGH * _rms(p)[:, None]
    framed = _enter(frame, p, sigma)
    found = Condition.split(framed.condition, len(events.molecule)).log_noise
    for k, order in enumerate(framed.order):
        momenta = p[k, order]
        one, two = (momenta[ion] for ion in frame.axes[:2])
        first = one / np.linalg.norm(one)
        second = two - (two @ first) * first
        second /= np.linalg.norm(second)
        third = np.cross(first, second)
        if frame.reflect and momenta[frame.axes[2]] @ third < 0:
            third = -third
        axes = np.array([first, second, third])
        expected = logm(axes @ np.diag(ROUGH**2) @ axes.T) / 2
        upper = [expected[i] for i in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
        np.testing.assert_allclose(found[k], upper, atol=1e-9)
    for level in (np.full(len(p), 0.02), np.full((len(p), 3), 0.02)):
        framed = _enter(frame, p, level * _rms(p).reshape(-1, *[1] * (level.ndim - 1)))
        noise = Condition.split(framed.condition, len(events.molecule)).log_noise
        np.testing.assert_allclose(
            noise, np.tile(np.log(0.02) * np.array([1, 1, 1, 0, 0, 0]), (len(p), 1)), atol=1e-9
        )


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.sampled_from(TURNS))
def test_a_turned_experiment_is_the_same(name: str, turn: np.ndarray) -> None:
    """Axes of the lab exchanged and reversed, with their noise: all that is told, and the charts, stay."""
    events, frame = CASES[name]
    if np.linalg.det(turn) < 0 and not frame.reflect:
        turn = -turn
    sigma, x = ROUGH * _rms(events.momenta)[:, None], events.positions
    assert x is not None
    before = _enter(frame, events.momenta, sigma)
    after = _enter(frame, events.momenta @ turn.T, sigma @ np.abs(turn).T)
    np.testing.assert_allclose(after.told, before.told, rtol=1e-5, atol=1e-5)
    charts = [
        frame.to_chart(positions[:, None], framed) for positions, framed in ((x, before), (x @ turn.T, after))
    ]
    np.testing.assert_allclose(charts[1], charts[0], rtol=1e-4, atol=1e-4)


def test_any_rotation_turns_the_logarithm() -> None:
    """Of a frame that is turned by Q the matrix is Q M Q^T."""
    rng = np.random.default_rng(0)
    one, turn = (Rotation.random(5, rng=rng).as_matrix() for _ in range(2))
    level = np.log(ROUGH * rng.uniform(0.1, 1.0, (5, 3)))
    matrices = []
    for rotation in (one, turn @ one):
        m = turned_logarithm(level, rotation)
        matrices.append(m[:, [[0, 3, 4], [3, 1, 5], [4, 5, 2]]])
    np.testing.assert_allclose(matrices[1], turn @ matrices[0] @ np.swapaxes(turn, 1, 2), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_centre_is_the_mode_and_the_root_its_curvature(name: str) -> None:
    """The exact prior, and the likelihood of each axis, by differences in the chart."""
    events, frame = CASES[name]
    framed = _enter(frame, events.momenta, ROUGH * _rms(events.momenta)[:, None])
    molecule = Molecule.load(name)
    levels = [f"{100 * level:g}%" for level in ROUGH]
    measurement = flowcei.Experiment(noise=levels).of(molecule)
    likelihood = CovarianceLikelihood(molecule.masses, molecule.charges, events.momenta, measurement)
    d, h, n = frame.width, 0.05, len(events)
    steps = np.concatenate([np.zeros((1, d)), h * np.eye(d), -h * np.eye(d)])
    x = frame.to_positions(np.tile(steps, (n, 1, 1)), framed)[0]
    log_prior = build_prior(molecule).log_prob_unlabelled(x.reshape(-1, *x.shape[2:]), molecule.identical)
    value = likelihood.log_prob(x) + log_prior.reshape(n, -1)
    middle, up, down = value[:, :1], value[:, 1 : d + 1], value[:, d + 1 :]
    slope, curvature = (up - down) / (2 * h), (up + down - 2 * middle) / h**2
    assert np.abs(np.median(slope, axis=0)).max() < 0.35
    assert np.abs(np.median(curvature, axis=0) + 1.0).max() < 0.3
