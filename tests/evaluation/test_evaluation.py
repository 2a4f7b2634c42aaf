"""Metrics on answers that are known to be right, and on some known to be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from shell import Shell

from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.evaluation.comparison import compare, null_samples, summarise, unseen
from flowcei.evaluation.scores import (
    SCORES,
    Answers,
    Score,
    TestSet,
    central_coverage,
    crps,
    distance_scores,
    evaluate,
)
from flowcei.events.container import Events
from flowcei.events.simulation import simulate
from flowcei.experiment.likelihood import Likelihood, centred_momenta
from flowcei.models.interface import InverseModel, ModelOptions
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import kinetic_energy
from flowcei.posterior.refinement import refine
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.spread import in_recoil_frame
from flowcei.reconstruction.fitting import train
from flowcei.reconstruction.model import Reconstructor
from flowcei.report.judging import comparison_figure
from flowcei.storage.card import TrainingRecord
from flowcei.training.schedule import Schedule
from flowcei.units import ANGSTROM

POSITIONS = [s for s in SCORES if s.name.split("_")[0] not in ("bond", "angle", "resimulation")]


def _answers(truth: np.ndarray, samples: np.ndarray, molecule: str | Molecule = "ocs") -> Answers:
    """Return samples (E, n, N, D) of truths (E, N, D) that are in the recoil frame already."""
    known = Molecule.load(molecule) if isinstance(molecule, str) else molecule
    same, order = np.broadcast_to(np.eye(3), (len(truth), 3, 3)), np.zeros((len(truth), 1), dtype=np.intp)
    chosen = np.zeros(len(truth), dtype=bool)
    test = TestSet(known, truth, truth, truth, truth, same, order, chosen, truth.std(axis=0))
    return Answers(test, samples, in_recoil_frame=True)


def _row(truth: np.ndarray, samples: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(**summarise(evaluate(POSITIONS, _answers(truth, samples)), resamples=20))


def _gaussian(bias: float = 0.0, width: float = 1.0, n: int = 99) -> tuple[np.ndarray, np.ndarray]:
    """Return truths and samples of a posterior with the given faults; (0, 1) is right."""
    rng = np.random.default_rng(5)
    centre = rng.normal(0.0, 3.0, (4000, 1, 2))
    truth = centre[:, 0] + rng.normal(size=(4000, 2))
    return truth, centre + bias + width * rng.normal(size=(4000, n, 2))


def test_coverage_of_the_right_posterior_is_its_level() -> None:
    """50 and 90 %, within two standard errors of 4,000 events."""
    truth, samples = _gaussian()
    for level in (0.5, 0.9):
        error = 2.5 * np.sqrt(level * (1 - level) / 4000)
        np.testing.assert_allclose(central_coverage(truth, samples, level).mean(axis=0), level, atol=error)


@pytest.mark.parametrize("n", [2, 3, 7, 50])
def test_coverage_is_unbiased_for_any_number_of_samples(n: int) -> None:
    """Few samples widen nothing and narrow nothing: the ranks are counted exactly."""
    truth, samples = _gaussian(n=n)
    for level in (0.5, 0.9):
        np.testing.assert_allclose(central_coverage(truth, samples, level).mean(axis=0), level, atol=0.025)


@pytest.mark.parametrize(
    ("bias", "width", "low", "high"), [(0.0, 0.5, 0.2, 0.35), (0.0, 2.0, 0.75, 0.9), (1.5, 1.0, 0.1, 0.3)]
)
def test_coverage_finds_wrong_posteriors(bias: float, width: float, low: float, high: float) -> None:
    """Too narrow, too wide and biased posteriors miss 50 % by far."""
    truth, samples = _gaussian(bias, width)
    found = central_coverage(truth, samples, 0.5).mean(axis=0)
    assert ((found > low) & (found < high)).all()


def test_one_sample_has_twice_the_squared_error_of_the_mean() -> None:
    """For a perfect posterior: why one sample must not be called the model's error."""
    truth, samples = _gaussian()
    scores = _row(truth[:, :, None], samples[:, :, :, None])
    assert scores.mse_sample / scores.mse_mean == pytest.approx(2.0, rel=0.05)


