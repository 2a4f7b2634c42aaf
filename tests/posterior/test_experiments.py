"""Samples of an experiment, against importance sampling with SciPy's normal density of all momenta."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, multivariate_t
from shell import Shell

import flowcei
from flowcei import Experiment
from flowcei.errors import UsageError
from flowcei.experiment.missing import lost_column
from flowcei.reconstruction.model import Reconstructor

ROUGH = Experiment(noise=["4%", "0.5%", "0.5%"], temperature=20)
MILD = Experiment(noise=["2%", "2%", "0.5%"], temperature=20)


def _facts(x: np.ndarray) -> np.ndarray:
    """Both bonds and the cosine of the angle, (..., 3), of OCS."""
    one, other = x[..., 1, :] - x[..., 0, :], x[..., 2, :] - x[..., 0, :]
    lengths = [np.linalg.norm(v, axis=-1) for v in (one, other)]
    return np.stack([*lengths, (one * other).sum(axis=-1) / lengths[0] / lengths[1]], axis=-1)


def _oracle(
    events: flowcei.Events, prior: object, experiment: Experiment, lost: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and deviation of `_facts` of one event, and its log evidence: a Student, adapted eight times."""
    molecule, rng = events.molecule, np.random.default_rng(0)
    m, u = molecule.masses, molecule.masses / molecule.masses.sum()
    left = [k for k in range(3) if k != lost - 1]
    spread = np.sqrt(m.sum() * 20 * 3.1668115634556e-6)
    mean, cov = (events.positions[0, 1:] - events.positions[0, :1]).ravel(), 0.03**2 * np.eye(6)
    for count in [4000] * 8 + [30_000]:
        law = multivariate_t(mean, cov, df=5, seed=rng)
        y = law.rvs(count)
        x = np.pad(y, ((0, 0), (3, 0))).reshape(-1, 3, 3)
        p = flowcei.asymptotic_momenta(x, m, molecule.charges, accuracy=1e-5).astype(float)
        unit = np.sqrt((p**2).mean(axis=(1, 2)))[:, None]
        log_weight = prior.log_prob(x) - law.logpdf(y)  # type: ignore[attr-defined]
        for axis, level in enumerate(float(text[:-1]) / 100 for text in experiment.to_dict()["noise"]):
            r = events.momenta[0, :, axis] - p[:, :, axis]
            covariance = (level * unit[:, :, None]) ** 2 * np.eye(3) + spread**2 * np.outer(u, u)
            r, covariance = r[:, left], covariance[:, left][:, :, left]
            white = np.linalg.solve(np.linalg.cholesky(covariance), r[..., None])[..., 0]
            log_weight += (
                multivariate_normal(np.zeros(len(left))).logpdf(white)
                - 0.5 * np.linalg.slogdet(covariance)[1]
            )
        for power in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
            weight = np.exp(power * (log_weight - log_weight.max()))
            effective = weight.sum() ** 2 / (weight**2).sum()
            if effective > 400:
                break
        mean, cov = np.average(y, weights=weight, axis=0), np.cov(y.T, aweights=weight) + 1e-8 * np.eye(6)
    weight = np.exp(log_weight - log_weight.max())
    assert weight.sum() ** 2 / (weight**2).sum() > 500
    facts = _facts(x)
    mean = np.average(facts, weights=weight, axis=0)
    deviation = np.sqrt(np.average((facts - mean) ** 2, weights=weight, axis=0))
    return mean, deviation, float(logsumexp(log_weight) - np.log(len(weight)))


@pytest.mark.parametrize(
    ("experiment", "how", "lost"),
    [
        (ROUGH, {"exact": True}, 0),
        (MILD, {"weigh": True, "min_ess": 200, "budget": 16_000}, 0),
        (MILD, {"exact": True}, 2),
    ],
)
def test_samples_are_those_of_the_exact_posterior(experiment: Experiment, how: dict, lost: int) -> None:
    """Means, deviations and evidence to 5 % of the deviation and four standard errors, without an ion too."""
    model = flowcei.load()
    events = flowcei.simulate("ocs", 1, experiment=experiment, seed=11)
    if lost:
        events.momenta[:, lost - 1] = 1.0  # nothing of it counts
        events.columns["lost_ion"] = np.array([lost])
    samples = model.sample(events, 500, seed=1, experiment=experiment, **how)
    assert samples.weights is not None
    mean, deviation, evidence = _oracle(events, model.prior, experiment, lost)
    facts, weights = _facts(samples.positions[0]), samples.weights.normalised[0]
    found = np.average(facts, weights=weights, axis=0)
    width = np.sqrt(np.average((facts - found) ** 2, weights=weights, axis=0))
    tolerance = 0.05 + 4.0 / np.sqrt(samples.weights.ess[0])
    np.testing.assert_allclose((found - mean) / deviation, 0.0, atol=tolerance)
    np.testing.assert_allclose(width / deviation, 1.0, atol=tolerance)
    assert samples.weights.log_evidence[0] == pytest.approx(evidence, abs=tolerance)


