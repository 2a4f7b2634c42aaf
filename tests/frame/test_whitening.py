"""Charts whitened by a normal approximation: where the exact posterior has its mode, and as narrow."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

import flowcei
from flowcei.experiment.likelihood import Likelihood
from flowcei.frame.interface import WhitenedEvents
from flowcei.frame.kinds import frame_from_dict
from flowcei.frame.recoil import RecoilFrame
from flowcei.frame.whitening import Whitening
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.framing import ordered_frame

NAMES = ["ocs", "ch2o", "ch4", "chbrclf"]


def _frame(name: str, events: flowcei.Events) -> RecoilFrame:
    molecule = Molecule.load(name)
    prior = build_prior(molecule)
    frame = ordered_frame(events, reflect=prior.mirror_symmetric)
    return replace(frame, whitening=Whitening.of(molecule, prior.sample(5000, np.random.default_rng(0))))


def _case(name: str, n: int = 12, seed: int = 1) -> tuple[flowcei.Events, RecoilFrame]:
    events = flowcei.simulate(name, n, noise="1%", seed=seed)
    return events, _frame(name, events)


def _enter(frame: RecoilFrame, momenta: np.ndarray, sigma: np.ndarray) -> WhitenedEvents:
    framed = frame.enter(momenta, sigma)
    assert isinstance(framed, WhitenedEvents)
    return framed


def _sigma(events: flowcei.Events) -> np.ndarray:
    assert events.sigma is not None
    return events.sigma


@pytest.mark.parametrize(("name", "power"), [*((name, -0.5) for name in NAMES), ("ch2o", 1.0)])
def test_the_map_is_one_to_one_and_its_volume_is_that_of_differences(name: str, power: float) -> None:
    """Positions near and far beyond the bulk: back again; log|det| by differences of the fourth order."""
    events, frame = _case(name, 4)
    assert frame.whitening is not None
    frame = replace(frame, whitening=replace(frame.whitening, power=power))
    framed = _enter(frame, events.momenta, _sigma(events))
    d, h = frame.width, 1e-4
    for size in (0.5, 20.0):
        u = size * np.random.default_rng(0).standard_normal((4, 3, d))
        x = frame.to_positions(u, framed)[0]
        np.testing.assert_allclose(frame.to_chart(x, framed), u, rtol=1e-8, atol=1e-6)
        slope = np.zeros((4, d, d))
        for k, weight in ((1, 2 / 3), (2, -1 / 12), (-1, -2 / 3), (-2, 1 / 12)):
            moved = frame.to_positions(u[:, :1] + k * h * np.eye(d), framed)[0]
            slope += weight / h * (moved[:, :, 1:] - moved[:, :, :1]).reshape(4, d, d)
        volume = frame.log_jacobian(u, framed)[:, 0]
        np.testing.assert_allclose(-np.linalg.slogdet(slope)[1], volume, rtol=1e-6, atol=1e-6)


def test_the_centre_is_the_mode_and_the_root_its_curvature() -> None:
    """The exact prior and likelihood, by differences: no slope at the centre, curvature 1 in charts."""
    events, frame = _case("ch2o", 6)
    framed = _enter(frame, events.momenta, _sigma(events))
    likelihood, prior = (
        Likelihood(events.molecule.masses, events.molecule.charges, events.momenta, _sigma(events)),
        build_prior(events.molecule),
    )
    d, h = frame.width, 0.05
    steps = np.concatenate([np.zeros((1, d)), h * np.eye(d), -h * np.eye(d)])
    x = frame.to_positions(np.tile(steps, (6, 1, 1)), framed)[0]
    log_prior = prior.log_prob_unlabelled(x.reshape(-1, *x.shape[2:]), events.molecule.identical)
    value = likelihood.log_prob(x) + log_prior.reshape(6, -1)
    middle, up, down = value[:, :1], value[:, 1 : d + 1], value[:, d + 1 :]
    slope, curvature = (up - down) / (2 * h), (up + down - 2 * middle) / h**2
    assert np.abs(slope).max() < 0.35
    assert np.abs(np.median(curvature, axis=0) + 1.0).max() < 0.25


@pytest.mark.parametrize("name", ["ch2o", "ch4"])
def test_truths_of_events_are_standard_normal(name: str) -> None:
    """The sum of squares of D coordinates of 500 events, beside chi squared: mean D, variance 2 D."""
    events, frame = _case(name, 500)
    framed = _enter(frame, events.momenta, _sigma(events))
    assert events.positions is not None
    u = frame.to_chart(events.positions[:, None], framed)[:, 0]
    squares = (u**2).sum(axis=1)
    assert abs(squares.mean() / frame.width - 1.0) < 0.12
    assert abs(squares.var() / (2 * frame.width) - 1.0) < 0.5
    assert np.abs(u.mean(axis=0)).max() < 0.25


@pytest.mark.parametrize("name", ["ch2o", "chbrclf"])
def test_the_sum_of_squares_is_chi_squared(name: str) -> None:
    """3N - 3 momenta and 3N - 6 vibrations, less 3N - 3 numbers that are fitted: the median."""
    events, frame = _case(name, 400)
    misfit = _enter(frame, events.momenta, _sigma(events)).misfit
    expected = chi2(3 * len(events.molecule) - 6)
    assert abs(np.median(misfit) - expected.median()) < 4 * 1.25 * expected.std() / np.sqrt(400)


@pytest.mark.parametrize("name", NAMES)
def test_what_nobody_can_know_changes_nothing(name: str) -> None:
    """Turned, moved, and like ions exchanged: what the network is told stays."""
    events, frame = _case(name)
    rng = np.random.default_rng(2)
    order = np.arange(len(events.molecule))
    for group in map(list, events.molecule.identical):
        order[group] = rng.permutation(group)
    turn = Rotation.random(rng=rng).as_matrix() * (-1.0 if frame.reflect else 1.0)
    moved = events.momenta[:, order] @ turn.T + 1e-3 * events.molecule.masses[:, None] * rng.standard_normal(
        3
    )
    before = _enter(frame, events.momenta, _sigma(events))
    after = _enter(frame, moved, _sigma(events))
    np.testing.assert_allclose(after.told, before.told, rtol=1e-5, atol=1e-5)


def test_one_event_without_sense_leaves_the_others_alone() -> None:
    """Momenta that are NaN, zero, on a line, immense, or noise of 0: finite numbers, the others as ever."""
    events, frame = _case("ch4", 8)
    p, sigma = events.momenta.copy(), _sigma(events).copy()
    expected = _enter(frame, p, sigma)
    p[0], p[1], p[2, :, :2], p[3], sigma[4] = np.nan, 0.0, 0.0, 1e150, 0.0
    found = _enter(frame, p, sigma)
    for table in (found.centre, found.root, found.misfit):
        assert np.isfinite(table).all()
    np.testing.assert_allclose(found.told[5:], expected.told[5:], rtol=1e-6, atol=1e-6)


def test_a_whitened_frame_is_stored_and_wrong_ones_are_refused() -> None:
    """Through the table that a file holds."""
    _, frame = _case("ch2o")
    table = asdict(frame)
    assert frame_from_dict(table) == frame
    assert frame_from_dict({k: v for k, v in table.items() if k != "whitening"}) == replace(
        frame, whitening=None
    )
    for change in (
        {"charges": (1.0,)},
        {"charges": (1.0, 1.0, 1.0, -1.0)},
        {"mean": ((0.0, 0.0, 0.0),)},
        {"root": ()},
        {"root": ((1.0, 2.0),)},
        {"rest": ((1e300,) * 3,) * 4},
        {"steps": 3},
        {"power": 0.0},
    ):
        with pytest.raises(ValueError, match="whitening"):
            frame_from_dict(table | {"whitening": table["whitening"] | change})
