"""Checks of posteriors: right ones pass at the stated rate, each wrong one fails with the right word."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import binom, kstest, norm
from shell import Shell

import flowcei
from flowcei.errors import DataError, FlaggedWarning, UsageError
from flowcei.evaluation.calibration import calibrate
from flowcei.evaluation.uniformity import ecdf_band, ecdf_difference
from flowcei.evaluation.verdicts import (
    HPD,
    CalibrationRules,
    Ranks,
    Verdict,
    check_coverage,
    check_regions,
    check_resimulation,
    check_sbc,
    check_tarp,
    coverage_band,
    rank,
    regions_of,
    regions_table,
    tarp_distances,
)
from flowcei.experiment.likelihood import Likelihood
from flowcei.reconstruction.model import Reconstructor
from flowcei.report.judging import coverage_figure, joint_figure, sbc_figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.posterior.samples import PosteriorSamples

Tiny = Callable[[str, str], Reconstructor]
KINDS = ("sbc", "coverage", "tarp", "resimulation")
NOISE = 0.5


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))


def run_sbc(
    samples: NDArray, truth: NDArray, *, weights: NDArray | None = None, names: str = "xyz", seed: int = 0
) -> Ranks:
    """Rank the truth among samples, in every coordinate."""
    return Ranks(tuple(names[: truth.shape[1]]), rank(samples, truth, weights, _generator(seed)))


def run_tarp(
    samples: NDArray,
    truth: NDArray,
    *,
    weights: NDArray | None = None,
    references: NDArray | None = None,
    deviation: NDArray | None = None,
) -> Ranks:
    """Rank the truth by its distance from random points, drawn like it where none are given."""
    rng = _generator(0)
    scale = truth.std(axis=0) if deviation is None else deviation
    points = (
        truth.mean(axis=0) + scale * rng.standard_normal(truth.shape) if references is None else references
    )
    return Ranks(("joint",), rank(*tarp_distances(samples, truth, points, scale), weights, rng))


def with_density(central: Ranks, highest: Ranks) -> Ranks:
    """Ranks of coordinates and of the density together, as coverage takes them."""
    return Ranks((*central.names, HPD), np.concatenate([central.values, highest.values], axis=1))


@dataclass(frozen=True)
class _Gaussian:
    """Truth theta ~ N(0, 1)^3, measured with noise 0.5; samples of a posterior made wrong on purpose."""

    truth: NDArray
    samples: NDArray
    log_prob: NDArray
    truth_log_prob: NDArray
    chi2: NDArray
    truth_chi2: NDArray
    right: NDArray  # log density of the samples under the right posterior

    @classmethod
    def of(
        cls, seed: int, *, events: int = 1000, n: int = 100, width: float = 1.0, bias: float = 0.0
    ) -> _Gaussian:
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=(events, 3))
        measured = truth + NOISE * rng.normal(size=(events, 3))
        deviation = NOISE / np.sqrt(1 + NOISE**2)
        right = measured[:, None] / (1 + NOISE**2)
        mean = right + bias * deviation
        samples = mean + width * deviation * rng.normal(size=(events, n, 3))

        def density(x: NDArray, centre: NDArray, scale: float) -> NDArray:
            return norm.logpdf(x, centre, scale).sum(axis=2)

        def misfit(x: NDArray) -> NDArray:
            return (((x - measured[:, None]) / NOISE) ** 2).sum(axis=2)

        return cls(
            truth,
            samples,
            density(samples, mean, width * deviation),
            density(truth[:, None], mean, width * deviation)[:, 0],
            misfit(samples),
            misfit(truth[:, None])[:, 0],
            density(samples, right, deviation),
        )

    def weights(self) -> NDArray:
        ratio = np.exp(self.right - self.log_prob)
        return ratio / ratio.sum(axis=1, keepdims=True)

    def verdicts(self, weights: NDArray | None = None) -> dict[str, list[Verdict]]:
        central = run_sbc(self.samples, self.truth, weights=weights)
        highest = run_sbc(-self.log_prob[..., None], -self.truth_log_prob[:, None], weights=weights)
        chi2 = run_sbc(self.chi2[..., None], self.truth_chi2[:, None], weights=weights)
        return {
            "sbc": check_sbc(central),
            "coverage": check_coverage(with_density(central, highest)),
            "tarp": check_tarp(run_tarp(self.samples, self.truth, weights=weights)),
            "resimulation": check_resimulation(chi2),
        }


def test_right_posteriors_pass_as_often_as_stated() -> None:
    """1 % of right posteriors fail a kind of check; its tests are conservative where discrete."""
    runs = 300
    failed = dict.fromkeys(KINDS, 0)
    for seed in range(runs):
        for kind, found in _Gaussian.of(seed, events=300, n=25).verdicts().items():
            failed[kind] += not all(verdict.passed for verdict in found)
    allowed = binom.ppf(0.9999, runs, 0.01)
    assert all(count <= allowed for count in failed.values()), failed
    assert sum(failed.values()) > 0  # a check that cannot fail is none


@pytest.mark.parametrize(
    ("wrong", "word"), [({"width": 0.7}, "too narrow"), ({"width": 1.4}, "too wide")], ids=["narrow", "wide"]
)
def test_a_wrong_width_fails_every_check_by_its_name(wrong: dict[str, float], word: str) -> None:
    """Each check of each quantity, and SBC tells by how much."""
    for kind, found in _Gaussian.of(1, **wrong).verdicts().items():
        for verdict in found:
            assert not verdict.passed, verdict
            assert word in verdict.text, verdict
            assert verdict.check == kind
            assert verdict.p_value < 0.01
            if kind == "sbc":
                assert "biased" not in verdict.text
                stated = float(verdict.text.split("about ")[1].split()[0])
                assert stated == pytest.approx(wrong["width"], rel=0.1)


def test_a_narrow_posterior_covers_what_the_normal_distribution_says() -> None:
    """Coverage of central intervals of 0.7 of the deviation: closed form, within 4 deviations."""
    case = _Gaussian.of(5, events=4000, width=0.7)
    levels = CalibrationRules().levels
    share = run_sbc(case.samples, case.truth).coverage(levels)
    wanted = 2 * norm.cdf(0.7 * norm.ppf(0.5 + np.asarray(levels) / 2)) - 1
    bound = 4 * np.sqrt(wanted * (1 - wanted) / 4000) + 0.01  # intervals of 100 samples are coarse
    assert (np.abs(share - wanted[:, None]) < bound[:, None]).all()


@pytest.mark.parametrize(("bias", "word"), [(0.3, "biased up by 0."), (-0.3, "biased down by 0.")])
def test_a_bias_fails_sbc_with_its_size(bias: float, word: str) -> None:
    """All quantities, up or down, 0.3 of a deviation within its error; the width is not blamed."""
    for verdict in _Gaussian.of(2, events=2000, bias=bias).verdicts()["sbc"]:
        assert not verdict.passed
        assert word in verdict.text
        assert "too" not in verdict.text
        stated = float(verdict.text.split(" by ")[1].split()[0])
        assert stated == pytest.approx(0.3, abs=0.08)


def test_a_wrong_correlation_fails_tarp_alone() -> None:
    """Right marginals, independent where the truth is correlated: SBC cannot see it."""
    rng = np.random.default_rng(3)
    common = rng.normal(size=(3000, 1))
    truth = 0.95 * common + np.sqrt(1 - 0.95**2) * rng.normal(size=(3000, 3))
    samples = rng.normal(size=(3000, 100, 3))
    assert all(v.passed for v in check_sbc(run_sbc(samples, truth)))
    assert not check_tarp(run_tarp(samples, truth))[0].passed


def test_weights_make_a_wrong_proposal_right() -> None:
    """Wide, biased samples fail; with importance weights they pass; with those of others they fail."""
    case = _Gaussian.of(4, n=400, width=1.5, bias=0.3)
    weights = case.weights()
    for found in case.verdicts(weights).values():
        assert all(verdict.passed for verdict in found), found
    for wrong in (None, np.roll(weights, 1, axis=1)):
        assert not any(v.passed for v in case.verdicts(wrong)["sbc"])


def test_equal_weights_are_no_weights() -> None:
    """To rounding, ties included."""
    rng = np.random.default_rng(6)
    samples, truth = rng.integers(0, 5, (200, 30, 2)), rng.integers(0, 5, (200, 2))
    plain = run_sbc(samples, truth, seed=1)
    np.testing.assert_allclose(
        run_sbc(samples, truth, weights=np.full((200, 30), 1 / 30), seed=1).values, plain.values, atol=1e-12
    )
    # Truth and samples are exchangeable, so ranks are uniform although most are ties.
    assert kstest(plain.values[:, 0], "uniform").pvalue > 1e-3


def test_points_of_reference_are_not_the_truth_drawn_with_the_same_seed() -> None:
    """Positions from a generator with seed 0, a calibration with seed 0: TARP passes."""
    events = flowcei.simulate("ocs", 200, noise="1%", seed=0)
    result = calibrate(flowcei.load(), events, n=20, seed=0)
    assert all(v.passed for v in result.verdicts if v.check == "tarp")


def test_bands_hold_what_they_say() -> None:
    """Fresh uniform ranks stay in the simultaneous band 95 % of the time; one level by itself too."""
    events, runs = 250, 2000
    _, low, high = ecdf_band(events, 1, level=0.05)
    rng = np.random.default_rng(7)
    difference = ecdf_difference(rng.random((events, runs)))[1]
    inside = ((difference >= low[:, None] - 1e-12) & (difference <= high[:, None] + 1e-12)).all(axis=0)
    assert abs(inside.mean() - 0.95) < 0.02
    ranks = Ranks(("x",), rng.random((1000, 1)))
    left, right = coverage_band(ranks, CalibrationRules(level=0.05, levels=(0.5,)))
    assert (float(left[0]), float(right[0])) == pytest.approx((0.469, 0.531))  # 0.5 -+ 1.96 sqrt(.25/1000)


def test_ranks_need_numbers() -> None:
    """NaN has no rank, and says so."""
    with pytest.raises(UsageError, match="not numbers"):
        run_sbc(np.zeros((4, 5, 2)), np.full((4, 2), np.nan))


@pytest.mark.slow
def test_sbi_finds_the_same_ranks_and_curve() -> None:
    """sbi's SBC ranks are ours, rank by rank; its TARP curve is the ECDF of ours."""
    pytest.importorskip("sbi", exc_type=ImportError)
    import torch
    from sbi.diagnostics.sbc import _run_sbc
    from sbi.diagnostics.tarp import _run_tarp
    from sbi.diagnostics.tarp import check_tarp as sbi_check

    case = _Gaussian.of(8, events=400, n=50, width=0.7)
    truth, drawn = torch.from_numpy(case.truth), torch.from_numpy(case.samples.transpose(1, 0, 2).copy())
    ranks = _run_sbc(truth, truth, drawn, show_progress_bar=False).numpy()
    ours = run_sbc(case.samples, case.truth).values
    np.testing.assert_array_equal(np.floor(ours * 51), ranks)
    references = np.random.default_rng(9).normal(size=case.truth.shape)
    ecp, alpha = _run_tarp(drawn, truth, torch.from_numpy(references), num_bins=7)
    found = run_tarp(case.samples, case.truth, references=references, deviation=np.ones(3))
    shares = np.floor(found.values * 51) / 50  # none on an edge of the bins
    ecdf = [(shares <= edge + 1e-6).mean() for edge in alpha.numpy()[1:]]
    np.testing.assert_allclose(ecdf, ecp.numpy()[1:], atol=1e-5)
    assert sbi_check(ecp, alpha)[0] < 0
    assert "narrow" in check_tarp(found)[0].text