def test_what_is_asked_of_an_experiment(tiny_cinn: Reconstructor) -> None:
    """Weights or exact samples, no level of noise beside it; what Python takes is what TOML holds."""
    model, events = flowcei.load(), flowcei.simulate("ocs", 2, experiment=ROUGH, seed=1)
    with pytest.raises(UsageError, match="exact or weighed"):
        model.sample(events, 5, experiment=ROUGH)
    with pytest.raises(UsageError, match="leave the other out"):
        model.sample(events, 5, experiment=ROUGH, noise="1%", weigh=True)
    few = tiny_cinn.sample(
        events, 20, experiment=ROUGH, weigh=True, seed=1
    )  # of a flow of one level of noise
    assert all("experiment" in names for names in few.flag_names)
    assert few.flagged.all()
    usual = model.sample(events, 20, experiment=Experiment(noise="1%"), weigh=True, seed=1)
    assert not any("experiment" in names for names in usual.flag_names)
    with pytest.raises(UsageError, match="ocs has c, o, s"):
        model.sample(events, 5, experiment=Experiment(noise={"c": 1.0}), weigh=True)


def test_a_known_source_moves_what_a_model_is_given() -> None:
    """At rest: the efficiency is 0.94, of momenta without their sum 0.73."""
    at_rest = Experiment(noise="1%", spread=0.0)
    events = flowcei.simulate("ocs", 60, experiment=at_rest, seed=12)
    weights = flowcei.load().sample(events, 200, seed=1, weigh=True, experiment=at_rest).weights
    assert weights is not None
    assert np.median(weights.efficiency) > 0.88


def test_scale_and_drift_are_taken_off() -> None:
    """Momenta 5 % too large of a fast beam have the samples of those that are not, to rounding."""
    model, events = flowcei.load(), flowcei.simulate("ocs", 5, experiment=ROUGH, seed=1)
    table, u = ROUGH.to_dict(), events.molecule.masses / events.molecule.masses.sum()
    moved = flowcei.Events("ocs", 1.05 * (events.momenta + u[:, None] * np.array([28.0, 0.0, -9.0])))
    one = model.sample(events, 40, seed=1, weigh=True, experiment=ROUGH)
    stated = Experiment(**table, drift=[28, 0, -9], momentum_scale=1.05)
    other = model.sample(moved, 40, seed=1, weigh=True, experiment=stated)
    np.testing.assert_allclose(one.momenta, other.momenta, atol=1e-9)
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-3)
    np.testing.assert_array_equal(one.flags, other.flags)
    assert one.origin["experiment"] == table


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_the_commands(shell: Shell) -> None:
    """A warm, fast beam: only accidents are flagged by their sums; modes and floors are of the experiment."""
    table = ROUGH.to_dict() | {"drift": [28, 0, 0], "temperature": 300}
    Path("made.toml").write_text(Experiment(**table, accidents=0.2).to_toml())
    Path("e.toml").write_text(Experiment(**table).to_toml())
    assert shell("simulate", "ocs", "-n", "60", "--experiment", "made.toml", "--seed", "1", "-o", "a.h5") == 0
    words = ["sample", "--momenta", "a.h5", "-n", "20", "--seed", "1", "-o", "s.h5", "--overwrite"]
    assert shell(*words, "--experiment", "e.toml") == 2
    assert "--weigh or --exact" in shell.err
    assert shell(*words, "--experiment", "e.toml", "--noise", "1%", "--weigh") == 2
    assert shell(*words, "--experiment", "e.toml", "--drift", "1,2,3", "--weigh") == 2
    assert shell(*words) in (0, 3)
    assert "--experiment" in shell.err
    assert shell(*words, "--experiment", "e.toml", "--weigh", "--keep-flagged") == 0, shell.err
    samples, events = flowcei.read_samples("s.h5"), flowcei.read_events("a.h5")
    np.testing.assert_array_equal(samples.flag_bits & 1, events.columns["accident"])
    sound = samples[samples.flag_bits & 1 == 0]
    modes = sound.modes(keep_flagged=True)
    assert (modes.verdict < 2).mean() > 0.9
    ends = sound.refine(keep_flagged=True)
    done = ends.status == 0
    assert done.mean() > 0.7  # the others end where the noise has left no geometry
    assert ends.chi_squared[done].max() < 1e-3
    assert shell(*words, "--experiment", "e.toml", "--weigh", "--keep-flagged", "--max-sum", "5") == 0
    assert len(flowcei.read_samples("s.h5")) == len(sound)


