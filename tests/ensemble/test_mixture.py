"""Shares and probabilities of laws are those of closed forms, where posteriors are normal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear import OCS, samples_of, with_origin
from scipy.stats import norm

import flowcei
from flowcei.ensemble.fitting import accident_weight
from flowcei.errors import DataError, UsageError
from flowcei.physics.priors import build_prior

EVENTS, NOISE = 400, 0.08
NEAR, FAR = ((2.95, 0.10), (4.0, 0.15))


def _prior(mean: float, sd: float) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"atom": "c"},
        {"atom": "o", "from": "c", "length": {"uniform": [1.8, 4.0]}},
        {
            "atom": "s",
            "from": "c",
            "length": {"normal": [mean, sd]},
            "angle_to": "o",
            "angle": {"uniform": [60, 180]},
        },
    ]
    return {"kind": "internal", "zmatrix": rows}


@pytest.fixture(scope="module")
def two() -> tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples]:
    """Which events are far, measured lengths, and samples under `broad`, 70 % of them near."""
    rng = np.random.default_rng(1)
    far = rng.random(EVENTS) < 0.3
    mean, sd = np.where(far[:, None], FAR, NEAR).T
    measured = mean + np.hypot(sd, NOISE) * rng.standard_normal(EVENTS)
    lengths = measured[:, None] + NOISE * rng.standard_normal((EVENTS, 200))
    z = np.stack([rng.normal(2.2, 0.1, lengths.shape), lengths], axis=2)
    samples = samples_of(z, rng.uniform(1.0, 60.0, lengths.shape))
    return far, measured, with_origin(samples, prior=OCS.prior_table("broad"))


def _evidence(measured: np.ndarray, law: tuple[float, float]) -> np.ndarray:
    """Log evidence of a normal law over that of a uniform prior of 2.6 bohr, in closed form."""
    return norm(law[0], np.hypot(law[1], NOISE)).logpdf(measured) + np.log(2.6)


def test_evidences_of_priors_are_exact(two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples]) -> None:
    """Log Bayes factors, shares and the probability of each event."""
    far, measured, samples = two
    found = flowcei.compare_priors(samples, [_prior(*NEAR), _prior(*FAR)], check=False)
    exact = np.stack([_evidence(measured, NEAR), _evidence(measured, FAR)], axis=1)
    likely = exact > 0.0  # where no sample reaches nobody knows how improbable it is
    assert found.log_ratio[likely] == pytest.approx(exact[likely], abs=0.35)
    assert found.share[1] == pytest.approx(far.mean(), abs=3 * np.sqrt(0.21 / EVENTS) / 3)
    assert found.error[1] == pytest.approx(np.sqrt(0.21 / EVENTS), rel=0.1)
    assert found.bootstrap_error[1] == pytest.approx(np.sqrt(0.21 / EVENTS), rel=0.25)
    assert ((found.probability[:, 1] > 0.5) == far).mean() > 0.99
    assert found.by_event().shape == (EVENTS, 5)


def test_normal_laws_are_found(two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples]) -> None:
    """Two normals without being told where: shares, means and widths."""
    far, _, samples = two
    found = flowcei.population(samples, ["c-s"], law="mixture", bootstrap=5, check=False)
    assert found.share[1] == pytest.approx(far.mean(), abs=0.01)
    table = found.components()
    assert table["mean"].to_numpy() == pytest.approx([NEAR[0], FAR[0]], abs=0.04)
    assert table["sd"].to_numpy() == pytest.approx([NEAR[1], FAR[1]], rel=0.25)
    assert np.all(table["mean_error"] > 0.002)


def test_what_no_sample_tells_has_no_law(
    two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples],
) -> None:
    """Coordinates in which all events are as the prior are refused before any search."""
    with pytest.raises(DataError, match="the samples tell nothing of c-o, o-c-s: all events have it"):
        flowcei.population(two[2], law="mixture")


def test_accidents_are_of_no_law(two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples]) -> None:
    """Events that are none by P(true) do not count."""
    far, measured, samples = two
    true = np.where(np.abs(measured - FAR[0]) < 0.3, 0.0, 1.0)
    with_true = replace(samples, columns=samples.columns | {"p_true": true})
    found = flowcei.compare_priors(with_true, [_prior(*NEAR), _prior(*FAR)], check=False)
    assert found.share[1] < 0.06
    assert found.probability[far].sum(axis=1).mean() < 0.1
    some = np.where(np.arange(EVENTS) < 7, np.nan, true)
    told = replace(samples, columns=samples.columns | {"p_true": some})[:60]
    found = flowcei.compare_priors(told, [_prior(*NEAR), _prior(*FAR)], check=False)
    assert found.left_out["taken for true, as too few of a kind tell no accidents"] == 7


def test_faults_are_named(two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples]) -> None:
    """A mixture of one and the same, of events that are all alike, or beyond the prior."""
    far, _, samples = two
    with pytest.raises(UsageError, match="broad and broad are the same prior"):
        flowcei.compare_priors(samples, ["broad", "broad"])
    with pytest.raises(UsageError, match="two priors or more"):
        flowcei.compare_priors(samples, ["broad"])
    with pytest.raises(DataError, match=r"2 normal laws are no better than one.*take --law normal"):
        flowcei.population(samples[~far][:150], ["c-s"], law="mixture")
    with pytest.raises(DataError, match="% of the prior prior-2 lies where that of the samples"):
        flowcei.compare_priors(samples, ["broad", _prior(6.0, 0.5)])
    with pytest.raises(UsageError, match="components are those of a mixture"):
        flowcei.population(samples, components=3)
    with pytest.raises(UsageError, match="no law 'free-form'"):
        flowcei.population(samples, law="free-form")


def test_events_that_no_sample_tells_are_refused(
    two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples],
) -> None:
    """Laws so narrow that hardly a sample is within: which one an event is of is then chance."""
    with pytest.raises(DataError, match="of 400 events have fewer than 5 effective samples"):
        flowcei.compare_priors(two[2], [_prior(2.95, 0.001), _prior(4.0, 0.001)], check=False)
    alone = accident_weight(np.array([1.0, 0.5]), np.array([-2000.0, -2000.0]))
    assert alone[0] == 0.0
    assert np.isfinite(alone[1])


def test_a_share_that_is_none_has_a_limit(
    two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples],
) -> None:
    """Of E events that are all of one law: the likelihood (1 - s)^E of the other is 26 % of its peak at s."""
    far, _, samples = two
    table = flowcei.compare_priors(samples[~far], [_prior(*NEAR), _prior(*FAR)], check=False).to_dataframe()
    limit = 1.0 - np.exp(-0.5 * norm.isf(0.05) ** 2 / int((~far).sum()))
    assert table["share"][1] < 1e-3
    assert table["p05"][1] == 0.0
    assert table["p95"][1] == pytest.approx(limit, rel=0.2)
    assert table["p05"][0] == pytest.approx(1.0 - limit, rel=1e-3)


def test_a_wrong_prior_is_named_with_its_file(
    two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples], tmp_path: Path
) -> None:
    """Of two files one is wrong: the line says which."""
    (path := tmp_path / "wrong.toml").write_text('kind = "internal"\nzmatrix = [{ atom = "x" }]\n')
    with pytest.raises(UsageError, match=r"wrong\.toml: "):
        flowcei.compare_priors(two[2], ["broad", str(path)])


def test_a_gate_is_not_passed_over(two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples]) -> None:
    """Shares of what a gate left over are not those of all: whoever pools says so."""
    gated = with_origin(two[2], events={"selection": {"ker_ev": [0.0, 1000.0]}})
    with pytest.raises(UsageError, match="a gate on the KER"):
        flowcei.compare_priors(gated, ["broad", _prior(*FAR)])
    for law in ("mixture", "free"):
        with pytest.raises(UsageError, match="a gate on the KER"):
            flowcei.population(gated, ["c-s"], law=law)


def test_priors_may_be_objects(two: tuple[np.ndarray, np.ndarray, flowcei.PosteriorSamples]) -> None:
    """As they are built of a molecule; the picture has a bar and a curve for each."""
    built = [build_prior(OCS, _prior(*law)) for law in (NEAR, FAR)]
    found = flowcei.compare_priors(two[2][:60], built, check=False)
    figure = found.plot()
    assert len(figure.axes[0].patches) == 2
    assert "prior-1" in repr(found)
    assert "prior-1" in found._repr_html_()
