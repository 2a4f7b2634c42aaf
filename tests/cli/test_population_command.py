"""`flowcei population` as a person types it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from linear import OCS, Linear, with_origin
from shell import Shell

import flowcei
from flowcei.posterior.flags import FLAG_BITS


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`typed("population", ...)` runs a command in an empty folder, with 60 events in `e.samples.h5`."""
    monkeypatch.chdir(tmp_path)
    truth, rng = Linear(), np.random.default_rng(7)
    samples = truth.samples(truth.measured(60, rng), 100, rng)
    others = truth.geometries(60, rng)  # momenta of the same law
    momenta = flowcei.asymptotic_momenta(others, samples.molecule.masses, samples.molecule.charges)
    momenta += 0.1 * rng.standard_normal(momenta.shape)
    flowcei.write_samples([replace(samples, momenta=momenta)], "e.samples.h5")
    return Shell(monkeypatch, capsys)


def test_population_writes_tables_and_pictures(typed: Shell) -> None:
    """All files, angstrom on the terminal, bohr in JSON, and whether the run agrees with the law."""
    assert typed("population", "e.samples.h5", "--bootstrap", "3") == 0
    names = {
        "population.h5",
        "table.csv",
        "correlations.csv",
        "unfolded.png",
        "corner.png",
        "correlation.png",
    }
    assert {path.name for path in Path("e-population").iterdir()} == names
    assert "angstrom" in typed.out
    assert "the run agrees with the law" in typed.err
    assert "a wrong momentum scale, charge or mass has such a law too" in typed.err
    assert "flagged" not in typed.err
    assert "bends about a straight line by" in typed.err
    assert typed("population", "e.samples.h5", "--json", "-o", "other", "--bootstrap", "0") == 0
    table = {row["quantity"]: row for row in json.loads(typed.out)["table"]}
    assert table["c-s"]["unit"] == "bohr"
    assert table["c-s"]["mean"] == pytest.approx(3.3, abs=0.06)


def test_a_law_of_few_of_the_events_is_no_law_of_all(typed: Shell) -> None:
    """As where the charges are others, which excludes half of the events and bends the law of the others."""
    samples = flowcei.read_samples("e.samples.h5")
    flags = np.where(np.arange(60) < 21, FLAG_BITS["evidence"], 0).astype(np.uint16)
    flowcei.write_samples([replace(samples, flags=flags)], "few.h5")
    assert typed("population", "few.h5", "--coordinates", "c-s", "--bootstrap", "0") == 0
    assert "39 events (21 flagged)" in typed.err
    assert "warning: so many are flagged" in typed.err


def test_priors_are_compared(typed: Shell) -> None:
    """Shares with errors, a table of events, a picture; two of the same are refused."""
    both = ("--prior", "equilibrium", "--prior", "stretched")
    flowcei.write_samples(
        [with_origin(flowcei.read_samples("e.samples.h5"), prior=OCS.prior_table("wide"))], "w.h5"
    )
    assert typed("compare-priors", "w.h5", *both, "-o", "priors") == 0
    assert {path.name for path in Path("priors").iterdir()} == {
        *("table.csv", "events.csv", "shares.png", "population.h5")
    }
    assert typed("compare-priors", "w.h5", *both[:2], *both[:2]) == 2
    assert "equilibrium and equilibrium are the same prior" in typed.err


def test_delays_are_no_lengths(typed: Shell) -> None:
    """A row for each delay, as it is in the file, whatever the unit of lengths."""
    samples = flowcei.read_samples("e.samples.h5")
    columns = samples.columns | {"delay": np.repeat([100.0, 200.0], 30)}
    flowcei.write_samples([replace(samples, columns=columns)], "movie.h5")
    assert typed("population", "movie.h5", "--by", "delay", "--coordinates", "c-s", "--bootstrap", "0") == 0
    rows = [line.split()[:4] for line in typed.out.splitlines()[1:3]]
    assert rows == [["100", "30", "c-s", "angstrom"], ["200", "30", "c-s", "angstrom"]]
    assert Path("movie-population/series.png").exists()


def test_poor_samples_are_not_pooled(typed: Shell) -> None:
    """Samples of a model far from the posterior, without weights, have no overall table."""
    samples = flowcei.read_samples("e.samples.h5")[:3]
    poor = replace(samples, log_prob=np.zeros(samples.positions.shape[:2]), columns={})
    flowcei.write_samples([poor], "poor.h5")
    assert typed("spread", "poor.h5") == 0
    assert "far from the posterior (efficiency 1.0%): their overall table is not shown" in typed.err
    assert "c-s" not in typed.out
    assert "events pooled under the prior" in typed.err


def test_faults_are_one_line(typed: Shell) -> None:
    """Exit codes of the two kinds of faults, and nothing written."""
    assert typed("population", "e.samples.h5", "--coordinates", "c-h") == 2
    assert "no coordinate 'c-h'; this prior has c-o, c-s, o-c-s" in typed.err
    flowcei.write_samples([flowcei.read_samples("e.samples.h5")[:10]], "few.h5")
    assert typed("population", "few.h5") == 3
    assert "10 events are too few" in typed.err
    assert len(typed.err.strip().splitlines()) == 1
    assert not Path("few-population").exists()


def test_law_of_vibrations_is_of_events(typed: Shell) -> None:
    """As from Python; what it cannot take is one line."""
    events = flowcei.simulate("iodopyridine", 30, noise="1%", seed=1)
    flowcei.write_events(events, "v.h5")
    how = ("--law", "vibrations", "--coordinates", "mode-1")
    assert typed("population", "v.h5", *how, "--truth", "v.h5", "--json") == 0
    law = flowcei.vibrational_law(events, ["mode-1"])
    assert json.loads(typed.out)["table"][0]["sd"] == pytest.approx(law.deviation[0], rel=1e-6)
    assert Path("v-population/unfolded.png").exists()
    for words, said in (
        (("v.h5", *how, "--by", "delay"), "one file of events"),
        (("e.samples.h5", *how), "the events themselves"),
        (("e.samples.h5", "--noise", "1%"), "--noise is of --law vibrations"),
        (("v.h5", *how, "--noise", "0%"), "no noise, or 0"),
    ):
        assert typed("population", *words, "-o", "other") == 2, words
        assert said in typed.err
        assert not Path("other").exists()
