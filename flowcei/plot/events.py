"""Plots of events, as groups look at coincidence data: of the momenta alone, or beside those of others.

Every function takes `Events`, or a table of them by name: the first is drawn filled, the others, such as
simulated events of a prior, as lines over it. Identical ions come by falling speed, since no detector tells
them apart; but for `momentum_sums` each ion's share of the total momentum, by mass, is taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.experiment.accidents import mixed_sums, tell_by_sums
from flowcei.experiment.missing import LOST
from flowcei.plot.style import colour, new_axes, plain
from flowcei.posterior.labels import speed_names
from flowcei.posterior.spread import angle_between, first_axis, momenta_in_recoil_frame
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Floats = NDArray[np.float64]
    Series = dict[str, Floats]

EventSets = Events | Mapping[str, Events]
"""Events, or several sets of them by the name in the legend."""

_SERIES = 12  # drawn in one plot, with their names
_LINES = "-", "--", ":", "-."  # of one set after the other
_REACH = 3.0  # widths of the central 90 % beyond these that the range of an axis has at the most
_TAIL = 0.25  # per cent at each end that the range of an axis leaves out
_INSIDE = 0.39, 0.86  # share of the events in contours: 1 and 2 sigma of a normal distribution in the plane
FEWEST = 3  # events, of which a correlation is drawn
_FITTED, _MOST_FITTED = 100, 20_000  # events, of whose sums a fit is drawn
_SHOWN = 3.0  # standard errors from which on accidents are drawn
_WIDTHS = 8.0  # of the sums of true events, that are then shown
_SMOOTH = 1.5  # bins, of the histogram that contours are drawn of


def newton(events: EventSets, axes: Axes | None = None, *, normalised: bool = True) -> Axes:
    """Draw the Newton plot: momenta of all ions, the first ion along x, the second with y > 0.

    Args:
        events: Events, or several sets of them by name.
        axes: Where to draw; axes of a new figure where None.
        normalised: In units of the momentum of the first ion of each event, else in hbar / bohr.

    Returns:
        The axes, with equal scales.

    Example:
        >>> import flowcei
        >>> axes = newton(flowcei.simulate("ocs", 100, noise="1%", seed=1))
        >>> axes.get_aspect(), axes.get_xlabel()
        (1.0, '$p_x$ / |p(s)|')
    """
    sets, axes = _sets(events), new_axes(axes)
    measured = next(iter(sets.values()))
    first, names = first_axis(measured.molecule, measured.momenta), speed_names(measured.molecule)
    planes = {}
    for name, one in sets.items():
        p = momenta_in_recoil_frame(one.molecule, one.momenta)
        length = np.linalg.norm(p[:, first], axis=-1)[:, None, None]
        planes[name] = (p / length if normalised else p)[..., :2]
    others = [k for k in range(len(names)) if k != first]
    points = {name: p[:, others].reshape(-1, 2) for name, p in planes.items()}
    middle = np.median(next(iter(planes.values())), axis=0)
    reach = max(*(np.percentile(np.abs(p), 100.0 - _TAIL) for p in points.values()), np.abs(middle).max())
    _density(axes, points, "ions", 1.1 * reach * np.array([[-1.0, -1.0], [1.0, 1.0]]))
    arrow = {"arrowstyle": "->", "color": colour(first), "lw": 1.5}
    axes.annotate("", middle[first], (0, 0), arrowprops=arrow)
    for k, name in enumerate(names):
        text = axes.text(
            middle[k, 0], middle[k, 1], name, color=colour(k), weight="bold", ha="center", va="center"
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    unit = f"/ |p({names[first]})|" if normalised else "(hbar/bohr)"
    axes.set(xlabel=f"$p_x$ {unit}", ylabel=f"$p_y$ {unit}", aspect="equal")
    return axes


def ker(events: EventSets, axes: Axes | None = None) -> Axes:
    """Draw the spectrum of the kinetic energy release, eV: see `newton` for the arguments.

    Example:
        >>> import flowcei
        >>> ker(flowcei.simulate("ocs", 100, noise="1%", seed=1)).get_xlabel()
        'kinetic energy release (eV)'
    """
    series = {name: {"": _energies(one).sum(axis=1)} for name, one in _sets(events).items()}
    return _spectra(new_axes(axes), series, "kinetic energy release", "eV")


def energy_shares(events: EventSets, axes: Axes | None = None) -> Axes:
    """Draw the share of each ion in the kinetic energy: see `newton` for the arguments."""
    series = {}
    for name, one in _sets(events).items():
        share = _energies(one) / _energies(one).sum(axis=1, keepdims=True)
        series[name] = dict(zip(speed_names(one.molecule), share.T, strict=True))
    return _spectra(new_axes(axes), series, "share of the kinetic energy")


def angles(events: EventSets, axes: Axes | None = None) -> Axes:
    """Draw the angles between momenta, degrees, of all pairs of ions: see `newton` for the arguments."""
    series = {}
    for name, one in _sets(events).items():
        p, pairs = _momenta(one), combinations(enumerate(speed_names(one.molecule)), 2)
        series[name] = {f"{a} / {b}": angle_between(p[:, i], p[:, j]) for (i, a), (j, b) in pairs}
    return _spectra(new_axes(axes), series, "angle between momenta", "deg")


def momentum_sums(events: EventSets, axes: Axes | None = None) -> Axes:
    """Draw the total momentum along the axes of the laboratory, and what the stated noise makes of it.

    Of a single set of 100 events or more also what `flowcei.measure_experiment` takes the sums to be: normal
    ones of true events, and those of accidents; where there are any, on a logarithmic scale about the former.
    """
    sets, axes = _sets({name: _complete(one) for name, one in _sets(events).items()}), new_axes(axes)
    sums = {name: one.momenta.sum(axis=1) for name, one in sets.items()}
    series = {name: dict(zip("xyz", total.T, strict=True)) for name, total in sums.items()}
    measured = next(iter(sets.values()))
    accidents = False
    if len(sets) == 1 and len(measured) >= _FITTED:
        accidents = _fitted_sums(axes, series, measured.momenta)
    else:
        _spectra(axes, series, "total momentum", "hbar/bohr")
    sigma = measured.sigma
    if sigma is not None and (sigma > 0).all() and not accidents:
        x = np.linspace(*axes.get_xlim(), 300)
        width = np.sqrt(len(measured.molecule)) * sigma
        from scipy.stats import norm  # a third of a second, of every picture, if it stood above

        density = norm.pdf(x[:, None], 0.0, width[None, :2000]).mean(axis=1)
        (line,) = axes.plot(x, density, color="black", lw=1, ls="--", label="noise")
        legend = axes.get_legend()
        axes.legend(handles=[*(legend.legend_handles if legend else []), line], ncols=2, loc="upper center")
    return axes


def _fitted_sums(axes: Axes, series: dict[str, Series], momenta: Floats) -> bool:
    """Sums of momenta (B, N, 3), along each axis, with their normal law, and accidents: whether there are."""
    from scipy.stats import gaussian_kde, norm

    momenta = momenta[:: 1 + len(momenta) // _MOST_FITTED]
    none = np.zeros((len(momenta), 3))
    fit, mixed = tell_by_sums(momenta, none, none + 1.0), mixed_sums(momenta)
    width = np.sqrt(fit.variance[0])
    accidents = _SHOWN * (error := fit.share_error) < fit.share < 1.0 - _SHOWN * error
    reach = _WIDTHS * width
    window = (float((fit.mean - reach).min()), float((fit.mean + reach).max())) if accidents else None
    _spectra(axes, series, "total momentum", "hbar/bohr", window)
    x = np.linspace(*axes.get_xlim(), 600)
    handles, lowest = _legend(list("xyz"), []), np.inf
    for k, values in enumerate(next(iter(series.values())).values()):
        inside = 1.0 if window is None else np.mean((values >= x[0]) & (values <= x[-1]))
        apart = fit.share * gaussian_kde(mixed[: len(mixed) : 5, k])(x) / inside
        axes.plot(
            x, apart + (1.0 - fit.share) * norm.pdf(x, fit.mean[k], width[k]) / inside, color=colour(k), lw=2
        )
        if accidents:
            axes.plot(x, apart, color="black", lw=1.5, ls=":", zorder=5)
            lowest = min(lowest, float(apart.min()))
    handles.append(Line2D([], [], color="black", lw=2, label="fit"))
    if accidents:
        handles.append(Line2D([], [], color="black", lw=1.5, ls=":", label=f"accidents, {fit.share:.1%}"))
        axes.set_yscale("log")
        axes.set_ylim(0.2 * lowest, 60.0 * axes.dataLim.y1)
    axes.legend(handles=handles, ncols=2, loc="upper center")
    return bool(accidents)


def dalitz(events: EventSets, axes: Axes | None = None) -> Axes:
    """Draw the Dalitz plot of three ions, within the line that momentum conservation allows.

    Coordinates: R. H. Dalitz, Phil. Mag. 44, 1068 (1953); with the shares e of the kinetic energy, x is
    (e_1 - e_3) / sqrt 3 and y is e_2 - 1/3. On the line all momenta are along one axis.

    Raises:
        UsageError: For a molecule of more or fewer ions.
    """
    sets, axes = _sets(events), new_axes(axes)
    molecule = next(iter(sets.values())).molecule
    if len(molecule) != 3:
        raise UsageError(f"a Dalitz plot is of three ions; {molecule.name} has {len(molecule)}")
    points = {name: _dalitz(_energies(one)) for name, one in sets.items()}
    turn = np.linspace(0.0, np.pi, 400)
    along = np.stack([np.cos(turn), np.sin(turn), -np.cos(turn) - np.sin(turn)], axis=1)
    edge = _dalitz(along**2 / molecule.masses)
    _density(axes, points, "events", edge)
    axes.plot(*edge.T, color="black", lw=1)
    a, b, c = (f"E({name})" for name in speed_names(molecule))
    axes.set(xlabel=rf"({a} - {c}) / ($\sqrt{{3}}$ KER)", ylabel=f"{b} / KER - 1/3", aspect="equal")
    return axes


def ker_angle(events: EventSets, axes: Axes | None = None, *, pair: tuple[str, str] | None = None) -> Axes:
    """Draw the kinetic energy release against the angle between the momenta of two ions.

    Args:
        events: Events, or several sets of them by name.
        axes: Where to draw; axes of a new figure where None.
        pair: Names of the ions; the ends of the first angle of the molecule where None.

    Returns:
        The axes.

    Raises:
        UsageError: For ions that the molecule does not have.
    """
    sets, axes = _sets(events), new_axes(axes)
    (i, first), (j, second) = _pair(next(iter(sets.values())), pair)
    p = {name: _momenta(one) for name, one in sets.items()}
    angle = {name: angle_between(one[:, i], one[:, j]) for name, one in p.items()}
    points = {name: np.stack([angle[name], _energies(one).sum(axis=1)], axis=1) for name, one in sets.items()}
    _density(axes, points, "events")
    axes.set(xlabel=f"angle between p({first}) and p({second}) (deg)", ylabel="kinetic energy release (eV)")
    return axes


def correlation(events: EventSets, axes: Axes | None = None, *, pair: tuple[str, str] | None = None) -> Axes:
    """Draw the size of the momentum of one ion against that of another: see `ker_angle` for the arguments."""
    sets, axes = _sets(events), new_axes(axes)
    (i, first), (j, second) = _pair(next(iter(sets.values())), pair)
    sizes = {name: np.linalg.norm(_momenta(one), axis=2)[:, [i, j]] for name, one in sets.items()}
    _density(axes, sizes, "events")
    axes.set(xlabel=f"|p({first})| (hbar/bohr)", ylabel=f"|p({second})| (hbar/bohr)")
    return axes


def covariance(events: EventSets, axes: Axes | None = None) -> Axes:
    """Draw the correlations of all momentum components in the recoil frame, of the first set of events."""
    one, axes = next(iter(_sets(events).values())), new_axes(axes)
    if len(one) < FEWEST:
        raise UsageError(f"correlations are of {FEWEST} events or more; there are {len(one)}")
    p = momenta_in_recoil_frame(one.molecule, one.momenta).reshape(len(one), -1)
    p = p[:, moving := p.std(axis=0) > 1e-9 * np.abs(p).max()]
    names = [f"{ion} {x}" for ion in speed_names(one.molecule) for x in "xyz"]
    labels = [name for name, moves in zip(names, moving, strict=True) if moves]
    image = axes.imshow(np.corrcoef(p, rowvar=False), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.figure.colorbar(image, ax=axes, label="correlation of momenta")
    return axes


def _sets(events: EventSets) -> dict[str, Events]:
    """Sets of events by name, all of one molecule, none of them empty."""
    sets = {"": events} if isinstance(events, Events) else dict(events)
    if not sets or not all(map(len, sets.values())):
        raise UsageError("there are no events to draw")
    first = next(iter(sets.values())).molecule
    for one in sets.values():
        if not first.same_ions(one.molecule):
            raise UsageError(f"events of {first.name} and of {one.molecule.name} cannot be drawn together")
    return sets


def _complete(events: Events) -> Events:
    """Events of which no ion was lost: the momentum of such a one is what brings the sum to 0."""
    return events[np.flatnonzero(events.columns[LOST] == 0)] if LOST in events.columns else events


def _momenta(events: Events) -> Floats:
    return momenta_in_recoil_frame(events.molecule, events.momenta)


def _energies(events: Events) -> Floats:
    """Kinetic energies (B, N), eV."""
    return (_momenta(events) ** 2).sum(axis=2) / (2.0 * events.molecule.masses * ELECTRONVOLT)


def _dalitz(energies: Floats) -> Floats:
    """Dalitz coordinates (B, 2) of the energies of three ions (B, 3)."""
    share = energies / energies.sum(axis=1, keepdims=True)
    return np.stack([(share[:, 0] - share[:, 2]) / np.sqrt(3.0), share[:, 1] - 1.0 / 3.0], axis=1)


def _pair(events: Events, pair: tuple[str, str] | None) -> list[tuple[int, str]]:
    """Numbers and names of two ions."""
    names, angle = speed_names(events.molecule), events.molecule.angles
    if pair is None:
        i, _, j = angle[0] if angle else (0, 0, 1)
        pair = names[i], names[j]
    if len(set(pair)) != 2 or not set(pair) <= set(names):
        raise UsageError(f"no pair of ions {' '.join(pair)}; {events.molecule.name} has {', '.join(names)}")
    return [(names.index(name), name) for name in pair]


def _range(values: Floats) -> tuple[float, float]:
    """The range of almost all values, with a margin."""
    low, near, far, high = np.percentile(values, (_TAIL, 5.0, 95.0, 100.0 - _TAIL))
    if far > near:  # one odd event of a few does not set the scale
        low, high = max(low, near - _REACH * (far - near)), min(high, far + _REACH * (far - near))
    margin = 0.05 * (high - low) or max(abs(low), 1.0) * 1e-3
    return float(low - margin), float(high + margin)


def _bin_count(count: int) -> int:
    """A number of bins that leaves enough in each (J. Rice's rule), 80 at the most."""
    return int(np.clip(2 * count ** (1 / 3), 8, 80))


def _spectra(
    axes: Axes,
    sets: dict[str, Series],
    quantity: str,
    unit: str = "",
    window: tuple[float, float] | None = None,
) -> Axes:
    """Draw the densities of one or more series of each set: counts where there is a single one."""
    if (count := len(next(iter(sets.values())))) > _SERIES:
        quantity = f"{quantity}, {_SERIES} of {count}"  # those that colours tell apart
        sets = {name: dict(islice(table.items(), _SERIES)) for name, table in sets.items()}
    series = next(iter(sets.values()))
    low, high = window or _range(np.concatenate([one for table in sets.values() for one in table.values()]))
    edges = np.linspace(low, high, 1 + _bin_count(min(map(len, series.values())))).tolist()
    several = len(series) > 1
    density = several or len(sets) > 1
    for row, table in enumerate(sets.values()):
        for k, values in enumerate(table.values()):
            look: dict[str, Any] = {"color": colour(k if several else row), "ls": _LINES[row % len(_LINES)]}
            if row == 0:
                axes.hist(values, edges, density=density, color=look["color"], alpha=0.25)
            axes.hist(values, edges, density=density, histtype="step", lw=1.2, **look)
    _put_legend(axes, _legend(list(series) if several else [], list(filter(None, sets))))
    axes.set(xlabel=_with_unit(quantity, unit), xlim=(low, high))
    reciprocal = "/".join(reversed(unit.split("/"))) if "/" in unit else f"1/{unit}" * bool(unit)
    axes.set_ylabel(_with_unit("density", reciprocal) if density else "events")
    return axes


def _with_unit(quantity: str, unit: str) -> str:
    return f"{quantity} ({unit})" if unit else quantity


def _put_legend(axes: Axes, handles: list[Line2D]) -> None:
    """In two columns above the curves, so that none runs through it."""
    if handles:
        axes.set_ylim(0.0, axes.get_ylim()[1] * (1.05 + 0.09 * (len(handles) + 1 >> 1)))
        axes.legend(handles=handles, ncols=2, loc="upper center")


def _legend(series: list[str], sets: list[str]) -> list[Line2D]:
    """Handles: series by colour, and sets by line, or by both where there is one series."""
    handles = [Line2D([], [], color=colour(k), label=label) for k, label in enumerate(series)]
    inks = ["black" if series else colour(row) for row in range(len(sets))]
    lines = [_LINES[row % len(_LINES)] for row in range(len(sets))]
    named = zip(map(plain, sets), inks, lines, strict=True)
    return handles + [Line2D([], [], color=ink, ls=line, label=name) for name, ink, line in named]


def _density(axes: Axes, sets: dict[str, Floats], counted: str, extent: Floats | None = None) -> None:
    """Draw points (n, 2): a histogram of the first set, and contours of the others."""
    first = next(iter(sets.values()))
    if extent is None:
        ranges = [_range(column) for column in np.concatenate([*sets.values()]).T]
    else:
        ranges = [(1.05 * column.min(), 1.05 * column.max()) for column in extent.T]
    bins = 100 if extent is not None else _bin_count(len(first))
    look: dict[str, Any] = {"norm": LogNorm(vmin=1), "cmap": "cividis", "cmin": 1}
    *_, image = axes.hist2d(first[:, 0], first[:, 1], bins=bins, range=ranges, **look)
    axes.figure.colorbar(image, ax=axes, label=f"{counted} per bin")
    handles = []
    for row, (name, points) in enumerate(list(sets.items())[1:]):
        counts, *edges = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=ranges)
        from scipy.ndimage import gaussian_filter

        smooth = gaussian_filter(counts, _SMOOTH)
        ordered = np.sort(smooth, axis=None)[::-1]
        inside = np.cumsum(ordered) / ordered.sum()
        levels = sorted({float(ordered[np.searchsorted(inside, share)]) for share in _INSIDE})
        middles = [0.5 * (edge[1:] + edge[:-1]) for edge in edges]
        axes.contour(*middles, smooth.T, levels, colors=colour(1 + row), linestyles=_LINES[row % 4])
        text = f"{plain(name)} (39, 86 % inside)"
        handles.append(Line2D([], [], color=colour(1 + row), ls=_LINES[row % 4], label=text))
    if handles:  # above the axes, where no point lies
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0))
