"""The pictures of a calibration: ECDFs of ranks, coverage, TARP's curve, each with its band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcei.evaluation.ranks import HPD
from flowcei.evaluation.verdicts import coverage_band, ecdf_band, ecdf_difference, tarp_band
from flowcei.report.style import COLOURS, new_figure, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flowcei.evaluation.calibration import Calibration

_PANELS = 6
_COLUMNS = 3
_LEAST = 3  # curves in a panel, before there is a second one
_LINES = ("-", "--", ":")
_RANK = "share of samples below the truth"


def sbc_figure(calibration: Calibration) -> Figure:
    """Draw the ECDF of each quantity's ranks less that of uniform ones, with the band.

    Args:
        calibration: As `flowcei.evaluation.calibration.calibrate` returns it.
    """
    ranks = calibration.sbc
    band = ecdf_band(len(ranks), len(ranks.names), level=calibration.level)
    z, difference = ecdf_difference(ranks.values)
    groups = _groups(len(ranks.names), _PANELS)
    with styled():
        figure, axes = _panels(len(groups), f"{_right(calibration)}; SBC of {len(ranks)} events")
        for axis, group in zip(axes, groups, strict=True):
            _band(axis, *band)
            for k, column in enumerate(group):
                name = ranks.names[column]
                _curve(axis, z, difference[:, column], k, name, failed=_failed(calibration, "sbc", name))
            _dress(axis, _RANK, "ECDF less uniform (%)", len(group))
        _same_scale(axes)
    return figure


def coverage_figure(calibration: Calibration) -> Figure:
    """Draw what central intervals and regions of highest density hold less what they should.

    Args:
        calibration: As `flowcei.evaluation.calibration.calibrate` returns it.
    """
    held = calibration.coverage
    levels = np.asarray(held.levels)
    low, high = coverage_band(len(held.ranks), levels, held.share.size, level=calibration.level)
    groups = _groups(sum(name != HPD for name in held.names), _PANELS - 1)
    groups += [[k] for k, name in enumerate(held.names) if name == HPD]
    with styled():
        title = f"{_right(calibration)}; coverage of {len(held.ranks)} events"
        figure, axes = _panels(len(groups), title)
        for axis, group in zip(axes, groups, strict=True):
            _band(axis, levels, low - levels, high - levels)
            for k, column in enumerate(group):
                name = held.names[column]
                failed = _failed(calibration, "coverage", name)
                where = len(COLOURS) - 1 if name == HPD else k
                words = f"{name} (joint)" if name == HPD else name
                _curve(axis, levels, held.share[:, column] - levels, where, words, failed=failed, marker="o")
            _dress(axis, "level of the region", "events inside less level (%)", len(group))
        _same_scale(axes)
    return figure


def joint_figure(calibration: Calibration) -> Figure:
    """Draw TARP's curve, its distance from the diagonal, and the ranks of the momenta's misfit.

    Args:
        calibration: As `flowcei.evaluation.calibration.calibrate` returns it.
    """
    ranks, chi2 = calibration.tarp, calibration.resimulation
    z, difference = ecdf_difference(ranks.values[:, 0])
    half = tarp_band(len(ranks), level=calibration.level)
    with styled():
        figure, axes = _panels(3 if len(chi2) else 2, f"{_right(calibration)}; {len(ranks)} events")
        failed = _failed(calibration, "tarp", "joint")
        for axis, base in ((axes[0], z), (axes[1], np.zeros_like(z))):
            _band(axis, z, base - half, base + half)
            _curve(axis, z, base + difference, 0, "TARP, all coordinates", failed=failed)
        axes[0].plot([0, 1], [0, 100], color="black", lw=0.8)
        _dress(axes[0], "credibility", "expected coverage (%)", 1)
        axes[0].set(ylim=(0, 100), yticks=range(0, 101, 25))
        _dress(axes[1], "credibility", "coverage less credibility (%)", 1)
        if len(chi2):
            _band(axes[2], *ecdf_band(len(chi2), 1, level=calibration.level))
            failed = _failed(calibration, "resimulation", "chi2")
            _curve(axes[2], *ecdf_difference(chi2.values[:, 0]), 1, "misfit of momenta", failed=failed)
            _dress(axes[2], "share of samples that fit better", "ECDF less uniform (%)", 1)
        for axis in axes[1:]:
            _same_scale([axis])
    return figure


def _right(calibration: Calibration) -> str:
    return f"grey: where {100.0 * (1.0 - calibration.level):.3g} % of right posteriors stay"


def _failed(calibration: Calibration, check: str, name: str) -> bool:
    return any(v.check == check and v.quantity == name and not v.passed for v in calibration.verdicts)


def _groups(count: int, panels: int) -> list[list[int]]:
    size = max(_LEAST, -(-count // panels))
    return [list(range(first, min(first + size, count))) for first in range(0, count, size)]


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = 2 if count == 4 else min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = new_figure(max(3.1 * columns, 5.2), 2.9 * rows + 0.3, gap=0.05)
    figure.suptitle(title, fontsize=9, x=0.02, ha="left")
    return figure, [figure.add_subplot(rows, columns, k + 1) for k in range(count)]


def _band(axis: Axes, x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    axis.fill_between(x, 100.0 * low, 100.0 * high, color="0.88", lw=0)


def _curve(
    axis: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    k: int,
    name: str,
    *,
    failed: bool,
    marker: str = "",
) -> None:
    axis.plot(
        x,
        100.0 * y,
        color=COLOURS[k % len(COLOURS)],
        ls=_LINES[k // len(COLOURS) % len(_LINES)],
        lw=2.0 if failed else 1.1,
        marker=marker,
        ms=3.5,
        label=f"{name} (fails)" if failed else name,
    )


def _dress(axis: Axes, xlabel: str, ylabel: str, curves: int) -> None:
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), xticks=np.linspace(0, 1, 5))
    axis.set_xticks(np.linspace(0, 1, 5), ["0", "0.25", "0.5", "0.75", "1"])
    longest = max(len(str(text)) for text in axis.get_legend_handles_labels()[1])
    columns = max(1, min(curves, 44 // (longest + 6)))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=8, handlelength=1.4)


def _same_scale(axes: Sequence[Axes]) -> None:
    """Centre 0 and give all panels one scale, so that they can be compared."""
    most = max(abs(end) for axis in axes for end in axis.get_ylim())
    for axis in axes:
        axis.axhline(0.0, color="black", lw=0.8, zorder=1)
        axis.set_ylim(-most, most)
