"""Figures of several plots: by kind, of several sets of events, by a column of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.plot import events as of_events
from flowcei.plot.geometry import corner, predicted, structure, title_of
from flowcei.plot.style import new_figure, plain, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from flowcei.plot.events import EventSets
    from flowcei.posterior.samples import PosteriorSamples

EVENT_KINDS: dict[str, Callable[..., Axes]] = {
    "newton": of_events.newton,
    "ker": of_events.ker,
    "shares": of_events.energy_shares,
    "angles": of_events.angles,
    "dalitz": of_events.dalitz,
    "ker-angle": of_events.ker_angle,
    "sum": of_events.momentum_sums,
    "correlation": of_events.correlation,
    "covariance": of_events.covariance,
}
"""Plots of events by their kind."""

SAMPLE_KINDS = ("structure", "corner", "predictive")
"""Plots of posterior samples by their kind."""

_PANEL = 4.2, 3.1  # inches
_COLUMNS = 3
_ATOMS = 4  # drawn large beside a structure
_GROUPS = 6  # values of a column that are drawn one by one; of more, this many equal shares of the events


@styled
def events_figure(
    events: EventSets,
    kinds: Sequence[str] = ("newton", "ker"),
    by: str | None = None,
    *,
    split_all: bool = False,
) -> Figure:
    """Draw events in one or more kinds of plot.

    Args:
        events: Events, or several sets of them by name: see `flowcei.plot.newton`.
        kinds: Of `EVENT_KINDS`.
        by: A column of the events: a row of plots for each of its values, or of six ranges of these.
        split_all: Cut the other sets by their own values too; else each row has them whole.

    Returns:
        The figure.

    Raises:
        UsageError: For an unknown kind or column.
    """
    sets = {"": events} if isinstance(events, Events) else dict(events)
    rows = {"": sets} if by is None else _by_column(sets, by, split_all=split_all)
    columns = min(_COLUMNS, len(kinds)) if by is None else len(kinds)
    cells = [(title, shown, kind) for title, shown in rows.items() for kind in kinds]
    height = -(-len(cells) // columns)
    figure = new_figure(_PANEL[0] * columns, _PANEL[1] * height)
    for number, (title, shown, kind) in enumerate(cells, 1):
        axes = plot_events(shown, kind, figure.add_subplot(height, columns, number))
        if title:
            above: dict[str, Any] = {"pad": 18.0} if len(shown) > 1 else {}  # where a legend stands there
            axes.set_title(f"{title} ({len(next(iter(shown.values())))} events)", loc="right", **above)
    counts = ", ".join(f"{name or 'events'}: {len(one):,}" for name, one in sets.items())
    drawn = sum(len(next(iter(shown.values()))) for shown in rows.values())
    if (lost := len(next(iter(sets.values()))) - drawn) and by is not None:
        counts += f"; {lost:,} without {by} are not drawn"
    figure.suptitle(
        plain(f"{next(iter(sets.values())).molecule.name}, {counts}"), fontsize=9, x=0.02, ha="left"
    )
    return figure


def plot_events(
    events: EventSets,
    kind: str,
    axes: Axes | None = None,
    **options: Any,  # noqa: ANN401 (of each kind)
) -> Axes:
    """Draw events on axes in a kind of plot; UsageError for an unknown one."""
    if kind not in EVENT_KINDS:
        raise UsageError(f"no plot of events {kind!r}; there are {', '.join(EVENT_KINDS)}")
    return EVENT_KINDS[kind](events, axes, **options)


def _by_column(sets: dict[str, Events], by: str, *, split_all: bool) -> dict[str, dict[str, Events]]:
    """The first set cut by the values of a column; the others, which may lack it, whole, or cut alike."""
    name, events = next(iter(sets.items()))
    if by not in events.columns:
        there = ", ".join(events.columns) or "none"
        raise UsageError(f"the events have no extra column {by!r}; they have {there}")
    values = events.columns[by]
    distinct = np.unique(values[~np.isnan(values)] if values.dtype.kind == "f" else values)
    if len(distinct) <= _GROUPS:
        groups = {f"{by} = {value:g}": values == value for value in distinct}
    else:
        edges = np.quantile(values[~np.isnan(values)], np.linspace(0.0, 1.0, _GROUPS + 1))
        edges[-1] = np.nextafter(edges[-1], np.inf)
        groups = {
            f"{by} {low:.4g} to {high:.4g}": (values >= low) & (values < high)
            for low, high in pairwise(edges)
        }
    others = dict(list(sets.items())[1:])
    return {
        plain(title): {name: events[rows]} | {k: e[rows] if split_all else e for k, e in others.items()}
        for title, rows in groups.items()
        if rows.any()
    }


@styled
def samples_figure(
    samples: PosteriorSamples,
    kind: str,
    unit: str = "angstrom",
    *,
    frame: str = "recoil",
    truth: NDArray[np.float64] | None = None,
    by: str | None = None,
) -> Figure:
    """Draw samples: their structure or internal coordinates, or the momenta that they predict.

    Args:
        samples: Of one event, `samples[3]`, or of several, which are drawn together.
        kind: Of `SAMPLE_KINDS`.
        unit: Of lengths, ``angstrom`` or ``bohr``.
        frame: Of a structure, ``recoil`` or ``principal``: see `flowcei.plot.structure`.
        truth: Known positions (N, 3), bohr, to be marked in a structure.
        by: A column of the events: predictions for each of its values.

    Returns:
        The figure.

    Raises:
        UsageError: For an unknown kind, unit, frame or column.
    """
    if kind == "predictive":
        kinds = ("newton", "ker", "shares", "angles")
        return events_figure(predicted(samples), kinds, by, split_all=True)
    if kind == "corner":
        return corner(samples, unit=unit)
    if kind != "structure":
        raise UsageError(f"no plot of samples {kind!r}; there are {', '.join(SAMPLE_KINDS)}")
    words = f"{title_of(samples)}; thin lines: bonds of some samples"
    if (more := len(samples.molecule) - _ATOMS) > 0:
        words += f"; {more} atoms are not enlarged"
    figure = new_figure(7.4, 5.2, title=words)
    atoms = samples.molecule.labels[:_ATOMS]
    drawn: dict[str, Any] = {"truth": truth, "frame": frame, "unit": unit}
    places = figure.add_gridspec(2, len(atoms), height_ratios=(1.2, 1.0))
    structure(samples, figure.add_subplot(places[0, :]), **drawn)
    for k, atom in enumerate(atoms):  # on the scale of a molecule good data have no width
        axes = structure(samples, figure.add_subplot(places[1, k]), atom=atom, **drawn)
        axes.set(xlabel=unit, ylabel=unit if k == 0 else "")
    return figure