def test_noise_that_is_misstated_is_seen() -> None:
    """The bundled model passes; told three times the noise it is too wide, told a third too narrow."""
    events = flowcei.simulate("ocs", 300, noise="1%", seed=21)
    model = flowcei.load()
    found = calibrate(model, events, n=50)
    assert found.passed, found.to_dataframe()
    names = [*model.frame.names("cos"), "c-o", "c-s", "o-c-s"]
    assert list(found.sbc.names) == names
    assert list(found.coverage.names) == [*names, HPD]
    wide = calibrate(model, events, n=50, noise="3%")
    texts = [v.text for v in wide.verdicts if v.check == "sbc" and not v.passed]
    assert texts
    assert all("too wide" in text for text in texts)
    assert "too wide" in next(v.text for v in wide.verdicts if v.check == "resimulation")
    narrow = calibrate(model, events, n=50, noise="0.3%", keep_flagged=True)
    assert "too narrow" in next(v.text for v in narrow.verdicts if v.quantity == HPD)
    assert not narrow.passed


def test_events_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples arrive in pieces: verdicts hold, and every event is judged against its own truth."""
    events = flowcei.simulate("ocs", 300, noise="1%", seed=22)
    whole = calibrate(flowcei.load(), events, n=50)
    stream = Reconstructor.stream

    def cut(*given: Any, **options: Any) -> Iterator[PosteriorSamples]:
        for part in stream(*given, **options):
            yield from (part[first : first + 64] for first in range(0, len(part), 64))

    monkeypatch.setattr(Reconstructor, "stream", cut)
    parts = calibrate(flowcei.load(), events, n=50)
    # The ranks differ by their ties alone, which lie within 1 / (n + 1).
    np.testing.assert_allclose(parts.sbc.values, whole.sbc.values, atol=1 / 51 + 1e-9)
    np.testing.assert_allclose(parts.coverage.values, whole.coverage.values, atol=2 / 51)
    np.testing.assert_allclose(parts.resimulation.values, whole.resimulation.values, atol=2 / 51)
    np.testing.assert_allclose(parts.tarp.values, whole.tarp.values, atol=2 / 51)


def _compensated(chosen: np.ndarray, seed: int) -> Ranks:
    """Ranks of a posterior that is right on average: too low for some events, too high for the others.

    The truth is N(0.8, 1) for the chosen and N(-0.4, 1) for the others, beside a posterior N(0, 1.15).
    """
    truth = np.random.default_rng(seed).normal(np.where(chosen, 0.8, -0.4))
    return Ranks(("c-s",), norm.cdf(truth, scale=np.sqrt(1.32))[:, None])


def test_a_region_that_another_compensates_is_named() -> None:
    """Averages pass; the region of large angles fails, with its share, direction and mean error."""
    events = flowcei.simulate("ocs", 900, noise="1%", seed=4)
    regions = regions_of(events.molecule, events.momenta)
    assert len(regions) == 19
    wide = next(r for r in regions if r.name.startswith("angle of momenta above"))
    p = events.momenta - events.momenta.mean(axis=1, keepdims=True)
    assert wide.events.sum() == 300
    cosine = (p[:, 1] * p[:, 2]).sum(axis=1) / np.prod(np.linalg.norm(p[:, 1:], axis=2), axis=1)
    # Oxygen and sulphur are the fast ones: the third with the straightest momenta.
    assert (cosine[wide.events] < np.quantile(cosine, 0.4)).mean() > 0.95
    ranks = _compensated(wide.events, 1)
    assert all(v.passed for v in check_sbc(ranks))
    assert all(v.passed for v in check_coverage(ranks))
    errors = np.where(wide.events, -0.28, 0.14)[:, None]
    verdict = check_regions(ranks, regions_table(ranks, errors, regions), regions, {"c-s": "bohr"})[0]
    assert not verdict.passed
    assert verdict.p_value < 1e-6
    assert verdict.text.startswith(f"with {wide.name} (300 events) the central 50 % hold")
    assert "biased down" in verdict.text
    assert verdict.text.endswith("mean error -0.15 angstrom")


def test_what_only_a_tenth_has_is_not_diluted() -> None:
    """A bias and low weights of the straightest tenth: it is named, not the third that it is a part of."""
    events = flowcei.simulate("ocs", 2000, noise="1%", seed=4)
    regions = regions_of(events.molecule, events.momenta)
    straight, tenth = (r for r in regions if r.name.startswith("angle of momenta above"))
    assert (tenth.events.sum(), (tenth.events & straight.events).sum()) == (200, 200)
    u = np.random.default_rng(2).random(2000)
    ranks = Ranks(("c-s",), np.where(tenth.events, u**0.5, u)[:, None])
    table = regions_table(ranks, np.zeros((2000, 1)), regions)
    assert check_regions(ranks, table, regions, {})[0].text.startswith(f"with {tenth.name} (200 events)")
    assert sum(r.events.sum() for r in regions if r.name.count("KER")) == 2000 * 2 + 400


def test_right_posteriors_fail_by_regions_no_more_often_than_stated() -> None:
    """Of 300 sets of uniform ranks 3 should fail at 1 %; 9 or more happen once in 250 such tests."""
    events = flowcei.simulate("ocs", 200, noise="1%", seed=4)
    regions, rng = regions_of(events.molecule, events.momenta), np.random.default_rng(7)
    failed = 0
    for _ in range(300):
        ranks = Ranks(("c-o", "c-s"), rng.random((200, 2)))
        table = regions_table(ranks, np.zeros((200, 2)), regions)
        failed += not all(v.passed for v in check_regions(ranks, table, regions, {}))
    assert failed < 9


def test_regions_of_two_ions_and_of_few_events() -> None:
    """Two momenta are always opposite: energies alone; regions with fewer than 30 events are none."""
    pair = replace(
        flowcei.Molecule.load("ocs"),
        symbols=("C", "O"), labels=("c", "o"), charges=np.array([1.0, 1.0]), bonds=((0, 1),),
        masses=np.array([21894.0, 29157.0]), equilibrium=np.array([[0.0, 0, 0], [2.1, 0, 0]]),
    )  # fmt: skip
    momenta = np.random.default_rng(1).normal(size=(120, 2, 3))
    assert [r.name.split()[0] for r in regions_of(pair, momenta)] == ["KER"] * 3  # tenths have 12 events
    events = flowcei.simulate("ocs", 50, noise="1%", seed=4)
    assert regions_of(events.molecule, events.momenta) == []
    assert len(calibrate(flowcei.load(), events, n=10).regions) == 0


def test_collapsed_weights_are_called_that(tiny: Tiny) -> None:
    """One effective sample of 20 makes every rank uniform: the flow's own are judged, and it is said."""
    events = flowcei.simulate("ocs", 200, noise="1%", seed=8)
    model = tiny("cinn", "ocs")
    plain, weighed = (calibrate(model, events, n=20, weigh=weigh) for weigh in (False, True))
    verdict = weighed.verdicts[0]
    assert (verdict.check, verdict.passed) == ("weights", False)
    assert verdict.text.startswith("collapsed: of 200 of 200 events")
    assert "sample efficiency" in verdict.text
    assert not weighed.passed
    np.testing.assert_allclose(weighed.sbc.values, plain.sbc.values, atol=1e-12)
    assert HPD in weighed.coverage.names  # its regions too are those of the flow
    np.testing.assert_allclose(weighed.coverage.values, plain.coverage.values, atol=1e-12)
    sound = calibrate(flowcei.load(), events, n=50, weigh=True).verdicts[0]
    assert sound.passed
    assert sound.text.startswith("sample efficiency 9")


