"""Events: what a detector measured or the simulator made, in atomic units."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import checked_columns, component_names, joined_columns, listed
from flowcei.molecules.molecule import Molecule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

_JOINED = {"momenta": "momenta", "positions": "positions", "ids": "event numbers", "sigma": "a noise (sigma)"}


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """Exploded molecules of one kind.

    `molecule` may be given by name, and momenta and positions in any of these ways: (B, N, 3), (B, 3N)
    or, for one event, (N, 3), as arrays or lists; a DataFrame with the columns of a CSV file of flowcei
    (`pcx`, ...) brings positions, numbers, noise and extra columns along.

    Attributes:
        molecule: Which ions, in the order of the arrays.
        momenta: (B, N, 3), hbar / bohr.
        positions: Where the ions started, (B, N, 3), bohr; None for measured events.
        ids: The number of each event, (B,).
        sigma: Standard deviation of each momentum component, (B,), hbar / bohr; None where
            nobody said.
        origin: How the events came about (prior, noise, seed, versions), where known.
        columns: Extra columns, (B,) each: a delay, a shot number, a pulse energy; NaN where an
            event has none. They are carried along, and nothing is computed from them.

    Raises:
        DataError: For shapes that do not match, numbers that are not finite, or an event
            without kinetic energy.

    Example:
        >>> events = Events("co2", [[0, 0, 1, 50, 2, 80, -50, -2, -81]], columns={"delay_fs": [40.0]})
        >>> events.momenta.shape, [float(event.columns["delay_fs"][0]) for event in events]
        ((1, 3, 3), [40.0])
    """

    molecule: Molecule
    momenta: NDArray[np.float64]
    positions: NDArray[np.float64] | None = None
    ids: NDArray[np.int64] | None = None
    sigma: NDArray[np.float64] | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    if TYPE_CHECKING:  # what is taken; the attributes are what it becomes

        def __init__(
            self,
            molecule: Molecule | str | Path,
            momenta: ArrayLike | pd.DataFrame,
            positions: ArrayLike | None = None,
            ids: ArrayLike | None = None,
            sigma: ArrayLike | None = None,
            origin: dict[str, Any] = ...,
            columns: Mapping[str, ArrayLike] = ...,
        ) -> None: ...

    def __repr__(self) -> str:
        """Say in a line what there is of how many events."""
        there = {"positions": self.positions is not None, "noise": self.sigma is not None}
        extra = [*(name for name, held in there.items() if held), *self.columns]
        return ", ".join([f"Events: {len(self)} of {self.molecule.name}", *extra])

    def __post_init__(self) -> None:
        """Take what was given as arrays, and check shapes and numbers."""
        for name, value in _as_arrays(self).items():
            object.__setattr__(self, name, value)
        n = len(self.molecule)
        shape = (len(self.momenta) if self.momenta.ndim else 0, n, 3)
        for name, array in (("momenta", self.momenta), ("positions", self.positions)):
            if array is None:
                continue
            if array.shape != shape:
                msg = f"{name} have shape {array.shape}; expected (B, {n}, 3) for {self.molecule.name}"
                raise DataError(msg)
            if not np.isfinite(array).all():  # at once: along short axes it takes ten times as long
                _refuse(np.asarray(~np.isfinite(array).all(axis=(1, 2))), f"{name} are not finite")
        if self.sigma is not None:
            if self.sigma.shape != shape[:1]:
                msg = f"sigma has shape {self.sigma.shape}; expected ({shape[0]},)"
                raise DataError(msg)
            _refuse(~(np.isfinite(self.sigma) & (self.sigma >= 0)), "sigma is not a number >= 0")
        if self.ids is not None and self.ids.shape != shape[:1]:
            msg = f"event numbers have shape {self.ids.shape}; expected ({shape[0]},)"
            raise DataError(msg)
        if self.columns:
            object.__setattr__(self, "columns", checked_columns(self.columns, self.molecule, shape[0]))
        with np.errstate(over="ignore"):
            spread = self.momenta - np.einsum("bni->bi", self.momenta)[:, None] / n
            squares = np.einsum("bni,bni->b", spread, spread)
        _refuse(squares == 0, "the ions do not move apart (KER is 0)")
        _refuse(~np.isfinite(squares), "momenta are too large (KER is not finite)")

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.momenta)

    def __iter__(self) -> Iterator[Events]:
        """Yield the events one by one, each as events of length 1."""
        return (self[k : k + 1] for k in range(len(self)))

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> Events:
        """Return some of the events; of a single place the event there, as events of length 1."""
        rows = one_row(rows, len(self))
        return replace(
            self,
            momenta=self.momenta[rows],
            positions=None if self.positions is None else self.positions[rows],
            ids=self.numbers[rows],
            sigma=None if self.sigma is None else self.sigma[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Events]) -> Events:
        """Join events of one molecule, each with the same attributes; the origin is that of the first.

        Raises:
            DataError: Where there are none, where molecules differ, or where some of them have
                positions, numbers, a noise or an extra column and others have not.
        """
        if not parts:
            raise DataError("there are no events to join")
        first = parts[0]
        for part in parts[1:]:
            if not part.molecule.same_ions(first.molecule):
                raise DataError(f"events of {first.molecule.name} and of {part.molecule.name} do not join")
        joined: dict[str, Any] = {}
        for name, word in _JOINED.items():
            arrays = [getattr(part, name) for part in parts]
            missing = [array is None for array in arrays]
            if any(missing) and not all(missing):
                raise DataError(f"some events have {word} and others have not: state or drop it in all")
            joined[name] = None if missing[0] else np.concatenate(arrays)
        return replace(first, **joined, columns=joined_columns([part.columns for part in parts]))

    def digest(self) -> str:
        """Return a fingerprint of the momenta: whether two sets of events are the same."""
        return hashlib.sha256(np.ascontiguousarray(self.momenta).tobytes()).hexdigest()

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each event, (B,): `ids`, or 0, 1, 2 and so on."""
        return np.arange(len(self), dtype=np.int64) if self.ids is None else self.ids


