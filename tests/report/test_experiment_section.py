"""The section of the page on the experiment: what is stated beside what the events say, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import flowcei
from flowcei import Experiment
from flowcei.experiment.missing import LOST, lost_ions
from flowcei.posterior.samples import PosteriorSamples
from flowcei.report.experiment import experiment_section
from flowcei.report.page import SECTIONS
from flowcei.report.sections import Material, Section

BEAM = {"noise": [3.0, 1.5, 1.0], "spread": [2.0, 2.0, 6.0], "drift": [28.0, 0.0, -5.0], "accidents": 0.3}


def _samples(made: Experiment, stated: Experiment, n: int = 900) -> PosteriorSamples:
    """Three samples about the truth of each event, as if they were of the stated experiment."""
    events = flowcei.simulate("ocs", n, experiment=made, seed=2)
    assert events.positions is not None
    x = events.positions[:, None] + np.random.default_rng(0).normal(0.0, 0.05, (n, 3, 3, 3))
    momenta, columns = stated.of(events.molecule).calibrated(events.momenta), dict(events.columns)
    columns["p_true"] = 1.0 - columns.pop("accident") if "accident" in columns else np.ones(n)
    prior = events.molecule.priors["equilibrium"]
    told = {
        "complete": {"events": n, "share": 0.3, "error": 0.02, "share_by_sums": 0.31, "error_by_sums": 0.02}
    }
    origin = {"experiment": stated.to_dict(), "prior": prior, "noise_relative": True, "accidents": told}
    s = events.sigma
    return PosteriorSamples(
        events.molecule, momenta, x.astype(np.float32), None, np.arange(n), s, origin, columns=columns
    )


def _rows(section: Section, table: int = 0) -> dict[str, tuple]:
    return {row[0]: row for row in section.tables[table].rows}


def test_what_is_stated_stands_beside_what_is_measured() -> None:
    """Numbers of the run with their errors; a drift that is stated wrongly is said."""
    made = Experiment(**BEAM, efficiency={"c": 0.8, "o": 0.9, "s": 1.0})
    samples = _samples(made, replace(made, drift=(30.0, 0.0, -5.0)))
    section = experiment_section(Material(samples, "e.h5"))
    rows = _rows(section)
    assert rows["noise x"][1:3] == ("hbar/bohr", "3")
    for name, truth in {"drift x": 28.0, "spread z": 6.0, "accidents": 0.3, "efficiency c": 0.8}.items():
        value, error = rows[name][3].rstrip(")").split("(")
        places = len(value.partition(".")[2])
        assert abs(float(value) - truth) < 4.5 * (int(error) + 0.5) * 10.0**-places, name
    assert [text for text in section.words if text.startswith("The drift x is stated as 30 hbar/bohr")]
    assert not [text for text in section.words if "drift z is stated" in text]
    lost = samples.columns[LOST]
    assert {name: row[1] for name, row in _rows(section, 2).items()} == {
        name: int((lost == k).sum()) for k, name in enumerate(["none", "c", "o", "s"]) if (lost == k).any()
    }
    assert _rows(section, 1)["complete"] == ("complete", 900, "0.30(2)", "0.31(2)")
    assert len(section.pictures) == 2
    assert experiment_section in SECTIONS


def test_a_trusted_prior_tells_scale_and_time_with_their_correlation() -> None:
    """Where the experiment states them; measured about what is stated."""
    made = Experiment(noise="1%", momentum_scale=1.05, build_up="5fs")
    section = experiment_section(Material(_samples(made, made), "e.h5"))
    for name, truth, error in (("momentum_scale", 1.05, 0.02), ("build_up", 5.0, 1.0)):
        assert float(_rows(section)[name][3].split("(")[0]) == pytest.approx(truth, abs=error)
    assert [
        text for text in section.words if text.startswith("Correlation of momentum scale and build-up: 0.9")
    ]


@pytest.mark.parametrize("way", ["bounded", "centred", "few", "none stated"])
def test_what_is_not_measured_is_said(way: str) -> None:
    """Events that were left out by their momenta, or have no sum; too few; no experiment."""
    made = Experiment(noise=2.0, spread=3.0)
    samples = _samples(made, made, 60 if way == "few" else 200)
    if way == "bounded":
        origin = samples.origin | {"events": {"selection": {"max_sum": 6.0}}}
        object.__setattr__(samples, "origin", origin)
    if way == "centred":
        p = samples.momenta
        object.__setattr__(samples, "momenta", p - p.mean(axis=1, keepdims=True))
    if way == "none stated":
        object.__setattr__(samples, "origin", {k: v for k, v in samples.origin.items() if k != "experiment"})
    section = experiment_section(Material(samples, "e.h5"))
    said = {"bounded": "left out by their momenta", "centred": "sum to zero", "few": "60 complete events"}
    assert said.get(way, "No experiment is stated") in " ".join(section.words)
    assert ("measured" in section.tables[0].columns) == (way == "none stated")
    assert lost_ions(samples.columns, 3) is None