def test_the_region_of_the_lowest_efficiency_is_named(off_flow: Callable[[float], Reconstructor]) -> None:
    """As counted by hand from the weights themselves; regions.csv has the efficiency of each."""
    events = flowcei.simulate("ocs", 300, noise="1%", seed=8)
    found = calibrate(off_flow(0.8), events, n=100, weigh=True, seed=2)
    weights = off_flow(0.8).sample(events, 100, seed=2, weigh=True).weights
    assert weights is not None
    efficiency = np.exp(2 * logsumexp(weights.log_weights, 1) - logsumexp(2 * weights.log_weights, 1)) / 100
    own = {r.name: np.median(efficiency[r.events]) for r in regions_of(events.molecule, events.momenta)}
    np.testing.assert_allclose(found.regions["efficiency"], [own[name] for name in found.regions["region"]])
    worst = min(own, key=lambda name: own[name])
    assert found.verdicts[0].text.endswith(f"; lowest with {worst}: {own[worst]:.1%}")


def test_weighed_samples_are_judged_by_their_weights(off_flow: Callable[[float], Reconstructor]) -> None:
    """A flow that is a little off fails; its samples with exact weights pass."""
    events = flowcei.simulate("ocs", 300, noise="1%", seed=23)
    plain, weighed = (calibrate(off_flow(0.5), events, n=400, weigh=weigh) for weigh in (False, True))
    assert not plain.passed
    assert HPD in weighed.coverage.names
    assert weighed.passed


