"""The pictures of judged models: errors beside null models and floor; ranks, coverage and TARP with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.evaluation.comparison import FLOOR, NULL_MODELS
from flowcei.evaluation.uniformity import ecdf_band, ecdf_difference, tarp_band
from flowcei.evaluation.verdicts import HPD, coverage_band
from flowcei.plot.style import COLOURS, colour, grid, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowcei.evaluation.calibration import Calibration
    from flowcei.evaluation.comparison import Comparison
    from flowcei.evaluation.scores import Score

    Curve = tuple[str, str, int, NDArray]  # quantity, label, number of its colour, y

_ROOM = 1.32  # of the longest bar, for the number behind it
_BARS = (COLOURS[0], COLOURS[4], COLOURS[5])
_MARKERS = (("o", COLOURS[2]), ("D", COLOURS[3]), ("s", COLOURS[1]))
_PANELS = 6
_LEAST = 3  # curves in a panel, before there is a second one
_LINES = ("-", "--", ":")


@styled
def comparison_figure(comparison: Comparison, unit: str = "angstrom") -> Figure:
    """Draw the scores that have a place in the picture, in panels, a row a model.

    Black bars are 95 % intervals. The information floor is a line where it lies below the null model of the
    mean; above that it bounds nothing that a model would do.
    """
    floor = comparison.table[comparison.table.index == FLOOR]
    table = comparison.table.drop(index=FLOOR, errors="ignore")
    panels: dict[str, list[Score]] = {}
    for score in comparison.scores:
        if score.picture:
            panels.setdefault(score.picture[0], []).append(score)
    # First what has a unit that a person thinks in.
    first = {
        label: (s[0].unit != "bohr", isinstance(s[0].better, int | float)) for label, s in panels.items()
    }
    panels = {label: panels[label] for label in sorted(panels, key=first.__getitem__)}
    figure = new_figure(2.4 * len(panels), 1.1 + 0.55 * len(table) + 0.6, gap=0.06)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, scores) in zip(axes, panels.items(), strict=True):
        shown = scores[0].shown_in(unit)[0]
        axis.set_xlabel(f"{label} ({shown})" if shown and "(" not in label else label)
        if isinstance(scores[0].better, int | float):
            _draw_shares(axis, table, scores)
        else:
            _draw_errors(axis, table, floor, scores, unit)
    names = [f"{name}\n(null model)" if name in NULL_MODELS else name for name in table.index]
    axes[0].set_yticks(np.arange(len(table)), names)
    axes[0].invert_yaxis()
    handles = {k: v for axis in axes for v, k in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=5)
    return figure


def _draw_errors(
    axis: Axes, table: pd.DataFrame, floor: pd.DataFrame, scores: list[Score], unit: str
) -> None:
    """Draw bars side by side, each with its number, and the floor of the first score."""
    places = np.arange(len(table)) + 0.38 * (np.arange(len(scores)) - (len(scores) - 1) / 2)[:, None]
    longest = 0.0
    for score, y, shade in zip(scores, places, _BARS, strict=False):
        values, low, high = (column / score.shown_in(unit)[1] for column in _values(table, score.name))
        axis.barh(y, values, height=0.36, color=shade, label=score.picture and score.picture[1])
        _whiskers(axis, values, low, high, y)
        box: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        offset: Any = {"xytext": (3, 0), "textcoords": "offset points"}
        for height, value, end in zip(y, values, high, strict=True):
            axis.annotate(f"{value:.3g}", (end, height), va="center", fontsize=7, bbox=box, **offset)
        longest = max(longest, high.max())
    axis.set_xlim(0, _ROOM * longest)
    first = scores[0].name
    scale = scores[0].shown_in(unit)[1]
    null = table[first][table.index.isin(list(NULL_MODELS))].min() / scale
    for value in floor[first].dropna() / scale:
        if value < min(null if np.isfinite(null) else np.inf, axis.get_xlim()[1]):
            axis.axvline(value, color=COLOURS[6], lw=1.2, ls="--", label="information floor, flat prior")
        else:
            axis.set_title("floor for a flat prior: above the null model", fontsize=7, color="0.35")


def _draw_shares(axis: Axes, table: pd.DataFrame, scores: list[Score]) -> None:
    """Draw shares as points, each beside the value of a right posterior."""
    y = np.arange(len(table))
    for score, (marker, shade) in zip(scores, _MARKERS, strict=False):
        values, low, high = (100.0 * column for column in _values(table, score.name))
        axis.axvline(100.0 * float(score.better), color=shade, lw=1, ls=":")
        axis.plot(values, y, marker, color=shade, label=score.picture and score.picture[1])
        _whiskers(axis, values, low, high, y)
    for height in y[table[scores[0].name].isna()]:
        axis.text(2, height, "no interval", va="center", fontsize=7, color="0.35")
    axis.set_xlim(0, 102)


def _values(table: pd.DataFrame, name: str) -> tuple[NDArray, NDArray, NDArray]:
    """Return a column and the ends of its intervals; the values themselves where there are none."""
    ends = (name + end if name + end in table else name for end in ("", "_low", "_high"))
    values, low, high = (table[end].to_numpy(dtype=np.float64) for end in ends)
    return values, np.fmin(values, low), np.fmax(values, high)


def _whiskers(axis: Axes, values: NDArray, low: NDArray, high: NDArray, y: NDArray) -> None:
    axis.errorbar(values, y, xerr=(values - low, high - values), fmt="none", color="black", lw=1, capsize=1.5)


@styled
def sbc_figure(calibration: Calibration) -> Figure:
    """Draw the ECDF of each quantity's ranks less that of uniform ones, with the band."""
    ranks = calibration.sbc
    z, difference = ecdf_difference(ranks.values)
    band = ecdf_band(len(ranks), len(ranks.names), level=calibration.rules.level)[1:]
    groups = _groups(len(ranks.names), _PANELS)
    figure, axes = _panels(calibration, len(groups), f"SBC of {len(ranks)} events")
    for axis, group in zip(axes, groups, strict=True):
        curves = [(ranks.names[c], ranks.names[c], k, difference[:, c]) for k, c in enumerate(group)]
        _draw(axis, z, band, curves, _failed(calibration, "sbc"))
        _dress(axis, "share of samples below the truth", "ECDF minus uniform (%)")
    _same_scale(axes)
    return figure