def one_row(rows: int | slice | NDArray[Any], count: int) -> slice | NDArray[Any]:
    """Return a place among `count` events as the slice of it; anything else as it is.

    Raises:
        IndexError: For a place beyond the events.

    Example:
        >>> one_row(-1, 5)
        slice(4, 5, None)
    """
    if not isinstance(rows, (int, np.integer)) or isinstance(rows, bool):
        return rows  # type: ignore[return-value]
    if not -count <= rows < count:
        msg = f"there is no event {rows} among {count}"
        raise IndexError(msg)
    place = int(rows) % count
    return slice(place, place + 1)


def _as_arrays(events: Events) -> dict[str, Any]:
    """Return the attributes of events as arrays, from lists, flat rows, a DataFrame or a name.

    Arrays that cannot be written (memory maps of files) are copied: torch takes no others.
    """
    molecule: Any = events.molecule
    if isinstance(molecule, (str, Path)):
        molecule = Molecule.load(molecule)
    given = {name: getattr(events, name) for name in ("momenta", "positions", "ids", "sigma")}
    columns = events.columns
    if hasattr(given["momenta"], "columns"):  # a DataFrame; pandas need not be imported to ask
        given, columns = _of_frame(given["momenta"], molecule, given)
    out: dict[str, Any] = {"molecule": molecule, "columns": columns}
    for name, value in given.items():
        if value is None:
            continue
        try:
            dtype = np.int64 if name == "ids" else np.float64
            array = np.require(value, None if isinstance(value, np.ndarray) else dtype, ["W"])
            out[name] = array if name == "ids" else array.astype(np.float64, copy=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} are not an array of numbers") from error
        if name in ("momenta", "positions") and out[name].ndim == 2:
            n = len(molecule)
            flat = out[name].shape[1] == 3 * n
            out[name] = out[name].reshape(-1, n, 3) if flat else out[name][None]
    return out


def _of_frame(
    frame: pd.DataFrame, molecule: Molecule, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return momenta, positions, numbers and noise of a table, and its extra columns."""
    names = [str(name) for name in frame.columns]
    momenta, positions = component_names(molecule.labels, "p"), component_names(molecule.labels)
    wanted = [*momenta, *(positions if set(positions) & set(names) else ())]
    missing = next((name for name in wanted if names.count(name) != 1), "")
    if missing:
        what = f"a table of {molecule.name} has this column once, among {momenta[0]} ... {momenta[-1]}"
        raise DataError(f"{what}; it has {listed(names)}", column=missing)
    rest = {str(name): frame[name].to_numpy() for name in frame.columns if str(name) not in wanted}
    out = given | {"momenta": frame[momenta].to_numpy(), "ids": rest.pop("event", given["ids"])}
    out["sigma"] = rest.pop("sigma", given["sigma"])
    if len(wanted) > len(momenta):
        out["positions"] = frame[positions].to_numpy()
    return out, rest


def _refuse(bad: NDArray, what: str) -> None:
    if bad.any():
        msg = f"{what} ({int(bad.sum())} of {len(bad)} events)"
        raise DataError(msg, row=int(np.argmax(bad)) + 1)


def events_of(momenta: ArrayLike | Events, molecule: Molecule) -> Events:
    """Return momenta, hbar / bohr, in any way that `Events` takes them, as events of a molecule.

    Raises:
        UsageError: For events of another molecule.
        DataError: For an array that holds no events.
    """
    if not isinstance(momenta, Events):
        return Events(molecule, momenta)
    if not momenta.molecule.same_ions(molecule):
        msg = (
            f"the events are of {momenta.molecule.name} ({', '.join(momenta.molecule.labels)}), "
            f"the model is for {molecule.name} ({', '.join(molecule.labels)}): "
            f"{momenta.molecule.difference(molecule)}"
        )
        raise UsageError(msg)
    return momenta
