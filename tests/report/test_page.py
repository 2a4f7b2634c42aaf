"""The page holds what it says, lets nothing of a file become a part of it, and works in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from linear import Linear
from shell import Shell

import flowcei
from flowcei.cli.runs import read_metrics
from flowcei.posterior.flags import FLAG_BITS
from flowcei.posterior.samples import PosteriorSamples
from flowcei.report.ensemble import ensemble_section
from flowcei.report.page import SECTIONS, page
from flowcei.report.sections import Material, Picture, Section, data_section, events_section, read_for_page
from flowcei.units import ANGSTROM

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>\u2028$x$'
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class _Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in ("td", "th") and self.cells and data.strip():
            self.cells[-1].append(data.strip())


def _samples(n: int = 30) -> PosteriorSamples:
    events = flowcei.simulate("ocs", n, noise="1%", seed=1)
    return flowcei.load().sample(events, 20, seed=1)


@pytest.fixture(scope="module")
def text() -> str:
    """A page of samples whose names are hostile."""
    samples = _samples()
    object.__setattr__(samples, "origin", samples.origin | {"model": HOSTILE})
    framed = Section("frames", HOSTILE, frames=(Picture(DOT, "first"), Picture(DOT, HOSTILE)), framed=HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowcei.report.page.SECTIONS", (*SECTIONS, lambda _: framed))
        return page(Material(samples, HOSTILE, notes=(HOSTILE,), commands=(HOSTILE,)))


def test_nothing_of_a_file_becomes_a_part_of_the_page(text: str) -> None:
    """No element, no attribute and no script of its own; nothing is loaded from anywhere."""
    parsed = _Page(text)
    assert "alert(1)</script>" not in text.replace("\\u003c", "")
    assert not [
        attributes for _, attributes in parsed.tags if any(name.startswith("on") for name in attributes)
    ]
    assert [tag for tag, _ in parsed.tags].count("script") == 4
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            link = attributes.get(name) or ""
            assert link.startswith(("#", "data:image/png;base64,")) or not link, (tag, link[:80])
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_table_of_bonds_is_that_of_the_samples(text: str) -> None:
    """Medians over all samples together, in angstrom."""
    samples = _samples()
    rows = {row[0]: row for row in reversed(_Page(text).cells) if row}  # the first of a name
    x = samples.positions.astype(float)
    for i, j in samples.molecule.bonds:
        name = f"{samples.molecule.labels[i]}-{samples.molecule.labels[j]}"
        lengths = np.linalg.norm(x[:, :, i] - x[:, :, j], axis=2) / ANGSTROM
        assert rows[name][1] == "angstrom"
        assert float(rows[name][2]) == pytest.approx(np.median(lengths), rel=1e-3)
        assert float(rows[name][5]) == pytest.approx(np.median(lengths.std(axis=1)), rel=1e-3)


def test_events_are_found_by_their_number(text: str) -> None:
    """The table that is searched has every event, with its KER."""
    samples = _samples()
    table = json.loads(re.search(r'id="events-table">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert [row[0] for row in table["rows"]] == samples.event_id.tolist()
    assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_a_section_is_one_entry(text: str) -> None:
    """Each has a heading, and a link to it."""
    links = [a["href"] for tag, a in _Page(text).tags if tag == "a"]
    assert len(links) == len(SECTIONS)  # no model here, and the one of frames
    anchors = [a.get("id") for tag, a in _Page(text).tags if tag == "section"]
    assert links == [f"#{anchor}" for anchor in anchors]


def test_what_is_flagged_is_said_and_not_pooled() -> None:
    """Momenta twice too large are flagged; with all flagged the page is made all the same."""
    events = flowcei.simulate("ocs", 6, noise="1%", seed=2)
    mixed = flowcei.Events(
        events.molecule, events.momenta * np.where(np.arange(6) < 2, 2.0, 1.0)[:, None, None]
    )
    samples = flowcei.load().sample(mixed, 20, noise="1%", seed=1)
    assert "2 events are left out below." in data_section(Material(samples, "e.csv")).words
    assert "left out below" in page(Material(samples[:1], "e.csv"))


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From events to the page in one line; what is wrong is one line, before anything is written."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    flowcei.write_events(flowcei.simulate("ocs", 40, noise="1%", seed=3), tmp_path / "e.csv")
    assert flow("report", "--momenta", "e.csv", "--molecule", "ocs", "-n", "20", "-o", "r.html") == 0, (
        flow.err
    )
    assert "flowcei sample --momenta e.csv" in (tmp_path / "r.html").read_text()
    assert flow("report", "r.report.samples.h5", "-o", "r.html") == 2
    assert "r.html exists" in flow.err
    assert flow("report") == 2
    assert flow("report", "r.report.samples.h5", "--molecule", "ocs", "-o", "m.html") == 2
    assert "--molecule is of events" in flow.err
    assert flow("report", "--momenta", "e.csv", "--molecule", "co2", "-o", "c.html") == 2
    assert "the model is of ocs, not of co2" in flow.err
    assert not (tmp_path / "c.html").exists()


def test_damaged_losses_cost_no_page(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The table beside a model is drawn where it is one; else a line says why not. Only of a run folder."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    flowcei.load().save(tmp_path / "model.safetensors")
    assert read_metrics("model.safetensors") is None
    (tmp_path / "metrics.csv").write_text("epoch,train_loss,validation_loss\n1,2.5,2.0\n2,2.0,1.5\n")
    known = read_metrics("model.safetensors")
    assert known is not None
    assert known["validation_loss"].tolist() == [2.0, 1.5]
    for text in ("epoch,train_loss,validation_loss\n1,1e308,2\n", "", "a,b\n1,2\n", "<script>"):
        (tmp_path / "metrics.csv").write_text(text)
        caplog.clear()
        with caplog.at_level("INFO", "flowcei"):
            assert read_metrics("model.safetensors") is None
        assert "losses of the training are not drawn" in caplog.text
    assert flow("report", "model.safetensors", "-n", "5", "-o", "r.html") == 0, flow.err
    assert "losses of the training are not drawn" in flow.err
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "other.safetensors")
    assert read_metrics("other.safetensors") is None


def test_a_model_that_did_not_draw_the_samples_is_not_taken_for_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled one, named for samples of another prior, is an error."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    samples = _samples(10)
    broad = flowcei.Molecule.load("ocs").prior_table("broad")
    object.__setattr__(samples, "origin", samples.origin | {"prior": broad})
    flowcei.write_samples(samples, tmp_path / "s.h5")
    assert flow("report", "s.h5", "--model", "bundled", "-o", "a.html") == 2
    assert "not the one that drew them" in flow.err


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser(text: str, tmp_path: Path) -> None:
    """Scripts run without a word on the console: tables sort, the structure is drawn."""
    (tmp_path / "page.html").write_text(text)
    words = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    words += ["--disable-background-networking", "--disable-component-update", "--use-gl=angle"]
    words += [
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    words += ["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom"]
    ran = subprocess.run(
        [*words, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in ran.stderr
    shown = _Page(ran.stdout)
    assert [tag for tag, a in shown.tags if a.get("class") == "copy"]
    controls = next(a for _, a in shown.tags if a.get("id") == "viewer-controls")
    assert "hidden" not in controls
    assert "canvas" in [tag for tag, _ in shown.tags]
    first, second = (a for tag, a in shown.tags if tag == "img" and a.get("src", "").endswith(DOT))
    hidden = [a for tag, a in shown.tags if tag == "figure" and "hidden" in a]
    assert len(hidden) == 1  # the slider shows the first frame only
    assert (first["alt"], second["alt"]) == (f"{HOSTILE}, first", f"{HOSTILE}, {HOSTILE}")


def test_exact_geometries_of_like_atoms_have_the_bonds_of_the_table_of_modes() -> None:
    """Whatever the order of the ions in the file: a bond joins the atoms that it joins in modes.csv."""
    events = flowcei.simulate("h2o", 4, noise="0.5%", seed=2)
    assert events.positions is not None
    noise = np.random.default_rng(0).normal(0.0, 0.02, (4, 30, 3, 3))
    x = (events.positions[:, None] + noise)[:, :, [0, 2, 1]].astype(np.float32)
    origin = {"prior": events.molecule.priors["equilibrium"], "noise_relative": True}
    p = events.momenta[:, [0, 2, 1]]
    samples = PosteriorSamples(events.molecule, p, x, None, np.arange(4), events.sigma, origin=origin)
    material = Material(samples, "e.csv")
    (table,) = events_section(material).tables
    known = material.modes.to_dataframe()
    bonds = [name for name in table.columns if "angstrom" in name]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows if row[2].startswith("exact")]
    assert rows
    for row in rows:
        mode = known[(known["event"] == row["number"]) & (known["mode"] == int(row["geometry"][7:]))].iloc[0]
        for name in bonds:
            assert row[name] == pytest.approx(mode[name.split(" ")[0]] / ANGSTROM, rel=1e-9)


def test_the_ensemble_has_a_frame_for_each_delay() -> None:
    """Law, what is said of shares, and frames; where the events are too few it says so."""
    rng, truth, blocks = np.random.default_rng(1), Linear(), list[PosteriorSamples]()
    for delay in np.arange(5.0):
        few = truth.samples(truth.measured(40, rng), 120, rng)
        blocks.append(replace(few, columns=few.columns | {"delay": np.full(40, delay)}))
    samples = PosteriorSamples.concatenate(blocks)
    section = ensemble_section(Material(samples, "e.h5"))
    assert len(section.frames) == 20, section.words
    assert (section.framed, section.frames[0].words) == ("Mean geometry along the delay", "delay = 0")
    assert "No shares of two pathways or isomers: the laws are separate at no value" in section.words[1]
    still = replace(samples, columns={"r_hat": samples.columns["r_hat"]})
    rows = {row[0]: row for row in ensemble_section(Material(still, "e.h5")).tables[0].rows}
    assert rows["c-s"][1:3] == ("angstrom", pytest.approx(3.3 / ANGSTROM, abs=0.03))
    few = ensemble_section(Material(still[:10], "e.h5"))
    assert few.words[0].startswith("No law of all events together: 10 events are too few")


def test_a_page_holds_no_more_of_a_file_than_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read two events at a time it is the page of all that is in memory: flagged and thinned ones too."""
    samples = _samples(11).weigh()
    samples.flags[[2, 7]] = FLAG_BITS["ker"]
    flowcei.write_samples([samples], tmp_path / "s.h5")
    monkeypatch.setattr("flowcei.report.sections._POOLED", 4)
    sizes, read = list[int](), h5py.Dataset.__getitem__

    def counted(*args: Any) -> Any:
        array = read(*args)
        sizes.append(np.size(array))
        return array

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    one, shown = read_for_page(tmp_path / "s.h5", 40)
    assert max(sizes) <= 40 * 9
    assert one.positions.shape[1] == 1
    assert len(shown) == 3
    whole = page(Material(samples, "s.h5"))
    assert page(Material(one, "s.h5", shown=shown)) == whole
