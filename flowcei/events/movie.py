"""Simulated pump-probe runs: geometries that move with the delay, along one or several pathways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.events.simulation import fresh_seed, simulate
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.storage.files import read_toml
from flowcei.units import FWHM

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELAY, PATHWAY = "delay", "pathway"
"""Columns of the events of a movie: the nominal delay, and the number of the pathway, from 1."""

_EVENTS = 500  # at each delay
_FINE = 20.0  # steps of the true delay in a full width of the cross-correlation
_MOST = 10_000_000  # events
_KEYS = {"delays", "events", "cross_correlation", "pathways"}


def simulate_movie(
    molecule: Molecule | str,
    movie: Mapping[str, Any] | str | Path,
    *,
    seed: int | None = None,
    **detector: Any,  # noqa: ANN401 (of `simulate`)
) -> Events:
    """Simulate events at several delays, over which the geometries move.

    A movie is a table, or its TOML file: `delays` is a list, or `{ from, to, count }`; `events` the number at
    each; `cross_correlation` the full width at half maximum of pump and probe together, by which true delays
    scatter about the nominal one. Each of `pathways` has a `share` of the molecules, and `frames`: tables of
    a prior with its `delay`. Between two frames all numbers of the priors are interpolated, before the first
    and after the last they stay.

    Args:
        molecule: As of `simulate`.
        movie: The movie.
        seed: Seed of all randomness.
        **detector: `noise`, `experiment`, `build_up`, `missing` and `accuracy` of `simulate`.

    Returns:
        Events with the extra columns `delay` and `pathway`, in the order of the delays.

    Raises:
        UsageError: For a movie that is not understood.

    Example:
        >>> import flowcei
        >>> rows = [{"atom": "c"}, {"atom": "o", "from": "c", "length": {"normal": [2.2, 0.1]}}]
        >>> last = {"atom": "s", "from": "c", "angle_to": "o", "angle": {"bend": 6.0}}
        >>> frames = [
        ...     {"delay": t, "kind": "internal", "zmatrix": [*rows, last | {"length": {"normal": [r, 0.1]}}]}
        ...     for t, r in ((0.0, 2.95), (100.0, 5.0))
        ... ]
        >>> movie = {"delays": [0, 50, 100], "events": 4, "pathways": [{"frames": frames}]}
        >>> flowcei.simulate_movie("ocs", movie, noise="1%", seed=1).columns["delay"].tolist()[::4]
        [0.0, 50.0, 100.0]
    """
    table = read_toml(Path(movie)) if isinstance(movie, str | Path) else movie
    ions = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
    seed = fresh_seed() if seed is None else seed
    delays, number, width, pathways = _read(table)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(10,)))
    delay = np.repeat(delays, number)
    path = rng.choice(len(pathways), len(delay), p=[share for share, _ in pathways])
    step = width / _FINE or 1.0
    true = delay + width / FWHM * rng.standard_normal(len(delay)) if width else delay
    true = np.round(true / step) * step if width else true
    blocks, rows = [], []
    for k, (_, frames) in enumerate(pathways):
        for time in np.unique(true[path == k]):
            rows.append(np.flatnonzero((path == k) & (true == time)))
            prior = build_prior(ions, _at(frames, float(time)))
            own = int(rng.integers(2**32))
            blocks.append(simulate(ions, len(rows[-1]), prior=prior, seed=own, **detector))
    order = np.argsort(np.concatenate(rows))
    events = Events.concatenate(blocks)[order]
    columns = events.columns | {DELAY: delay, PATHWAY: path + 1}
    origin = {"movie": dict(table), "seed": seed, "noise": str(detector.get("noise"))}
    x, sigma = events.positions, events.sigma
    return Events(ions, events.momenta, positions=x, sigma=sigma, columns=columns, origin=origin)


def movie_size(movie: Mapping[str, Any]) -> int:
    """How many events a movie has; UsageError where it is not understood."""
    delays, number, _, _ = _read(movie)
    return number * len(delays)


def _read(
    table: Mapping[str, Any],
) -> tuple[NDArray[np.float64], int, float, list[tuple[float, list[dict[str, Any]]]]]:
    """Delays, events at each, cross-correlation, and share and frames of each pathway; UsageError."""
    if unknown := set(table) - _KEYS:
        raise UsageError(f"a movie has no {min(unknown)!r}; it has {', '.join(sorted(_KEYS))}")
    delays = _delays(table.get("delays"))
    number = _count(table.get("events", _EVENTS), "events")
    if number * len(delays) > _MOST:
        raise UsageError(f"{number} events at {len(delays)} delays are more than {_MOST:,}")
    pathways = table.get("pathways")
    if (
        not isinstance(pathways, Sequence)
        or not pathways
        or not all(isinstance(p, Mapping) for p in pathways)
    ):
        raise UsageError("a movie needs pathways: [[pathways]], each with [[pathways.frames]]")
    shares = np.array([_number(one.get("share", 1.0), "share", least=0.0) for one in pathways])
    if not np.isclose(shares.sum(), 1.0):
        raise UsageError(f"shares of the pathways sum to {shares.sum():g}; they must sum to 1")
    width = _number(table.get("cross_correlation", 0.0), "cross_correlation", least=0.0)
    each = zip(shares / shares.sum(), map(_frames, pathways), strict=True)
    return delays, number, width, [(float(share), frames) for share, frames in each]


def _delays(given: object) -> NDArray[np.float64]:
    """The nominal delays, of a list or of { from, to, count }."""
    if isinstance(given, Mapping) and set(given) == {"from", "to", "count"}:
        ends = _number(given["from"], "from"), _number(given["to"], "to")
        return np.linspace(*ends, min(_count(given["count"], "count"), _MOST))
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str) or not len(given):
        raise UsageError("delays of a movie are a list of numbers, or { from, to, count }")
    return np.array([_number(value, "delays") for value in given])


def _frames(pathway: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The frames of a pathway in the order of their delays."""
    if unknown := set(pathway) - {"share", "frames"}:
        raise UsageError(f"a pathway of a movie has no {min(unknown)!r}; it has share and frames")
    frames = pathway.get("frames")
    if not isinstance(frames, Sequence) or not frames or not all(isinstance(f, Mapping) for f in frames):
        raise UsageError("a pathway needs frames: tables of a prior, each with its delay")
    for frame in frames:
        _number(frame.get("delay"), "delay of a frame")
    return sorted((dict(frame) for frame in frames), key=lambda frame: float(frame["delay"]))