def test_standardised_errors_leave_out_what_does_not_move() -> None:
    """A coordinate that is always 0 must not divide by zero, nor dilute the others."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(500, 2, 3))
    truth[:, :, 2] = 0.0
    scores = _row(truth, np.zeros((500, 1, 2, 3)))
    assert scores.std_mse_mean == pytest.approx(1.0, rel=0.02)
    assert np.isnan(scores.coverage_50)


def test_null_models_score_what_they_must() -> None:
    """Standardised MSE 1 for the mean, 2 for a marginal sample, whose coverage is right."""
    rng = np.random.default_rng(1)
    truth = rng.normal(2.0, 0.7, (3000, 3, 3))
    mean = _row(truth, null_samples("mean", truth, 1, rng))
    marginal = _row(truth, null_samples("marginal", truth, 50, rng))
    assert mean.std_mse_mean == pytest.approx(1.0, abs=0.01)
    assert marginal.std_mse_sample == pytest.approx(2.0, abs=0.05)
    assert marginal.coverage_90 == pytest.approx(0.9, abs=0.01)


def test_null_models_never_answer_an_event_with_itself() -> None:
    """Two halves, each answered from the other: a lone outlier cannot be found."""
    truth = np.zeros((100, 1, 3))
    truth[17] = 1.0
    for name in ("mean", "marginal"):
        assert (null_samples(name, truth, 20, np.random.default_rng(0))[17] == 0.0).all()


def test_comparison_needs_positions_and_enough_events() -> None:
    """Momenta alone cannot be scored; three events are no statistics."""
    events = simulate("ocs", 20, seed=1)
    with pytest.raises(DataError, match="momenta only"):
        compare({}, Events(events.molecule, events.momenta))
    with pytest.raises(DataError, match="too few"):
        compare({}, events[:3])


def test_training_rows_are_left_out_of_a_comparison() -> None:
    """Of the file a model was trained on, only the 10 % test rows remain; of others, all."""
    events = simulate("ocs", 400, seed=3)
    model = train(
        "cinn",
        data=events,
        options={"couplings": 1, "hidden": 8, "context": 4},
        schedule=Schedule(epochs=1, batch=100),
        seed=2,
    )
    rest = unseen(model, events)
    assert len(rest) == 40
    other = simulate("ocs", 400, seed=4)
    assert unseen(model, other) is other
    training = set(map(tuple, events.momenta[:, 0])) - set(map(tuple, rest.momenta[:, 0]))
    assert len(training) == 360


def _pairs_by_hand(truth: np.ndarray, samples: np.ndarray) -> float:
    n = len(samples)
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(samples) for j, b in enumerate(samples) if i != j]
    return float(np.mean([np.linalg.norm(a - truth) for a in samples]) - 0.5 * sum(gaps) / (n * (n - 1)))


def test_scoring_rules_are_their_definitions() -> None:
    """CRPS and energy score by every pair, and of one coordinate they are the same number."""
    rng = np.random.default_rng(3)
    truth, samples = rng.normal(size=(6, 4)), rng.normal(1.0, 2.0, (6, 7, 4))
    by_hand = [_pairs_by_hand(t, s) for t, s in zip(truth, samples, strict=True)]
    np.testing.assert_allclose(distance_scores(truth, samples)[0], by_hand, rtol=1e-7)
    single = [
        [_pairs_by_hand(truth[e, k : k + 1], samples[e, :, k : k + 1]) for k in range(4)] for e in range(6)
    ]
    np.testing.assert_allclose(crps(truth, samples), single, rtol=1e-9)
    one = distance_scores(truth[:, :1], samples[:, :, :1])[0]
    np.testing.assert_allclose(one, crps(truth, samples)[:, 0])


@pytest.mark.parametrize(("n", "y"), [(2, 0.0), (5, 0.7), (5, -2.5)])
def test_scoring_rules_of_a_normal_are_unbiased(n: int, y: float) -> None:
    """Closed forms at any number of samples: Gneiting et al. (2005) for the CRPS of N(1, 2)."""
    events, mean, sd = 60_000, 1.0, 2.0
    rng = np.random.default_rng(4)
    z = (y - mean) / sd
    phi, cumulative = stats.norm.pdf(z), stats.norm.cdf(z)
    exact = sd * (z * (2.0 * cumulative - 1.0) + 2.0 * phi - 1.0 / np.sqrt(np.pi))
    found = crps(np.full((events, 1), y), rng.normal(mean, sd, (events, n, 1)))[:, 0]
    assert found.mean() == pytest.approx(exact, abs=4 * found.std() / np.sqrt(events))
    d = 6
    radius = np.sqrt(2.0) * np.exp(special.gammaln((d + 1) / 2) - special.gammaln(d / 2))
    scores = distance_scores(np.zeros((events, d)), rng.normal(0.0, sd, (events, n, d)))[0]
    standard_error = scores.std() / np.sqrt(events)
    assert scores.mean() == pytest.approx(sd * radius * (1.0 - 1.0 / np.sqrt(2.0)), abs=4 * standard_error)


def test_large_numbers_of_samples_are_scored_in_blocks() -> None:
    """How many distances are held at a time changes nothing."""
    rng = np.random.default_rng(5)
    truth, samples = rng.normal(size=(9, 2, 3)), rng.normal(size=(9, 40, 2, 3))
    whole, parts = (evaluate(POSITIONS, _answers(truth, samples), **given) for given in ({}, {"held": 500}))
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-9, err_msg=name)
    flat = truth.reshape(9, 6), samples.reshape(9, 40, 6)
    for all_at_once, in_blocks in zip(distance_scores(*flat), distance_scores(*flat, held=500), strict=True):
        np.testing.assert_allclose(in_blocks, all_at_once, rtol=1e-9)


def _six(bias: float, width: float, n: int = 99) -> SimpleNamespace:
    """Return the scores of a posterior of two atoms with the given faults; (0, 1) is right."""
    rng = np.random.default_rng(6)
    centre = rng.normal(0.0, 3.0, (2500, 1, 2, 3))
    truth = centre[:, 0] + rng.normal(size=(2500, 2, 3))
    return _row(truth, centre + bias + width * rng.normal(size=(2500, n, 2, 3)))


def test_the_right_posterior_scores_best() -> None:
    """Too narrow, too wide, beside the truth: worse by both rules, and each fault has its mark."""
    right, narrow, wide, beside = _six(0.0, 1.0), _six(0.0, 0.5), _six(0.0, 1.8), _six(0.8, 1.0)
    for wrong in (narrow, wide, beside):
        assert wrong.energy_score > 1.03 * right.energy_score
        assert wrong.crps > 1.03 * right.crps
    assert right.within_samples == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / 2500))
    assert right.coverage_90 == pytest.approx(0.9, abs=0.01)
    assert (narrow.coverage_90, wide.coverage_90) == pytest.approx((0.59, 0.997), abs=0.02)
    assert narrow.within_samples < 0.6
    assert 0.6 < beside.within_samples < 0.9
    assert wide.within_samples > 0.99


@pytest.mark.parametrize("n", [20, 50])
def test_within_samples_is_right_for_any_number_of_samples(n: int) -> None:
    """95 % of truths that are drawn like the samples are within them."""
    share = _six(0.0, 1.0, n).within_samples
    assert share == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / 2500))


def test_a_point_has_no_inside() -> None:
    """One sample, or a hundred times the same: within and coverage cannot be said."""
    truth = np.random.default_rng(1).normal(size=(30, 2, 3))
    same = np.full((30, 50, 6), 0.123)
    assert np.isnan(distance_scores(truth.reshape(30, 6), same)[1]).all()
    single = _row(truth, np.zeros((30, 1, 2, 3)))
    assert np.isnan(single.within_samples)
    assert np.isnan(single.coverage_90_low)
    assert single.energy_score == pytest.approx(np.linalg.norm(truth.reshape(30, 6), axis=1).mean())
    assert single.crps == pytest.approx(single.mae_mean)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Mean, median and 95th percentile of 250 skewed events: 95 % of the intervals, nearly."""
    held = {"atom_error_mean": 0, "atom_error_median": 0, "atom_error_p95": 0}
    true = dict(zip(held, (2.0, stats.gamma(2).median(), stats.gamma(2).ppf(0.95)), strict=True))
    repeats = 200
    for k in range(repeats):
        drawn = np.random.default_rng((7, k)).gamma(2.0, size=(250, 2))
        row = summarise(dict.fromkeys(held, drawn), resamples=200, seed=k)
        for name in held:
            held[name] += row[f"{name}_low"] <= true[name] <= row[f"{name}_high"]
    for name, count in held.items():
        assert 0.90 < count / repeats < 0.985, name


