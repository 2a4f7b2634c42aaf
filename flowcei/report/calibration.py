"""The pictures of a calibration: ECDFs of ranks, coverage, TARP's curve, each with its band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.evaluation.verdicts import HPD, coverage_band, ecdf_band, ecdf_difference, tarp_band
from flowcei.report.style import COLOURS, colour, grid, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flowcei.evaluation.calibration import Calibration

    Curve = tuple[str, str, int, NDArray]  # quantity, label, number of its colour, y

_PANELS = 6
_LEAST = 3  # curves in a panel, before there is a second one
_LINES = ("-", "--", ":")


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
        _dress(axis, "share of samples below the truth", "ECDF less uniform (%)")
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
        _dress(axis, "level of the region", "events inside less level (%)")
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
        _dress(axes[2], "share of samples that fit better", "ECDF less uniform (%)")
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