def test_events_that_lack_an_ion(shell: Shell) -> None:
    """One blank or zero ion is taken with --missing 1, two are not; the column says which; order is kept."""
    at_rest = Experiment(noise="1%", spread=0.0)
    Path("e.toml").write_text(at_rest.to_toml())
    Path("moving.toml").write_text('noise = "1%"\n')
    events = flowcei.simulate("ocs", 8, experiment=at_rest, seed=2)
    table = events.to_dataframe()
    table.loc[1, ["pcx", "pcy", "pcz"]] = np.nan
    table.loc[4, ["psx", "psy", "psz"]] = 0.0
    table.loc[6, ["psx", "psy", "psz", "pox", "poy", "poz"]] = np.nan
    table.to_csv("a.csv", index=False, na_rep="nan")
    words = ["sample", "--momenta", "a.csv", "-n", "40", "--seed", "1", "-o", "s.h5", "--overwrite"]
    for wrong in (
        ["--exact"],
        ["--experiment", "e.toml", "--weigh"],
        ["--experiment", "moving.toml", "--exact"],
    ):
        assert shell(*words, "--missing", "1", *wrong) == 2
        assert "spread or temperature" in shell.err
    assert shell(*words, "--missing", "1", "--experiment", "e.toml", "--exact") == 0, shell.err
    samples = flowcei.read_samples("s.h5")
    assert samples.columns["lost_ion"].tolist() == [0, 1, 0, 0, 3, 0, 0]
    assert samples.event_id.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert not samples.flagged.any()
    truth = events.positions[samples.event_id]
    distance = np.sqrt(((samples.positions - truth[:, None]) ** 2).sum(axis=3).mean(axis=(1, 2)))
    assert distance.max() < 0.3
    assert np.abs(samples.momenta[[1, 4]].sum(axis=1)).max() < 1e-9
    assert (samples.modes().verdict == 0).all()
    assert np.isnan(samples.columns["evidence_p"]).tolist() == [False, True, False, False, True, False, False]
    with pytest.warns(UserWarning, match="3 lacking an ion"):
        assert len(flowcei.read_events("a.csv")) == 5


def _alike(
    events: flowcei.Events, prior: object, lost: list[int], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (M, 6) of geometries of the prior, and their weights by the momenta of ions that are left.

    Each is turned so that these come nearest to the measured, then by a small random rotation, whose density
    is divided out: importance sampling of shapes and orientations.
    """
    m, rng = events.molecule.masses, np.random.default_rng(3)
    x = prior.sample(80_000, rng)  # type: ignore[attr-defined]
    p = flowcei.asymptotic_momenta(x, m, events.molecule.charges, accuracy=1e-5).astype(float)
    there = [k for k in range(4) if k not in lost]
    wanted, angle = events.momenta[0, there], 0.01 * np.sqrt(level / 0.01)
    u, _, vt = np.linalg.svd(np.einsum("ki,mkj->mij", wanted, p[:, there]))
    u[:, :, 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))[:, None]
    w = angle * rng.normal(size=(len(x), 3))
    turn = Rotation.from_rotvec(w).as_matrix() @ u @ vt
    half = np.linalg.norm(w, axis=1) / 2
    log_weight = 0.5 * (w**2).sum(axis=1) / angle**2 + 2.0 * np.log(np.sin(half) / half)
    sigma = level * np.sqrt((p**2).mean(axis=(1, 2)))
    r = np.einsum("mij,mkj->mki", turn, p[:, there]) - wanted
    log_weight -= 0.5 * (r**2).sum(axis=(1, 2)) / sigma**2 + 3 * len(there) * np.log(sigma)
    weight = np.exp(log_weight - log_weight.max())
    i, j = np.triu_indices(4, 1)
    return np.linalg.norm(x[:, i] - x[:, j], axis=2), weight / weight.sum()


@pytest.mark.parametrize(("lost", "level"), [([0, 3], 1), ([1, 3], 3)])
def test_two_ions_of_four_are_missing(
    tiny: Callable[[str, str], flowcei.Reconstructor], lost: list[int], level: int
) -> None:
    """The prior fills what two momenta leave open, whatever the model: means, deviations of distances."""
    model, at_rest = tiny("cinn", "ch2o"), Experiment(noise=f"{level}%", spread=0.0)
    events = flowcei.simulate("ch2o", 1, experiment=at_rest, seed=4)
    events.momenta[:, lost] = 1.0  # nothing of them counts
    events.columns["lost_ion"] = lost_column(np.isin(np.arange(4), lost)[None])
    samples = model.sample(events, 200, seed=1, experiment=at_rest, exact=True)
    distances, weight = _alike(events, model.prior, lost, 0.01 * level)
    effective = 1.0 / (weight**2).sum()
    assert effective > 100
    x = samples.positions[0].astype(float)
    i, j = np.triu_indices(4, 1)
    found = np.linalg.norm(x[:, i] - x[:, j], axis=2)
    mean = weight @ distances
    deviation = np.sqrt(weight @ (distances - mean) ** 2)
    tolerance = 0.05 + 4.0 * np.sqrt(1.0 / effective + 1.0 / samples.weights.ess[0])
    np.testing.assert_allclose((found.mean(axis=0) - mean) / deviation, 0.0, atol=tolerance)
    np.testing.assert_allclose(found.std(axis=0) / deviation, 1.0, atol=tolerance)
    assert np.isinf(samples.floor()).all()
    assert samples.modes(keep_flagged=True).verdict.tolist() == [1]  # a family gives the momenta
