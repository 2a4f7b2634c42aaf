"""Events: what a detector measured or the simulator made, in atomic units."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import (
    EXACT,
    add_columns,
    checked_columns,
    chosen_rows,
    component_names,
    joined_columns,
)
from flowcei.experiment.missing import blanked
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import kinetic_energy
from flowcei.storage.html import html_table
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from flowcei.events.foreign.table import Arrays

_JOINED = {"momenta": "momenta", "positions": "positions", "sigma": "a noise (sigma)"}
_UNITS = {"momenta": "hbar/bohr", "positions": "bohr", "sigma": "hbar/bohr"}


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Events:
    """Exploded molecules of one kind.

    `molecule` may be given by name, and momenta and positions in any of these ways: (B, N, 3), (B, 3N)
    or, for one event, (N, 3), as arrays or lists; a DataFrame is taken as `from_dataframe` takes it.

    Attributes:
        molecule: Which ions, in the order of the arrays.
        momenta: (B, N, 3), hbar / bohr.
        positions: Where the ions started, (B, N, 3), bohr; None for measured events.
        event_id: The number of each event, (B,): as given, else 0, 1, 2 and so on.
        numbered: Whether the numbers were given, and not counted.
        sigma: Standard deviation of each momentum component, (B,), hbar / bohr; None where unknown.
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
    positions: NDArray[np.float64] | None
    event_id: NDArray[np.int64]
    sigma: NDArray[np.float64] | None
    origin: dict[str, Any]
    columns: dict[str, NDArray[Any]]
    numbered: bool

    def __init__(
        self,
        molecule: Molecule | str | Path,
        momenta: ArrayLike | pd.DataFrame,
        positions: ArrayLike | None = None,
        event_id: ArrayLike | None = None,
        sigma: ArrayLike | None = None,
        origin: dict[str, Any] | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        *,
        numbered: bool = True,
    ) -> None:
        """Take what was given as arrays, and check shapes and numbers."""
        molecule = Molecule.load(molecule) if isinstance(molecule, (str, Path)) else molecule
        arrays: dict[str, Any] = {"momenta": momenta, "positions": positions, "sigma": sigma}
        arrays["event_id"] = event_id
        if hasattr(momenta, "columns"):  # a DataFrame; pandas need not be imported to ask
            table = Events.from_dataframe(cast("pd.DataFrame", momenta), molecule)
            arrays, columns = _completed(arrays, table), table.columns | dict(columns or {})
        count = None
        for name, value in arrays.items():
            if value is not None:
                arrays[name] = _checked_array(name, value, molecule, count)
                count = len(arrays["momenta"])
        counted = np.arange(len(arrays["momenta"]), dtype=np.int64)
        arrays["event_id"], numbered = _settled(arrays["event_id"], counted, numbered=numbered)
        columns = checked_columns(columns, molecule, len(arrays["momenta"])) if columns else {}
        with np.errstate(over="ignore"):
            relative = arrays["momenta"] - np.einsum("bni->bi", arrays["momenta"])[:, None] / len(molecule)
            squares = np.einsum("bni,bni->b", relative, relative)
        _check_none(squares == 0, "the ions do not move apart (KER is 0)")
        _check_none(~np.isfinite(squares), "momenta are too large (KER is not finite)")
        origin = {} if origin is None else origin
        vars(self).update(arrays, molecule=molecule, origin=origin, columns=columns, numbered=numbered)

    def __repr__(self) -> str:
        """Return one line: how many events of which molecule, with what."""
        extra = [name for name, x in (("positions", self.positions), ("noise", self.sigma)) if x is not None]
        return ", ".join([f"Events: {len(self)} of {self.molecule.name}", *extra, *self.columns])

    def _repr_html_(self) -> str:
        """Return the facts that a notebook shows."""
        molecule = self.molecule
        charges = zip(molecule.labels, molecule.charges, strict=True)
        facts = {"events": len(self), "ions": ", ".join(f"{label} {q:+g}" for label, q in charges)}
        if len(self):
            energy = kinetic_energy(self.momenta, molecule.masses) / ELECTRONVOLT
            low, middle, high = np.percentile(energy, (5, 50, 95))
            facts["KER"] = f"{middle:.3g} eV (median), {low:.3g} to {high:.3g} eV (90 %)"
            facts["momenta"] = f"{np.sqrt((self.momenta**2).mean()):.3g} hbar/bohr (rms component)"
            if self.sigma is not None:
                facts["noise"] = f"{np.median(self.sigma):.3g} hbar/bohr (median sigma)"
        facts["positions"] = "none" if self.positions is None else "in bohr"
        facts |= {"extra columns": ", ".join(self.columns)} if self.columns else {}
        return html_table(f"Events of {molecule.name}", facts)

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.momenta)

    def __iter__(self) -> Iterator[Events]:
        """Yield the events one by one, each as events of length 1."""
        return (self[k : k + 1] for k in range(len(self)))

    def __getitem__(self, rows: int | slice | NDArray[Any]) -> Events:
        """Return some of the events; of an integer that event, as events of length 1.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 5, seed=1)
            >>> len(events[3]), events[3].event_id, len(events[1:4])
            (1, array([3]), 3)
        """
        rows = one_row(rows, len(self))
        return replace(self, **chosen_rows(self, _UNITS, rows), event_id=self.event_id[rows], numbered=True)

    @classmethod
    def from_dataframe(
        cls,
        frame: pd.DataFrame,
        molecule: Molecule | str,
        *,
        unit: str = "",
        columns: str = "",
        mapping: Mapping[str, Any] | None = None,
    ) -> Events:
        """Return the events in a DataFrame, whose columns are understood as those of a file.

        Columns are called as flowcei writes them (`pcx`, ...) or as other programs do (`px_C [au]`,
        `Px_ion_1`, ...), a row is an event or an ion, and further columns of numbers are carried along.

        Args:
            frame: The table.
            molecule: Whose ions they are.
            unit: Unit of momenta or velocities, such as ``"kg m/s"``; else that of the column names, or
                what the size of the numbers shows, which is said in a warning.
            columns: Labels of the ions in the order of the table, where it only numbers them: ``"o c s"``.
            mapping: Meaning of the columns, as a mapping file states it.

        Returns:
            The events, in atomic units. Those that lack an ion are left out, with a warning.

        Raises:
            UsageError: For an unknown molecule or unit.
            DataError: For columns that are not understood, or hold no numbers, naming the first.

        Example:
            >>> import pandas as pd
            >>> names = [f"p{axis}_{ion}" for ion in "COS" for axis in "xyz"]
            >>> frame = pd.DataFrame([[0.0, 0, 1e-23, 8e-23, 0, 1e-23, -8e-23, 0, -2e-23]], columns=names)
            >>> events = Events.from_dataframe(frame.assign(delay=40.0), "ocs", unit="kg m/s")
            >>> events.momenta[0, 1].round(2).tolist(), events.columns["delay"].tolist()
            ([40.14, 0.0, 5.02], [40.0])
        """
        from flowcei.events.foreign.frame import frame_arrays
        from flowcei.events.foreign.interpretation import Reading
        from flowcei.events.foreign.mapping import Mapping as ColumnMapping

        mol = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
        stated = None if mapping is None else ColumnMapping.from_dict(dict(mapping))
        chunks, origin, lines = frame_arrays(frame, mol, Reading(mapping=stated, columns=columns, unit=unit))
        for line in lines:
            warnings.warn(f"DataFrame: {line}", stacklevel=2)
        return cls.concatenate([cls.from_arrays(mol, arrays, origin) for arrays in chunks])

    @classmethod
    def from_arrays(cls, molecule: Molecule, arrays: Arrays, origin: dict[str, Any]) -> Events:
        """The events that a reader has read."""
        a = arrays
        return cls(molecule, a.momenta, a.positions, a.event_id, a.sigma, origin, a.columns)

    def unnumbered(self) -> Events:
        """Return the events counted anew, from 0, as if nobody had numbered them."""
        return replace(self, event_id=np.arange(len(self)), numbered=False)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with a row for each event: the columns of a CSV file of flowcei.

        Returns:
            `event` where events are numbered, positions (`cx`, ...), bohr, and momenta (`pcx`, ...) and
            `sigma`, hbar / bohr, where they are there, and the extra columns. `from_dataframe` reads it back.
            Ions that were not detected have NaN.

        Example:
            >>> import flowcei
            >>> table = flowcei.simulate("co2", 2, seed=1).to_dataframe()
            >>> list(table.columns[9:12]), len(table)
            (['pcx', 'pcy', 'pcz'], 2)
        """
        import pandas as pd

        table: dict[str, Any] = {"event": self.event_id} if self.numbered else {}
        momenta, columns = blanked(self.momenta, self.columns)
        for prefix, vectors in (("", self.positions), ("p", momenta)):
            if vectors is not None:
                names = component_names(self.molecule.labels, prefix)
                table |= zip(names, vectors.reshape(len(self), -1).T, strict=True)
        table |= {} if self.sigma is None else {"sigma": self.sigma}
        return pd.DataFrame(table | columns)

    def plot(self, kind: str = "newton", axes: Any = None, **options: Any) -> Any:  # noqa: ANN401 (matplotlib)
        """Draw the events on axes, of a new figure where None: see `flowcei.plot` for kinds and options.

        Example:
            >>> import flowcei
            >>> flowcei.simulate("ocs", 50, noise="1%", seed=1).plot("ker").get_xlabel()
            'kinetic energy release (eV)'
        """
        # By name, as pandas does it: plots stand above events, and take them.
        return import_module("flowcei.plot.figure").plot_events(self, kind, axes, **options)

    def to_xarray(self) -> xr.Dataset:
        """Return the events as an xarray Dataset with dimensions event, ion and axis.

        Returns:
            Variables `momenta` and, where they are there, `positions` (event, ion, axis) and `sigma` (event),
            with their unit in `attrs`, and the extra columns (event). Coordinates are the numbers of events,
            the labels of ions, and x, y, z.

        Raises:
            UsageError: Where xarray is not installed.

        Example:
            >>> import flowcei
            >>> data = flowcei.simulate("ocs", 4, seed=1).to_xarray()
            >>> (
            ...     dict(data.momenta.sizes),
            ...     data.momenta.sel(ion="s", axis="z").shape,
            ...     data.momenta.attrs["units"],
            ... )
            ({'event': 4, 'ion': 3, 'axis': 3}, (4,), 'hbar/bohr')
        """
        try:
            import xarray as xr
        except ImportError as error:
            raise UsageError("to_xarray needs xarray: pip install xarray") from error

        coordinates = {"event": self.event_id, "ion": list(self.molecule.labels), "axis": list("xyz")}
        variables: dict[str, Any] = {
            name: (tuple(coordinates)[: values.ndim], values, {"units": unit})
            for name, unit in _UNITS.items()
            if (values := getattr(self, name)) is not None
        }
        # An extra column may be called as a variable or a dimension is.
        own = variables | coordinates
        named = add_columns(own, self.columns, np.arange(len(self)))
        variables |= {name: ("event", named[name]) for name in named if name not in own}
        return xr.Dataset(variables, coordinates, {"molecule": self.molecule.name})

    @classmethod
    def concatenate(cls, chunks: Sequence[Events]) -> Events:
        """Join events of one molecule, each with the same attributes; the origin is that of the first.

        Raises:
            DataError: Where there are none, where molecules differ, or where some of them have
                positions, numbers, a noise or an extra column and others have not.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 5, seed=1)
            >>> len(Events.concatenate([events, events]))
            10
        """
        if not chunks:
            raise DataError("there are no events to join")
        first, joined = chunks[0], dict[str, Any]()
        for chunk in chunks[1:]:
            if not chunk.molecule.same_ions(first.molecule):
                raise DataError(f"events of {first.molecule.name} and of {chunk.molecule.name} do not join")
        for name, word in _JOINED.items():
            arrays = [getattr(chunk, name) for chunk in chunks]
            missing = sum(array is None for array in arrays)
            if 0 < missing < len(chunks):
                raise DataError(f"some events have {word} and others have not: state or drop it in all")
            joined[name] = None if missing else np.concatenate(arrays)
        if len({chunk.numbered for chunk in chunks}) > 1:
            raise DataError("some events have numbers and others have not: state or drop them in all")
        joined["event_id"] = np.concatenate([c.event_id for c in chunks]) if first.numbered else None
        return replace(first, **joined, columns=joined_columns([chunk.columns for chunk in chunks]))

    def digest(self) -> str:
        """Return a fingerprint of the momenta: whether two sets of events are the same."""
        return hashlib.sha256(np.ascontiguousarray(self.momenta).tobytes()).hexdigest()


def one_row(rows: int | slice | NDArray[Any], count: int, row: str = "event") -> slice | NDArray[Any]:
    """An integer among `count` rows as the slice of that row; anything else as it is."""
    if not isinstance(rows, (int, np.integer)) or isinstance(rows, bool):
        return rows  # type: ignore[return-value]
    if not -count <= rows < count:
        raise IndexError(f"there is no {row} {rows} among {count}")
    first = int(rows) % count
    return slice(first, first + 1)


def _completed(arrays: dict[str, Any], table: Events) -> dict[str, Any]:
    """What was given beside a table, and else what it holds."""
    given = {name: value for name, value in arrays.items() if name != "momenta" and value is not None}
    numbers = table.event_id if table.numbered else None
    return {name: getattr(table, name) for name in _JOINED} | {"event_id": numbers} | given


def _settled(
    numbers: NDArray[np.int64] | None, counted: NDArray[np.int64], *, numbered: bool
) -> tuple[NDArray[np.int64], bool]:
    """Event numbers, and whether they were given; UsageError for given ones of events said to have none."""
    if not numbered and numbers is not None and not np.array_equal(numbers, counted):
        raise UsageError("event_id of events without numbers: state numbered=True too")
    return (numbers, True) if numbered and numbers is not None else (counted, False)


def _checked_array(name: str, value: Any, molecule: Molecule, count: int | None) -> NDArray[Any]:  # noqa: ANN401
    """An attribute of `Events` as an array, from lists or flat rows, of `count` events where that is known.

    An array that cannot be written (a memory map of a file) is copied: torch takes no other.
    """
    n, vectors = len(molecule), name in ("momenta", "positions")
    try:
        if name == "event_id":
            array: NDArray[Any] = _whole(np.asarray(value))
        else:
            array = np.require(value, None if isinstance(value, np.ndarray) else float, ["W"])
            array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} are not an array of {'whole ' * (name == 'event_id')}numbers") from error
    if vectors and array.ndim == 2:
        array = array.reshape(-1, n, 3) if array.shape[1] == 3 * n else array[None]
    size = (*array.shape, 0)[0] if count is None else count
    if array.shape != ((size, n, 3) if vectors else (size,)):
        words = {"sigma": "sigma has", "event_id": "event numbers have"}.get(name, f"{name} have")
        expected = f"(B, {n}, 3) for {molecule.name}" if vectors else f"({size},)"
        raise DataError(f"{words} shape {array.shape}; expected {expected}")
    if vectors and not np.isfinite(array).all():  # at once: along short axes it takes ten times as long
        _check_none(np.asarray(~np.isfinite(array).all(axis=(1, 2))), f"{name} are not finite")
    if name == "sigma":
        _check_none(~(np.isfinite(array) & (array >= 0)), "sigma is not a number >= 0")
    return array


def _whole(array: NDArray[Any]) -> NDArray[np.int64]:
    """Event numbers as integers; ValueError where that would change one."""
    floating = array.dtype.kind == "f"
    exact = floating and (np.abs(array) <= EXACT).all() and (array == np.floor(array)).all()
    if not (exact or array.dtype.kind in "iu") or (array.dtype.kind == "u" and (array >> 63).any()):
        raise ValueError("no event numbers")
    return np.require(array, np.int64, ["W"])


def _check_none(bad: NDArray, message: str) -> None:
    if bad.any():
        raise DataError(f"{message} ({int(bad.sum())} of {len(bad)} events)", row=int(np.argmax(bad)) + 1)


def events_of(momenta: ArrayLike | Events, molecule: Molecule) -> Events:
    """Momenta, hbar / bohr, in any way that `Events` takes them, as events of a molecule, and of no other."""
    if not isinstance(momenta, Events):
        return Events(molecule, momenta)
    if not momenta.molecule.same_ions(molecule):
        ours, theirs = (f"{m.name} ({', '.join(m.labels)})" for m in (momenta.molecule, molecule))
        difference = momenta.molecule.difference(molecule)
        raise UsageError(f"the events are of {ours}, the model is for {theirs}: {difference}")
    return momenta