def test_models_without_density_or_posterior(tiny: Tiny) -> None:
    """A CVAE is judged but for HPD regions; points and null models are refused in a line."""
    events = flowcei.simulate("ocs", 60, noise="1%", seed=24)
    found = calibrate(tiny("cvae", "ocs"), events, n=20)
    assert HPD not in found.coverage.names
    assert "no density" in found.left_out[0]
    for name in ("mlp", "nearest", "mean", "marginal"):
        with pytest.raises(UsageError, match="no posterior to check"):
            calibrate(tiny(name, "ocs"), events)
    with pytest.raises(DataError, match="momenta only"):
        calibrate(tiny("cvae", "ocs"), flowcei.Events(events.molecule, events.momenta))
    with pytest.raises(DataError, match="too few"):
        calibrate(tiny("cvae", "ocs"), events[:20])
    with pytest.raises(UsageError, match="too few"):
        calibrate(tiny("cvae", "ocs"), events, n=2)


def test_identical_ions_and_what_cannot_explode(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Water's hydrogens are sorted; a truth that the simulator refuses is left out, and said."""
    events = flowcei.simulate("h2o", 60, noise="1%", seed=25)
    model = tiny("cinn", "h2o")
    swapped = flowcei.Events(
        events.molecule, events.momenta[:, [0, 2, 1]], events.positions[:, [0, 2, 1]], sigma=events.sigma
    )
    once, again = calibrate(model, events, n=20), calibrate(model, swapped, n=20)
    np.testing.assert_allclose(once.sbc.values, again.sbc.values, atol=2 / 21)
    exact = Likelihood.chi_squared

    def refusing(*args: NDArray | None) -> NDArray:
        chi2 = exact(*args)
        if chi2.shape[1] == 1:
            chi2[0] = np.inf
        return chi2

    monkeypatch.setattr(Likelihood, "chi_squared", refusing)
    fewer = calibrate(model, events, n=20)
    assert len(fewer.resimulation) == 59
    assert "1 true geometries" in fewer.left_out[0]


def test_one_true_geometry_without_momenta_is_left_out(tiny: Tiny) -> None:
    """Two ions at one place in a file cost the other events no verdict."""
    events = flowcei.simulate("ocs", 60, noise="1%", seed=24)
    assert events.positions is not None
    x = events.positions.copy()
    x[7, 0] = x[7, 1]
    with pytest.warns(FlaggedWarning, match="1 of 60 events have ions at one place"):
        found = calibrate(tiny("cvae", "ocs"), replace(events, positions=x), n=20)
    assert len(found.sbc) == 59


def test_pictures_show_the_ranks_and_their_failures(tiny: Tiny) -> None:
    """Curves are ECDFs of the ranks, failures are marked, at most six panels."""
    events = flowcei.simulate("ocs", 200, noise="1%", seed=26)
    found = calibrate(tiny("cinn", "ocs"), events, n=20)
    axes = sbc_figure(found).axes
    assert len(axes) == 3
    line = axes[0].lines[0]
    ecdf = (found.sbc.values[:, :1] <= line.get_xdata()).mean(axis=0)
    np.testing.assert_allclose(line.get_ydata() / 100, ecdf - line.get_xdata(), atol=1e-12)
    marked = {label for a in axes for label in a.get_legend_handles_labels()[1] if "fails" in label}
    failed = {f"{v.quantity} (fails)" for v in found.verdicts if v.check == "sbc" and not v.passed}
    assert marked == failed != set()
    assert len(coverage_figure(found).axes) == 4
    assert [a.get_xlabel() for a in joint_figure(found).axes][:2] == ["credibility"] * 2
    many = Ranks(tuple(map(str, range(45))), np.random.default_rng(0).random((50, 45)))
    object.__setattr__(found, "sbc", many)
    assert len(sbc_figure(found).axes) == 6


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_the_command(shell: Shell, tiny: Tiny) -> None:
    """Tables, pictures, JSON; --strict ends with 1 where a check fails and with 0 where none does."""
    assert shell("simulate", "ocs", "-n", "300", "--noise", "1%", "--seed", "8", "-o", "e.h5") == 0
    line = ["calibrate", "bundled", "--data", "e.h5", "-n", "40"]
    assert shell(*line, "--strict") == 0
    assert "none of 24 checks fails" in shell.out
    assert {p.name for p in Path("calibration").iterdir()} == {
        "calibration.csv", "coverage.csv", "regions.csv", "sbc.png", "coverage.png", "joint.png"
    }  # fmt: skip
    table = pd.read_csv("calibration/calibration.csv")
    assert list(table.columns) == ["check", "quantity", "passed", "statistic", "p_value", "text"]
    levels = pd.read_csv("calibration/coverage.csv")
    assert len(levels) == 9 * 10
    assert levels["coverage"].between(levels["low"], levels["high"]).all()
    assert shell(*line) == 2  # the folder is full
    tiny("cinn", "ocs").save("t.safetensors")
    bad = ["calibrate", "t.safetensors", "--data", "e.h5", "-n", "40", "-o", "bad", "--json"]
    assert shell(*bad) == 0
    told = json.loads(shell.out)
    assert told == json.loads(Path("bad/calibration.json").read_text())
    assert told["passed"] is False
    assert shell(*bad, "--overwrite", "--strict") == 1
    tiny("mlp", "ocs").save("p.safetensors")
    assert shell("calibrate", "p.safetensors", "--data", "e.h5", "-o", "p") == 2
    assert "one geometry" in shell.err
    assert not Path("p").exists()


def test_another_prior_is_said(shell: Shell) -> None:
    """Events of a broad prior, a model of the narrow one: the warning explains what fails."""
    words = ["simulate", "ocs", "-n", "60", "--noise", "1%", "--seed", "7", "-o", "b.h5"]
    assert shell(*words, "--prior", "broad") == 0
    shell("calibrate", "bundled", "--data", "b.h5", "-n", "10")
    assert "another prior" in shell.err