def test_intervals_follow_events_not_atoms() -> None:
    """Atoms of an event that err together are one observation: the interval is the wider."""
    values = np.random.default_rng(8).normal(5.0, 1.0, (400, 1))
    row = summarise({"atom_error_mean": np.repeat(values, 25, axis=1)}, seed=1)
    half = (row["atom_error_mean_high"] - row["atom_error_mean_low"]) / 2.0
    assert half == pytest.approx(1.96 / np.sqrt(400), rel=0.15)
    again = summarise({"atom_error_mean": np.repeat(values, 25, axis=1)}, seed=1)
    assert row == again


def test_what_is_missing_is_left_out_and_what_is_infinite_stays() -> None:
    """NaN is no number and counts nowhere; one infinite score makes the mean infinite."""
    values = np.array([1.0, 3.0] * 20)
    holes = np.where(np.arange(40) < 20, values, np.nan)
    assert summarise({"crps": holes})["crps"] == 2.0
    assert np.isnan(summarise({"crps": np.full(40, np.nan)})["crps"])
    values[0] = np.inf
    row = summarise({"nll": values, "resimulation": values[:, None]})
    assert row["nll"] == row["nll_high"] == np.inf
    assert row["resimulation"] in (1.0, 3.0)


def test_errors_of_bonds_and_angles() -> None:
    """OCS bent by 10 and by 30 degrees with stretched bonds: the mean of samples is 20, and judged."""
    ocs = Molecule.load("ocs")

    def bent(angle: float, stretch: float) -> np.ndarray:
        t = np.radians(180.0 - angle)
        s = 3.0 + stretch
        return np.array([[0.0, 0, 0], [2.0 + stretch, 0, 0], [s * np.cos(t), s * np.sin(t), 0]])

    samples = np.array([[bent(10.0, 0.1), bent(30.0, 0.3)]])
    truth = bent(15.0, 0.0)[None]
    errors = _answers(truth, samples).internal
    assert errors["bond"][0] == pytest.approx(0.2)
    assert errors["angle"][0] == pytest.approx(5.0)
    assert np.isnan(_answers(truth, samples, replace(ocs, bonds=())).internal["angle"][0])


