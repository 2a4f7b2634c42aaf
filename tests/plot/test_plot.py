"""Plots show the numbers that they claim to show."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.path import Path as Curve
from matplotlib.text import Text
from shell import Shell

import flowcei
from flowcei import plot
from flowcei.errors import UsageError
from flowcei.plot.figure import EVENT_KINDS, events_figure, plot_events, samples_figure
from flowcei.plot.geometry import corner, predicted, structure
from flowcei.plot.style import save
from flowcei.posterior.samples import PosteriorSamples
from flowcei.units import ANGSTROM, ELECTRONVOLT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes


def _events(molecule: str = "ocs", n: int = 400, noise: str = "1%") -> flowcei.Events:
    return flowcei.simulate(molecule, n, noise=noise, seed=1)


def _samples(molecule: str = "ocs") -> PosteriorSamples:
    events = _events(molecule, 5, "0%")
    assert events.positions is not None
    noise = np.random.default_rng(0).normal(0.0, 0.05, (5, 200, len(events.molecule), 3))
    x = (events.positions[:, None] + noise).astype(np.float32)
    return PosteriorSamples(events.molecule, events.momenta, x, None, np.arange(5) + 10, np.ones(5))


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Figures of pyplot, which is used here, are closed."""
    yield
    plt.close("all")


def _counts(axes: Axes) -> float:
    """Sum of the cells of the histogram in the plane."""
    cells = axes.collections[0].get_array()
    assert cells is not None
    return float(np.ma.filled(cells, 0.0).sum())


@pytest.mark.parametrize("molecule", ["ocs", "ch4"])
def test_a_newton_plot_counts_all_ions_but_the_first(molecule: str) -> None:
    """At equal scales, the first ion at (1, 0); few ions of the tails are outside."""
    events = _events(molecule)
    axes = plot.newton(events)
    expected = len(events) * (len(events.molecule) - 1)
    assert 0.97 * expected <= _counts(axes) <= expected
    assert axes.get_aspect() == 1.0
    assert axes.texts[0].arrow_patch.get_path() is not None
    np.testing.assert_allclose(axes.texts[0].xy, (1.0, 0.0), atol=1e-12)


def test_a_newton_plot_does_not_depend_on_labels_or_orientation() -> None:
    """Momenta turned together, with like ions exchanged, give the same picture."""
    events = _events("h2o")
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = events.momenta[:, [0, 2, 1]] @ (rotation * np.sign(np.linalg.det(rotation)))
    cells = [plot.newton(e).collections[0].get_array() for e in (events, flowcei.Events("h2o", turned))]
    np.testing.assert_allclose(np.ma.filled(cells[0], 0.0), np.ma.filled(cells[1], 0.0), atol=2)


def test_energies_are_those_of_the_momenta() -> None:
    """KER and shares, computed here again, in their bins."""
    events = _events()
    p = (
        events.momenta
        - events.momenta.sum(axis=1, keepdims=True)
        * (events.molecule.masses / events.molecule.masses.sum())[:, None]
    )
    energy = (p**2).sum(axis=2) / (2.0 * events.molecule.masses) / ELECTRONVOLT
    heights = [patch.get_height() for patch in plot.ker(events).patches if hasattr(patch, "get_height")]
    edges = [patch.get_x() for patch in plot.ker(events).patches if hasattr(patch, "get_x")]
    width = edges[1] - edges[0]
    counts, _ = np.histogram(energy.sum(axis=1), [*edges, edges[-1] + width])
    np.testing.assert_array_equal(heights, counts)
    axes = plot.energy_shares(events)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["c", "o", "s"]


def test_one_odd_event_does_not_set_the_scale() -> None:
    """Of a few; the range of sound events is what it was."""
    events = _events(n=40)
    momenta = events.momenta.copy()
    momenta[7] *= 1e6
    for kind in ("ker", "sum"):
        reach, odd = (plot_events(one, kind).get_xlim() for one in (events, replace(events, momenta=momenta)))
        assert np.ptp(odd) < 6.0 * np.ptp(reach)