@styled
def coverage_figure(calibration: Calibration) -> Figure:
    """Draw what central intervals and regions of highest density hold less what they should."""
    ranks, levels = calibration.coverage, np.asarray(calibration.rules.levels)
    difference = ranks.coverage(calibration.rules.levels) - levels[:, None]
    band = coverage_band(ranks, calibration.rules) - levels
    groups = _groups(sum(name != HPD for name in ranks.names), _PANELS - 1)
    groups += [[k] for k, name in enumerate(ranks.names) if name == HPD]
    figure, axes = _panels(calibration, len(groups), f"coverage of {len(ranks)} events")
    for axis, group in zip(axes, groups, strict=True):
        curves = [(ranks.names[c], ranks.names[c], k, difference[:, c]) for k, c in enumerate(group)]
        if curves[0][0] == HPD:
            curves = [(HPD, f"{HPD} (joint)", len(COLOURS) - 1, curves[0][3])]
        _draw(axis, levels, band, curves, _failed(calibration, "coverage"), "o")
        _dress(axis, "level of the region", "coverage minus level (%)")
    _same_scale(axes)
    return figure


@styled
def joint_figure(calibration: Calibration) -> Figure:
    """Draw TARP's curve, its distance from the diagonal, and the ranks of the momenta's misfit."""
    ranks, chi2, level = calibration.tarp, calibration.resimulation, calibration.rules.level
    z, difference = ecdf_difference(ranks.values)
    half = tarp_band(len(ranks), level=level)
    figure, axes = _panels(calibration, 3 if len(chi2) else 2, f"{len(ranks)} events")
    for axis, base in ((axes[0], z), (axes[1], np.zeros_like(z))):
        curve = ("joint", "TARP, all coordinates", 0, base + difference[:, 0])
        _draw(axis, z, (base - half, base + half), [curve], _failed(calibration, "tarp"))
    axes[0].plot([0, 1], [0, 100], color="black", lw=0.8)
    _dress(axes[0], "credibility", "expected coverage (%)")
    axes[0].set(ylim=(0, 100), yticks=range(0, 101, 25))
    _dress(axes[1], "credibility", "coverage less credibility (%)")
    if len(chi2):
        z, difference = ecdf_difference(chi2.values)
        band = ecdf_band(len(chi2), 1, level=level)[1:]
        curve = ("chi2", "misfit of momenta", 1, difference[:, 0])
        _draw(axes[2], z, band, [curve], _failed(calibration, "resimulation"))
        _dress(axes[2], "share of samples that fit better", "ECDF minus uniform (%)")
    for axis in axes[1:]:
        _same_scale([axis])
    return figure


def _groups(count: int, panels: int) -> list[list[int]]:
    size = max(_LEAST, -(-count // panels))
    return [list(range(first, min(first + size, count))) for first in range(0, count, size)]


def _panels(calibration: Calibration, count: int, title: str) -> tuple[Figure, list[Axes]]:
    within = 100.0 * (1.0 - calibration.rules.level)
    title = f"grey: where {within:.3g} % of right posteriors stay; {title}"
    columns = 2 if count == 4 else 3
    return grid(count, (3.1, 2.9), (0.0, 0.3), title=title, columns=columns, least=5.2, gap=0.05)


def _failed(calibration: Calibration, check: str) -> set[str]:
    return {v.quantity for v in calibration.verdicts if v.check == check and not v.passed}


def _draw(
    axis: Axes, x: NDArray, band: Sequence[NDArray], curves: list[Curve], failed: set[str], marker: str = ""
) -> None:
    """Draw a band (low, high) and curves against x, shares as percentages."""
    axis.fill_between(x, 100.0 * band[0], 100.0 * band[1], color="0.88", lw=0)
    for quantity, label, k, y in curves:
        name, width = (f"{label} (fails)", 2.0) if quantity in failed else (label, 1.1)
        style: Any = {"ls": _LINES[k // len(COLOURS) % len(_LINES)], "lw": width, "marker": marker, "ms": 3.5}
        axis.plot(x, 100.0 * y, color=colour(k), label=name, **style)


def _dress(axis: Axes, xlabel: str, ylabel: str) -> None:
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1))
    axis.set_xticks(np.linspace(0, 1, 5), ["0", "0.25", "0.5", "0.75", "1"])
    labels = [str(text) for text in axis.get_legend_handles_labels()[1]]
    columns = max(1, min(len(labels), 44 // (max(map(len, labels)) + 6)))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=8, handlelength=1.4)


def _same_scale(axes: Sequence[Axes]) -> None:
    """Centre 0 and give all panels one scale, so that they can be compared."""
    most = max(abs(end) for axis in axes for end in axis.get_ylim())
    for axis in axes:
        axis.axhline(0.0, color="black", lw=0.8, zorder=1)
        axis.set_ylim(-most, most)