class _Answers:
    """What a comparison needs of a model, with samples that are given."""

    frame = SimpleNamespace(invariant=True)
    network = sampler = SimpleNamespace(
        has_density=False,
        is_point=False,
        parameters=lambda: iter([torch.zeros(3, requires_grad=True)]),
    )

    def __init__(self, samples: np.ndarray, molecule: Molecule) -> None:
        self.molecule = molecule
        self.training = TrainingRecord()
        self._samples = samples.astype(np.float32)

    def stream(self, events: Events, n: int, **_: Any) -> Iterator[PosteriorSamples]:
        for rows in (slice(0, 13), slice(13, None)):
            part, x = events[rows], self._samples[rows, :n]
            yield PosteriorSamples(part.molecule, part.momenta, x, None, part.event_id, np.ones(len(part)))


@pytest.fixture
def nothing_unlike(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_Answers` were trained on nothing that events could be unlike."""
    flags = lambda _model, events, *_: {"ker": np.zeros(len(events), dtype=bool)}  # noqa: E731
    monkeypatch.setattr("flowcei.evaluation.comparison.unlike_training", flags)


@pytest.mark.usefixtures("nothing_unlike")
def test_answers_are_judged_in_the_frame_of_the_momenta() -> None:
    """The truth as the answer has no error; its momenta miss by the noise, 1 % of sqrt(3N)."""
    events = simulate("ch2o", 40, noise="1%", seed=6)
    assert events.positions is not None
    truth = np.repeat(events.positions[:, None], 30, axis=1)
    swapped = truth[:, :, [0, 1, 3, 2]]
    coincident = truth.copy()
    coincident[::2, ::2] = 0.0
    answers = {"right": truth, "swapped": swapped, "coincident": coincident}
    table = compare({k: _Answers(v, events.molecule) for k, v in answers.items()}, events, n=30).table  # type: ignore[misc]
    right = table.loc["right"]
    for name in ("mse_mean", "atom_error_p95", "bond_mae", "angle_mae", "energy_score", "crps"):
        assert right[name] < 1e-4, name
    assert right["resimulation"] == pytest.approx(right["resimulation_truth"], rel=1e-3)
    assert 0.8 < right["resimulation_truth"] < 1.2
    assert table.loc["swapped", "atom_error_p95"] > 1.0
    assert table.loc["swapped", "resimulation"] > 10.0
    assert table.loc["coincident", "resimulation"] < 2.0  # three in four can be simulated
    assert right["parameters"] == 3
    assert table.loc["floor", "atom_error_mean"] > 0


@pytest.mark.usefixtures("nothing_unlike")
def test_an_exact_posterior_explains_the_momenta_as_well_as_the_truth_does() -> None:
    """h2o, whose hydrogens carry the momentum sum: the errors of samples are those of the truth.

    Geometries whose momenta are the centred measured ones with a fresh draw of their noise are
    samples of the posterior for a prior that is flat in momenta: truth and sample are then
    exchangeable. The searches that find them know nothing of the comparison.
    """
    events = simulate("h2o", 400, noise="1%", seed=6)
    assert events.positions is not None
    assert events.sigma is not None
    rng = np.random.default_rng(7)
    noise = events.sigma[:, None, None, None] * rng.standard_normal((400, 8, 3, 3))
    fresh = (centred_momenta(events.momenta, events.molecule.masses)[:, None] + noise).reshape(-1, 3, 3)
    known = Likelihood(events.molecule.masses, events.molecule.charges, fresh, np.ones(len(fresh)))
    ends = refine(known, np.repeat(events.positions, 8, axis=0)[:, None])
    assert (ends.error < 1e-3).mean() > 0.99
    samples = ends.positions.reshape(400, 8, 3, 3)
    table = compare({"exact": _Answers(samples, events.molecule)}, events, n=8).table  # type: ignore[dict-item]
    row = table.loc["exact"]
    # The median of 400 errors of 6 normal components each is known to 0.3 / sqrt(6 x 400) of itself.
    assert row["resimulation"] == pytest.approx(row["resimulation_truth"], rel=0.03)


def test_the_frame_of_a_comparison_is_that_of_the_spread() -> None:
    """Null models answer in the recoil frame of `in_recoil_frame`: their scores are found again."""
    events = simulate("ch2o", 60, noise="1%", seed=6)
    assert events.positions is not None
    truth = in_recoil_frame(events.molecule, events.momenta, events.positions[:, None])[:, 0]
    rng = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(1,)))
    expected = _row(truth, null_samples("marginal", truth, 25, rng))
    found = compare({}, events, n=25, seed=3).table.loc["marginal"]
    for name in ("mse_mean", "std_mae_sample", "coverage_50", "energy_score", "within_samples"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-9), name


def test_a_mean_of_geometries_is_not_labelled_by_its_bonds() -> None:
    """HCOH: the mean H of the O lies beside the O, where the bond list would take it for another.

    The null model of the mean has a standardised squared error of 1, as the docs say.
    """
    hcoh = Molecule.from_dict(
        {
            "name": "hcoh",
            "symbols": ["C", "O", "H", "H"],
            "charges": [1, 1, 1, 1],
            "bonds": [["c", "o"], ["c", "h1"], ["o", "h2"]],
            "equilibrium": {
                "unit": "angstrom",
                "positions": [[0, 0, 0], [1.31, 0, 0], [-0.38, 1.04, 0], [1.63, -0.91, 0]],
            },
            "priors": {"equilibrium": {"kind": "displaced", "sigma": 0.2}},
        }
    )
    table = compare({}, simulate(hcoh, 300, prior="equilibrium", noise="1%", seed=1), n=20).table
    assert table.loc["mean", "std_mse_mean"] == pytest.approx(1.0, abs=0.1)
    assert table.loc["marginal", "std_mse_sample"] == pytest.approx(2.0, abs=0.3)


class _Normal(InverseModel):
    """Standardised charts are N(0.3, 1), whatever the condition."""

    architecture = "normal"
    options_type = ModelOptions
    has_density = True

    def log_prob(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(0.3, 1.0).log_prob(x).sum(dim=1) + 0.0 * c[:, 0]

    def loss(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return -self.log_prob(x, c)

    def sample_with_log_prob(
        self, c: torch.Tensor, n: int, *, generator: np.random.Generator, **_: Any
    ) -> tuple[torch.Tensor, None]:
        drawn = torch.from_numpy(generator.normal(0.3, 1.0, (len(c), n, self.width)))
        return drawn.float(), None


class _Bounded(_Normal):
    has_density = False

    def iwae_bound(self, x: torch.Tensor, c: torch.Tensor, **_: Any) -> torch.Tensor:
        return super().log_prob(x, c) - 1.0


def test_density_of_a_known_model_is_per_bohr(tiny_cinn: Reconstructor) -> None:
    """A normal density of the chart, by SciPy and with the Jacobian of the chart by hand."""
    events = simulate("ocs", 300, noise="1%", seed=9)
    assert events.positions is not None
    width, condition = tiny_cinn.frame.width, tiny_cinn.frame.condition_width
    models = {
        kind.__name__: replace(tiny_cinn, sampler=kind(width, condition, ModelOptions()))
        for kind in (_Normal, _Bounded)
    }
    for model in models.values():
        model.network.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    table = compare(models, events, n=10).table
    molecule = events.molecule
    p = events.momenta - (molecule.masses / molecule.masses.sum())[:, None] * events.momenta.sum(
        axis=1, keepdims=True
    )
    ker = kinetic_energy(p, molecule.masses)
    turned = in_recoil_frame(molecule, events.momenta, events.positions[:, None])[:, 0]
    bonds = np.concatenate([turned[:, j] - turned[:, i] for i, j in tiny_cinn.frame.tree], axis=1)
    centre, scale = tiny_cinn.chart_standardiser.mean, tiny_cinn.chart_standardiser.scale
    log_density = stats.norm(centre + 0.3 * scale, scale).logpdf(bonds * ker[:, None]).sum(axis=1)
    expected = -(log_density + 6.0 * np.log(ker)).mean()
    assert table.loc["_Normal", "nll"] == pytest.approx(expected, abs=1e-3)
    assert table.loc["_Bounded", "nll_bound"] == pytest.approx(expected + 1.0, abs=1e-3)
    assert np.isnan(table.loc["_Normal", "nll_bound"])
    assert np.isnan(table.loc["_Bounded", "nll"])
    assert table.loc["_Normal", "nll_low"] < expected < table.loc["_Normal", "nll_high"]


def test_bound_of_an_auto_encoder_tightens(tiny_cvae: Reconstructor, tiny_cinn: Reconstructor) -> None:
    """More draws come closer from below; a seed fixes it; a flow has no bound but the density."""
    events = simulate("ocs", 200, noise="1%", seed=9)
    assert events.positions is not None
    x = events.positions[:, None]
    few, many = (tiny_cvae.log_prob(x, events, draws=k, seed=1).mean() for k in (1, 64))
    assert few < many
    again = tiny_cvae.log_prob(x, events, draws=64, seed=1)
    assert again.shape == (200, 1)
    assert again.mean() == many
    with pytest.raises(NoDensityError, match="no exact density"):
        tiny_cvae.log_prob(x, events)
    exact = tiny_cinn.log_prob(x, events)
    np.testing.assert_array_equal(tiny_cinn.log_prob(x, events, draws=8), exact)


def test_table_and_record_have_every_score() -> None:
    """Columns as `SCORES` say, each with its interval; JSON holds the same numbers, and no NaN."""
    result = compare({}, simulate("ocs", 30, noise="1%", seed=2), n=10)
    table = result.to_dataframe()
    assert list(table.index) == ["mean", "marginal", "floor"]
    for score in SCORES:
        assert score.name in table
        assert (f"{score.name}_low" in table) == (score.block != "run")
    ends = table["atom_error_mean_low"] <= table["atom_error_mean"]
    assert (ends & (table["atom_error_mean"] <= table["atom_error_mean_high"])).all()
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["models"]["mean"]["nll"]["value"] is None
    found = record["models"]["floor"]["atom_error_median"]
    assert found["value"] == table.loc["floor", "atom_error_median"]
    assert record["metrics"]["bond_mae"]["unit"] == "bohr"
    assert repr(result) == "Comparison: mean, marginal, floor on 30 events; best crps: marginal"
    assert "<td>" in result._repr_html_()


def test_one_more_score_is_one_entry() -> None:
    """A score of one's own is in the table with its interval, in the picture and in JSON."""
    worst = Score(
        "worst_atom",
        "bohr",
        "distance of the worst atom of the posterior mean",
        lambda answers: np.linalg.norm(answers.error["mean"], axis=-1).max(axis=1),
        picture=("worst atom", "posterior mean"),
    )
    result = compare({}, simulate("ocs", 40, noise="1%", seed=2), n=10, scores=(*SCORES, worst))
    mean = result.to_dataframe().loc["mean"]
    assert mean["atom_error_mean"] < mean["worst_atom_low"] < mean["worst_atom"] < mean["worst_atom_high"]
    record = result.to_dict()
    assert record["metrics"]["worst_atom"] == {"unit": "bohr", "text": worst.text}
    assert record["models"]["mean"]["worst_atom"]["value"] == mean["worst_atom"]
    with pytest.raises(UsageError, match="each name once"):
        compare({}, simulate("ocs", 40, noise="1%", seed=2), scores=(*SCORES, worst, worst))
    for unit, scale in (("bohr", 1.0), ("angstrom", ANGSTROM)):
        panels = {axes.get_xlabel(): axes for axes in comparison_figure(result, unit).axes}
        assert panels[f"worst atom ({unit})"].patches[0].get_width() == mean["worst_atom"] / scale


def test_no_floor_where_the_noise_is_not_known() -> None:
    """Events without noise have none unless it is said; then it is as of events that say so."""
    events = simulate("ocs", 30, seed=2)
    assert "floor" not in compare({}, events, n=5).table.index
    assert "floor" in compare({}, events, n=5, noise="1%").table.index


def test_json_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compare --json` prints what it writes, and nothing else on stdout."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    assert shell("simulate", "ocs", "-n", "40", "--noise", "1%", "--seed", "5", "-o", "e.h5") == 0
    assert shell("compare", "bundled", "--data", "e.h5", "-n", "20", "--json") == 0
    record = json.loads(shell.out)
    assert record == json.loads(Path("comparison/comparison.json").read_text("utf-8"))
    assert (record["events"], record["samples"]) == (40, 20)
    assert set(record["models"]) == {"bundled", "mean", "marginal", "floor"}
    low, value, high = (record["models"]["bundled"]["crps"][k] for k in ("low", "value", "high"))
    assert 0 < low < value < high < 0.1
    assert shell("compare", "bundled", "--data", "e.h5", "-n", "20", "-o", "again") == 0
    half = (high - low) / 2.0
    for unit, scale, sign in (("bohr", 1.0, "bohr"), ("angstrom", ANGSTROM, "\u00c5")):
        shell("compare", "bundled", "--data", "e.h5", "-n", "20", "-o", unit, "--length-unit", unit)
        (row,) = (line for line in shell.out.splitlines() if line.startswith(f"crps ({sign})"))
        found = re.fullmatch(r"0\.(\d+)\((\d)\)", row.split()[2])
        assert found is not None
        assert abs(float(f"0.{found[1]}") - value / scale) <= 0.51 * 10.0 ** -len(found[1])
        assert abs(int(found[2]) * 10.0 ** -len(found[1]) - half / scale) <= 0.51 * 10.0 ** -len(found[1])
        assert max(map(len, shell.out.splitlines())) <= 80
    assert Path("again/comparison.png").exists()
    assert not Path("again/comparison.json").exists()