def test_the_line_of_a_dalitz_plot_holds_every_event() -> None:
    """Momentum conservation allows no event without noise outside; some of bent OCS are well inside."""
    for molecule, prior in {"ocs": "broad", "h2o": "ball"}.items():
        events = flowcei.simulate(molecule, 300, prior=prior, seed=2)
        axes = plot.dalitz(events)
        edge = Curve(axes.lines[0].get_xydata())
        energy = (events.momenta**2).sum(axis=2) / events.molecule.masses
        if events.molecule.identical:
            energy[:, 1:] = -np.sort(-energy[:, 1:], axis=1)
        share = energy / energy.sum(axis=1, keepdims=True)
        points = np.stack([(share[:, 0] - share[:, 2]) / 3**0.5, share[:, 1] - 1 / 3], axis=1)
        # The curve is of 400 points; which side is inside depends on its direction.
        assert max(edge.contains_points(points, radius=r).mean() for r in (-1e-3, 1e-3)) == 1.0
    with pytest.raises(UsageError, match="three ions; ch4 has 5"):
        plot.dalitz(_events("ch4"))


def test_the_sum_of_momenta_is_as_wide_as_the_noise() -> None:
    """The line of the stated noise is a normal density with its width, and lies on the histogram."""
    events = _events(n=4000, noise="2%")
    axes = plot.momentum_sums(events)
    line = next(line for line in axes.lines if line.get_label() == "noise")
    x, density = line.get_xydata().T
    width = np.sqrt(np.trapezoid(density * x**2, x))
    assert events.sigma is not None
    assert width == pytest.approx(np.sqrt(3 * (events.sigma**2).mean()), rel=0.05)
    bars = [p for p in axes.patches if hasattr(p, "get_height")][: len(axes.patches) // 3]
    assert max(p.get_height() for p in bars) == pytest.approx(density.max(), rel=0.2)


def test_accidents_stand_below_the_sums() -> None:
    """The fit of each axis is the density of the sums about its peak, accidents that of those far away."""
    experiment = flowcei.Experiment(noise=2.0, spread=[2, 2, 8], drift=[28, 0, 0], accidents=0.3)
    events = flowcei.simulate("ocs", 5000, experiment=experiment, seed=1)
    axes = plot.momentum_sums(events)
    assert axes.get_yscale() == "log"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    share = events.columns["accident"].mean()
    assert abs(float(next(t for t in legend if "accidents" in t).split()[1].rstrip("%")) - 100 * share) < 0.5
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert (len(solid), len(dotted)) == (3, 3)
    for k, (fit, accidents) in enumerate(zip(solid, dotted, strict=True)):
        x, density = fit.get_xydata().T
        sums = events.momenta.sum(axis=1)[:, k]
        inside = (sums > x[0]) & (sums < x[-1])
        assert np.trapezoid(density, x) == pytest.approx(1.0, abs=0.02)
        assert np.average(x, weights=density) == pytest.approx(sums[inside].mean(), abs=0.6)
        apart = np.trapezoid(accidents.get_ydata(), x)
        assert apart == pytest.approx(events.columns["accident"][inside].mean(), abs=0.02)


def test_correlations_of_momenta() -> None:
    """Of two ions back to back the components along x are opposite."""
    image = plot.covariance(_events("ocs")).images[0].get_array()
    assert image is not None
    np.testing.assert_allclose(np.diag(image), 1.0)
    np.testing.assert_allclose(image, image.T)


@pytest.mark.parametrize("kind", EVENT_KINDS)
@pytest.mark.parametrize("molecule", ["ocs", "h2o", "ch4"])
def test_every_kind_is_drawn_of_one_set_and_of_two(kind: str, molecule: str, tmp_path: Path) -> None:
    """Axes have units or are pure numbers, and the second set has a name in the legend."""
    if kind == "dalitz" and molecule == "ch4":
        return
    events = _events(molecule, 200)
    figure = events_figure({"run $1": events, "prior <b>": _events(molecule, 200, "3%")}, (kind,))
    save(figure, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "<b>" not in text
    axes = events_figure(events, (kind,)).axes[0]
    if kind != "covariance":
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_a_column_cuts_the_events() -> None:
    """One plot for each of few values, or for each of six ranges of many."""
    events = _events(n=300)
    delay = np.arange(300.0) % 3
    few = flowcei.Events(events.molecule, events.momenta, columns={"delay_fs": delay})
    figure = events_figure(few, ("ker",), by="delay_fs")
    assert [axes.get_title(loc="right") for axes in figure.axes] == [
        f"delay_fs = {k} (100 events)" for k in range(3)
    ]
    many = flowcei.Events(events.molecule, events.momenta, columns={"delay_fs": np.arange(300.0)})
    titles = [axes.get_title(loc="right") for axes in events_figure(many, ("ker",), by="delay_fs").axes]
    assert len(titles) == 6
    assert all("(50 events)" in title for title in titles)
    crowded = np.where(np.arange(300) < 200, np.arange(300) % 7, np.nan)  # of seven values, and of none
    uneven = flowcei.Events(events.molecule, events.momenta, columns={"delay_fs": crowded})
    figure = events_figure(uneven, ("ker",), by="delay_fs")
    assert "100 without delay_fs are not drawn" in figure.get_suptitle()
    with pytest.raises(UsageError, match="no extra column 'phase'; they have delay_fs"):
        events_figure(few, ("ker",), by="phase")


@pytest.mark.parametrize("unit", ["angstrom", "bohr"])
def test_a_structure_has_the_bonds_of_the_samples(unit: str) -> None:
    """Atoms are drawn as far apart as they are, in the plane of a planar molecule."""
    samples = _samples()
    axes = structure(samples[2], unit=unit)
    marks = {line.get_label(): line.get_xydata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
    x = samples.positions[2].astype(float)
    scale = ANGSTROM if unit == "angstrom" else 1.0
    for i, j in samples.molecule.bonds:
        a, b = samples.molecule.labels[i], samples.molecule.labels[j]
        drawn = np.linalg.norm(marks[a] - marks[b])
        assert drawn == pytest.approx(np.median(np.linalg.norm(x[:, i] - x[:, j], axis=1)) / scale, rel=0.02)
    assert unit in axes.get_xlabel()
    with pytest.raises(UsageError, match="unknown unit of length 'mile'"):
        structure(samples[0], unit="mile")


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_a_plot_is_legible_at_80_millimetres(kind: str) -> None:
    """A column of a journal: no letter of a single plot is smaller than 5.5 points there."""
    figure = events_figure(_events("ocs", 300, "1%"), [kind])
    figure.draw_without_rendering()
    width = figure.get_tightbbox().width * 25.4
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(sizes) * min(1.0, 80.0 / width) >= 5.5


def test_an_atom_is_drawn_on_the_scale_of_its_samples() -> None:
    """Around an atom the axes are equal, centred on it, and hold all but a few of its samples."""
    samples = _samples()[1]
    axes = structure(samples, atom="o", unit="bohr")
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert right - left == pytest.approx(high - low)
    x = samples.spread().positions[0][:, samples.molecule.labels.index("o"), :2]
    inside = ((x > (left, low)) & (x < (right, high))).all(axis=1)
    assert inside.mean() > 0.95
    assert right - left < 8 * x.std(axis=0).max()
    with pytest.raises(UsageError, match="no atom 'h'; there are c, o, s"):
        structure(samples, atom="h")


def test_a_structure_in_principal_axes_lies_along_them() -> None:
    """OCS is nearly straight: its length is along the first axis; the truth is marked however it lies."""
    samples = _samples()
    x = samples.positions[2].astype(float)
    truth = x[3] @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    axes = structure(samples[2], frame="principal", unit="bohr", truth=truth)
    marks = {line.get_label(): line.get_xydata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
    assert abs(marks["o"][0] - marks["s"][0]) > 20 * abs(marks["o"][1] - marks["s"][1])
    crosses = next(line.get_xydata() for line in axes.lines if line.get_marker() == "x")
    for (i, j), length in zip(samples.molecule.bonds, (2.2, 2.95), strict=True):
        known = np.linalg.norm(truth[i] - truth[j])
        assert np.linalg.norm(crosses[i] - crosses[j]) == pytest.approx(known, rel=0.02)
        assert known == pytest.approx(length, rel=0.2)
    with pytest.raises(UsageError, match="no frame 'lab'; use one of recoil, principal"):
        structure(samples[2], frame="lab")


@pytest.mark.parametrize("molecule", ["ch4", "co2"])
def test_the_truth_of_like_atoms_is_marked_where_they_are(molecule: str) -> None:
    """Samples have their like atoms in an order of their own: a cross lies in the samples of each atom."""
    samples = _samples(molecule)
    for k in range(5):
        truth = samples.positions[k].astype(float).mean(axis=0)
        axes = structure(samples[k], truth=truth, unit="bohr")
        crosses = next(line.get_xydata() for line in axes.lines if line.get_marker() == "x")
        marks = np.array([line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"])
        assert np.linalg.norm(crosses - marks, axis=1).max() < 0.2


def test_the_truth_is_that_of_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number is not enough: another event of that number is refused; one without width is drawn."""
    flow = Shell(monkeypatch, capsys)
    events = flowcei.simulate("ocs", 6, noise="1%", seed=1)
    flowcei.write_events(events.unnumbered(), tmp_path / "e.csv")
    flowcei.write_events(events[3:].unnumbered(), tmp_path / "last.csv")
    flowcei.write_samples(flowcei.load().sample(events, 1, seed=1), tmp_path / "s.h5")
    word = ("plot", str(tmp_path / "s.h5"), "--event", "2", "-o", str(tmp_path / "a.png"), "--truth")
    assert flow(*word, str(tmp_path / "last.csv")) == 2
    assert "other momenta than the samples" in flow.err
    assert flow(*word, str(tmp_path / "e.csv")) == 0, flow.err


def test_predictions_by_a_column_have_their_own_events() -> None:
    """Each row has the measured and the simulated events of one delay, as many of each."""
    s = _samples()
    delay = {"delay_fs": np.array([1.0, 1.0, 2.0, 2.0, 2.0])}
    samples = PosteriorSamples(s.molecule, s.momenta, s.positions, None, s.event_id, s.sigma, columns=delay)
    figure = samples_figure(samples, "predictive", by="delay_fs")
    titles = {axes.get_title(loc="right") for axes in figure.axes} - {""}
    assert titles == {"delay_fs = 1 (2 events)", "delay_fs = 2 (3 events)"}
    spectra = [axes for axes in figure.axes if axes.get_xlabel().endswith("(eV)")]
    assert len(spectra) == 2


def test_plots_are_shown_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Axes of a new figure are there shown below the cell, by pyplot; elsewhere nobody keeps them."""
    events = _events("ocs", 20, "1%")
    known = set(plt.get_fignums())
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    assert not hasattr(events.plot("ker").figure, "number")
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", plt)
    shown = events.plot("ker").figure
    assert set(plt.get_fignums()) - known == {shown.number}
    plt.close(shown)
    corner(_samples()[0])  # which is returned, and not shown twice
    assert set(plt.get_fignums()) == known


def test_a_corner_plot_prints_the_correlations_of_the_samples() -> None:
    """Of OCS two bonds and an angle: six panels, each correlation as numpy has it."""
    samples = _samples()
    figure = corner(samples[1])
    shown = figure.axes
    assert len(shown) == 6
    x = samples.positions[1].astype(float)
    bonds = [np.linalg.norm(x[:, i] - x[:, j], axis=1) for i, j in samples.molecule.bonds]
    words = f"correlation {np.corrcoef(bonds)[0, 1]:+.2f}"
    assert words in [axes.get_title() for axes in shown]


def test_predicted_momenta_are_those_of_the_samples() -> None:
    """Samples that are the truth give back the measured momenta without noise."""
    samples = _samples()
    events = _events(n=5, noise="0%")
    exact = PosteriorSamples(
        events.molecule,
        events.momenta,
        events.positions[:, None].astype(np.float32),
        None,
        np.arange(5),
        np.ones(5),
    )
    sets = predicted(exact)
    np.testing.assert_allclose(sets["re-simulated"].momenta, sets["measured"].momenta, rtol=2e-4, atol=2e-3)
    exact.positions[1] = 0.0  # a sample of an odd event that cannot be exploded costs the others nothing
    for name, one in predicted(exact).items():
        np.testing.assert_array_equal(one.momenta, sets[name].momenta[[0, 2, 3, 4]])
    assert len(samples_figure(samples, "predictive").axes) >= 4


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In three formats; what cannot be drawn is one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    flowcei.write_events(_events(n=50), tmp_path / "e.csv")
    flowcei.write_samples(_samples(), tmp_path / "s.h5")
    for name, kinds in (("a.png", "newton,ker,sum"), ("a.pdf", "ker"), ("a.svg", "ker")):
        assert flow("plot", "e.csv", "--kind", kinds, "--prior", "broad", "-o", name) == 0, flow.err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert flow("plot", "e.csv", "--compare", "e.csv", "-o", "b.png") == 0, flow.err
    for kind in ("structure", "corner", "predictive", "ker"):
        event = ("--event", "12") if kind in ("structure", "corner") else ()
        assert flow("plot", "s.h5", "--kind", kind, *event, "-o", f"{kind}.png") == 0, flow.err
    before = sorted(tmp_path.iterdir())
    for words, line in {
        ("e.csv", "--kind", "pie"): "no plot 'pie'",
        ("e.csv", "--kind", "structure"): "structure is of samples; e.csv holds events",
        ("s.h5", "--kind", "ker,corner"): "corner is a picture of its own",
        ("s.h5", "--kind", "corner", "--prior", "broad"): "--prior has no meaning for the plot corner",
        ("s.h5", "--kind", "predictive", "--event", "12"): "--event has no meaning for the plot predictive",
        ("e.csv", "--event", "3"): "--event has no meaning for the plot newton",
        ("e.csv", "--by", "delay"): "no extra column 'delay'",
        ("e.csv", "-o", "x.gif"): "to be written as .png or .pdf or .svg",
        ("e.csv", "-o", "a.png"): "a.png exists",
        ("s.h5", "--event", "99"): "no event 99",
        ("e.csv", "--prior", "none-such"): "none-such",
    }.items():
        assert flow("plot", *words) in (2, 3), words
        assert line in flow.err
        assert len(flow.err.strip().splitlines()) <= 2
    assert sorted(tmp_path.iterdir()) == before


def test_objects_plot_themselves() -> None:
    """Events on given axes, samples and modes as figures; an unknown kind is named."""
    events = _events(n=30)
    axes = plot.ker(events)
    assert events.plot("ker", axes) is axes
    assert events.plot("newton", normalised=False).get_xlabel() == "$p_x$ (hbar/bohr)"
    with pytest.raises(UsageError, match="no plot of events 'pie'"):
        events.plot("pie")
    samples = flowcei.load().sample(events[:3], 30, seed=1, weigh=True)
    assert len(samples[0].plot("corner").axes) == 6
    assert len(samples.modes().plot(1).axes) >= 1