def _number(value: object, name: str, least: float = -np.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise UsageError(f"{name} of a movie is {str(value)[:40]!r}; it must be a number")
    if value < least:
        raise UsageError(f"{name} of a movie is {value:g}; it must be {least:g} or more")
    return float(value)


def _count(value: object, name: str) -> int:
    number = _number(value, name, least=1.0)
    if number != int(number):
        raise UsageError(f"{name} of a movie is {number:g}; it must be a whole number")
    return int(number)


def _at(frames: list[dict[str, Any]], time: float) -> dict[str, Any]:
    """The table of a prior at a delay."""
    times = [float(frame["delay"]) for frame in frames]
    last = int(np.searchsorted(times, time))
    tables = [{name: value for name, value in frame.items() if name != "delay"} for frame in frames]
    if last == 0 or last == len(times):
        return tables[min(last, len(times) - 1)]
    share = (time - times[last - 1]) / (times[last] - times[last - 1])
    blended: dict[str, Any] = _between(tables[last - 1], tables[last], share)
    return blended


def _between(first: Any, second: Any, share: float) -> Any:  # noqa: ANN401 (a value of a table)
    """Two tables of the same form with all their numbers interpolated."""
    if isinstance(first, Mapping) and isinstance(second, Mapping) and set(first) == set(second):
        return {name: _between(value, second[name], share) for name, value in first.items()}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [_between(*pair, share) for pair in zip(first, second, strict=True)]
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second)]
    if all(numbers):
        return (1.0 - share) * first + share * second
    if first != second:
        raise UsageError(
            f"frames of a pathway differ in more than numbers: {str(first)[:40]} and {str(second)[:40]}"
        )
    return first
