"""The picture of a comparison: errors of models beside null models and floor, and coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.evaluation.comparison import FLOOR, NULL_MODELS
from flowcei.plot.style import COLOURS, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flowcei.evaluation.comparison import Comparison
    from flowcei.evaluation.scores import Score

_ROOM = 1.32  # of the longest bar, for the number behind it
_BARS = (COLOURS[0], COLOURS[4], COLOURS[5])
_MARKERS = (("o", COLOURS[2]), ("D", COLOURS[3]), ("s", COLOURS[1]))


@styled
def comparison_figure(comparison: Comparison) -> Figure:
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
    figure = new_figure(2.4 * len(panels), 1.1 + 0.55 * len(table) + 0.6, gap=0.06)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, scores) in zip(axes, panels.items(), strict=True):
        axis.set_xlabel(label)
        if isinstance(scores[0].better, float):
            _draw_shares(axis, table, scores)
        else:
            _draw_errors(axis, table, floor, scores)
    names = [f"{name}\n(null model)" if name in NULL_MODELS else name for name in table.index]
    axes[0].set_yticks(np.arange(len(table)), names)
    axes[0].invert_yaxis()
    handles = {k: v for axis in axes for v, k in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=5)
    return figure


def _draw_errors(axis: Axes, table: pd.DataFrame, floor: pd.DataFrame, scores: list[Score]) -> None:
    """Draw bars side by side, each with its number, and the floor of the first score."""
    places = np.arange(len(table)) + 0.38 * (np.arange(len(scores)) - (len(scores) - 1) / 2)[:, None]
    longest = 0.0
    for score, y, colour in zip(scores, places, _BARS, strict=False):
        values, low, high = _values(table, score.name)
        axis.barh(y, values, height=0.36, color=colour, label=score.picture and score.picture[1])
        _whiskers(axis, values, low, high, y)
        box: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        offset: Any = {"xytext": (3, 0), "textcoords": "offset points"}
        for place, value, end in zip(y, values, high, strict=True):
            axis.annotate(f"{value:.3g}", (end, place), va="center", fontsize=7, bbox=box, **offset)
        longest = max(longest, high.max())
    axis.set_xlim(0, _ROOM * longest)
    first = scores[0].name
    null = table[first][table.index.isin(list(NULL_MODELS))].min()
    for value in floor[first].dropna():
        if value < min(null if np.isfinite(null) else np.inf, axis.get_xlim()[1]):
            axis.axvline(value, color=COLOURS[6], lw=1.2, ls="--", label="information floor, flat prior")
        else:
            axis.set_title("floor for a flat prior: above the null model", fontsize=7, color="0.35")


def _draw_shares(axis: Axes, table: pd.DataFrame, scores: list[Score]) -> None:
    """Draw shares as points, each beside the value of a right posterior."""
    y = np.arange(len(table))
    for score, (marker, colour) in zip(scores, _MARKERS, strict=False):
        values, low, high = (100.0 * part for part in _values(table, score.name))
        axis.axvline(100.0 * float(score.better), color=colour, lw=1, ls=":")
        axis.plot(values, y, marker, color=colour, label=score.picture and score.picture[1])
        _whiskers(axis, values, low, high, y)
    for place in y[table[scores[0].name].isna()]:
        axis.text(2, place, "no interval", va="center", fontsize=7, color="0.35")
    axis.set_xlim(0, 102)


def _values(table: pd.DataFrame, name: str) -> tuple[NDArray, NDArray, NDArray]:
    """Return a column and the ends of its intervals; the values themselves where there are none."""
    ends = (name + end if name + end in table else name for end in ("", "_low", "_high"))
    values, low, high = (table[end].to_numpy(dtype=np.float64) for end in ends)
    return values, np.fmin(values, low), np.fmax(values, high)


def _whiskers(axis: Axes, values: NDArray, low: NDArray, high: NDArray, y: NDArray) -> None:
    axis.errorbar(values, y, xerr=(values - low, high - values), fmt="none", color="black", lw=1, capsize=1.5)
