"""Samples of geometry and build-up time together, against brute-force importance sampling and the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quick import QUICK
from scipy.stats import multivariate_normal, multivariate_t, truncnorm
from shell import Shell

import flowcei
from flowcei import Experiment, Schedule
from flowcei.errors import UsageError

UNKNOWN = Experiment(noise="1%", build_up={"mean": "5fs", "deviation": "1fs"})
LAW = truncnorm(-5.0, np.inf, 5.0, 1.0)


@pytest.fixture(scope="module")
def model() -> flowcei.Reconstructor:
    """Three epochs of eight steps, told build-up times."""
    how = {"schedule": Schedule(epochs=3, batch=64), "events_per_epoch": 500, "rules": QUICK}
    small = {"couplings": 2, "hidden": 16}
    return flowcei.train("cinn", molecule="ocs", build_up="0..10fs", seed=1, options=small, **how)


def _bond(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(x[..., 1, :] - x[..., 0, :], axis=-1))


def _brute_force(
    events: flowcei.Events, k: int, start: flowcei.PosteriorSamples
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bonds, times and weights of 12,000 wide draws of one event, all of it written anew."""
    molecule, prior, rng = events.molecule, start.prior, np.random.default_rng(k)
    x = start.positions[k].astype(float)
    points = np.concatenate([(x[:, 1:] - x[:, :1]).reshape(len(x), 6), start.build_up[k][:, None]], axis=1)
    proposal = multivariate_t(points.mean(axis=0), 1.3 * np.cov(points.T), df=4, seed=rng)
    drawn = proposal.rvs(12_000)
    drawn = drawn[drawn[:, 6] > 0.0]
    x = np.concatenate([np.zeros((len(drawn), 1, 3)), drawn[:, :6].reshape(-1, 2, 3)], axis=1)
    p = flowcei.asymptotic_momenta(x, molecule.masses, molecule.charges, build_up=drawn[:, 6], accuracy=1e-6)
    # Combinations in which no motion of the molecule shows; their noise has the covariance w w'.
    w = np.stack([-molecule.masses[1:] / molecule.masses[0], *np.eye(2)], axis=1)
    sigma = 0.01 * np.sqrt((p**2).mean(axis=(1, 2)))
    residual = np.einsum("ij,bjx->bxi", w, events.momenta[k] - p) / sigma[:, None, None]
    likelihood = multivariate_normal(np.zeros(2), w @ w.T).logpdf(residual).sum(axis=1) - 6 * np.log(sigma)
    target = prior.log_prob(x) + likelihood + LAW.logpdf(drawn[:, 6])
    weight = np.exp((log_weight := target - proposal.logpdf(drawn)) - log_weight.max())
    return _bond(x), drawn[:, 6], weight / weight.sum()


def test_samples_are_of_geometry_and_time_together(model: flowcei.Reconstructor) -> None:
    """Means and deviations of bond and time, of weighed and of exact samples, within 4.5 errors."""
    events = flowcei.simulate("ocs", 3, experiment=UNKNOWN, seed=4)
    weighed = model.sample(events, 2500, seed=1, weigh=True, experiment=UNKNOWN)
    exact = model.sample(events, 1000, seed=1, exact=True, experiment=UNKNOWN)
    assert weighed.weights is not None
    assert np.median(weighed.weights.efficiency) > 0.4
    for k in range(len(events)):
        *truth, weight = _brute_force(events, k, exact)
        count = 1.0 / (weight**2).sum()
        assert count > 900
        for samples in (weighed, exact):
            own = samples.weights.normalised[k]
            least = min(count, samples.weights.ess[k])
            for value, found in zip(truth, (_bond(samples.positions[k]), samples.build_up[k]), strict=True):
                mean, other = weight @ value, own @ found
                width, wide = (np.sqrt(w @ (v - m) ** 2) for w, v, m in
                               ((weight, value, mean), (own, found, other)))  # fmt: skip
                assert abs(mean - other) < 4.5 * width * np.sqrt(2.0 / least)
                assert abs(np.log(width / wide)) < 4.5 / np.sqrt(least)
    # The time widens the bond: of a known one it is narrower by a fifth.
    known = model.sample(events, 1000, seed=1, weigh=True, experiment=Experiment(noise="1%", build_up="5fs"))
    assert np.median(_bond(known.positions).std(axis=1) / _bond(exact.positions).std(axis=1)) < 0.9
    np.testing.assert_allclose(
        exact.weights.log_evidence, weighed.weights.log_evidence, atol=0.2
    )  # per fs of nothing: the time is integrated out


def test_coverage_where_each_event_has_its_own_time(model: flowcei.Reconstructor) -> None:
    """The central 50 and 90 % hold as many of the true bonds and times."""
    events = flowcei.simulate("ocs", 200, experiment=UNKNOWN, seed=4)
    samples = model.sample(events, 100, seed=1, weigh=True, min_ess=30, experiment=UNKNOWN)
    sound, weight = ~samples.flagged, samples.weights.normalised
    assert sound.mean() > 0.97
    truth = (_bond(events.positions), events.columns["build_up_time"])
    for true, value in zip(truth, (_bond(samples.positions), samples.build_up), strict=True):
        below = ((value < true[:, None]) * weight).sum(axis=1)[sound]
        for level in (0.5, 0.9):
            share = (np.abs(below - 0.5) < level / 2).mean()
            assert abs(share - level) < 4.0 * np.sqrt(level * (1.0 - level) / len(below))


def test_what_an_unknown_time_needs(
    model: flowcei.Reconstructor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Weights; files hold the times; modes say that they are those of the mean."""
    events = flowcei.simulate("ocs", 6, experiment=UNKNOWN, seed=5)
    with pytest.raises(UsageError, match="exact or weighed"):
        model.sample(events, 5, experiment=UNKNOWN)
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    model.save("m.safetensors")
    Path("e.toml").write_text(UNKNOWN.to_toml())
    assert Experiment.load("e.toml") == UNKNOWN
    words = ("--experiment", "e.toml", "--seed", "5")
    assert shell("simulate", "ocs", "-n", "6", *words, "-o", "a.h5") == 0, shell.err
    file = flowcei.read_events("a.h5")
    np.testing.assert_array_equal(file.columns["build_up_time"], events.columns["build_up_time"])
    assert shell("check", "a.h5") == 0, shell.out
    sample = ("sample", "--momenta", "a.h5", "--model", "m.safetensors", *words, "--exact", "-n", "40")
    assert shell(*sample, "-o", "s.h5") == 0, shell.err
    samples = flowcei.read_samples("s.h5")
    assert samples.build_up.shape == (6, 40)
    assert samples[2:4].equally_weighted().build_up.shape == (2, 40)
    assert samples.to_dataframe()["build_up"].between(0.0, 10.0).all()
    for command in ("modes", "refine"):
        assert shell(command, "s.h5", "-o", f"{command}.csv") == 0, shell.err
        assert "build-up time is 5+-1fs" in shell.err
        assert "that of 5fs" in shell.err
