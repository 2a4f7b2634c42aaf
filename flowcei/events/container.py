"""Events: what a detector measured or the simulator made, in atomic units."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import add_columns, checked_columns, component_names, joined_columns
from flowcei.molecules.molecule import Molecule
from flowcei.storage.html import html_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray

_JOINED = {"momenta": "momenta", "positions": "positions", "ids": "event numbers", "sigma": "a noise (sigma)"}
_UNITS = {"momenta": "hbar/bohr", "positions": "bohr", "sigma": "hbar/bohr"}


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """Exploded molecules of one kind.

    `molecule` may be given by name, and momenta and positions in any of these ways: (B, N, 3), (B, 3N)
    or, for one event, (N, 3), as arrays or lists; a DataFrame is taken as `from_dataframe` takes it.

    Attributes:
        molecule: Which ions, in the order of the arrays.
        momenta: (B, N, 3), hbar / bohr.
        positions: Where the ions started, (B, N, 3), bohr; None for measured events.
        ids: The number of each event, (B,).
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
        """Return one line: how many events of which molecule, with what."""
        given = {"positions": self.positions is not None, "noise": self.sigma is not None}
        extra = [*(name for name, is_given in given.items() if is_given), *self.columns]
        return ", ".join([f"Events: {len(self)} of {self.molecule.name}", *extra])

    def _repr_html_(self) -> str:
        """Return the facts that a notebook shows."""
        from flowcei.physics.explosion import kinetic_energy
        from flowcei.units import ELECTRONVOLT

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
                _check_none(np.asarray(~np.isfinite(array).all(axis=(1, 2))), f"{name} are not finite")
        for name, verb, scalars in (("sigma", "has", self.sigma), ("event numbers", "have", self.ids)):
            if scalars is not None and scalars.shape != shape[:1]:
                raise DataError(f"{name} {verb} shape {scalars.shape}; expected ({shape[0]},)")
        if self.sigma is not None:
            _check_none(~(np.isfinite(self.sigma) & (self.sigma >= 0)), "sigma is not a number >= 0")
        if self.columns:
            object.__setattr__(self, "columns", checked_columns(self.columns, self.molecule, shape[0]))
        with np.errstate(over="ignore"):
            relative = self.momenta - np.einsum("bni->bi", self.momenta)[:, None] / n
            squares = np.einsum("bni,bni->b", relative, relative)
        _check_none(squares == 0, "the ions do not move apart (KER is 0)")
        _check_none(~np.isfinite(squares), "momenta are too large (KER is not finite)")

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
            >>> len(events[3]), events[3].numbers, len(events[1:4])
            (1, array([3]), 3)
        """
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

        known = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
        stated = None if mapping is None else ColumnMapping.from_dict(dict(mapping))
        reading = Reading(mapping=stated, columns=columns, unit=unit)
        chunks, origin, lines = frame_arrays(frame, known, reading)
        for line in lines:
            warnings.warn(f"DataFrame: {line}", stacklevel=2)
        return cls.concatenate(
            [cls(known, a.momenta, a.positions, a.event_id, a.sigma, origin, a.columns) for a in chunks]
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with a row for each event: the columns of a CSV file of flowcei.

        Returns:
            `event` where events are numbered, positions (`cx`, ...), bohr, and momenta (`pcx`, ...) and
            `sigma`, hbar / bohr, where they are there, and the extra columns. `from_dataframe` reads it back.

        Example:
            >>> import flowcei
            >>> table = flowcei.simulate("co2", 2, seed=1).to_dataframe()
            >>> list(table.columns[9:12]), len(table)
            (['pcx', 'pcy', 'pcz'], 2)
        """
        import pandas as pd

        labels = self.molecule.labels
        table: dict[str, NDArray[Any]] = {}
        if self.ids is not None:
            table["event"] = self.ids
        if self.positions is not None:
            flat = self.positions.reshape(len(self), -1)
            table |= dict(zip(component_names(labels), flat.T, strict=True))
        flat = self.momenta.reshape(len(self), -1)
        table |= dict(zip(component_names(labels, "p"), flat.T, strict=True))
        if self.sigma is not None:
            table["sigma"] = self.sigma
        return pd.DataFrame(table | self.columns)

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

        arrays = {name: getattr(self, name) for name in _UNITS if getattr(self, name) is not None}
        coordinates = {"event": self.numbers, "ion": list(self.molecule.labels), "axis": list("xyz")}
        variables: dict[str, Any] = {
            name: (("event", "ion", "axis")[: values.ndim], values, {"units": _UNITS[name]})
            for name, values in arrays.items()
        }
        # An extra column may be called as a variable or a dimension is.
        named = add_columns(variables | coordinates, self.columns, np.arange(len(self)))
        variables |= {
            name: ("event", values) for name, values in named.items() if name not in variables | coordinates
        }
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
        first = chunks[0]
        for chunk in chunks[1:]:
            if not chunk.molecule.same_ions(first.molecule):
                raise DataError(f"events of {first.molecule.name} and of {chunk.molecule.name} do not join")
        joined: dict[str, Any] = {}
        for name, word in _JOINED.items():
            arrays = [getattr(chunk, name) for chunk in chunks]
            missing = [array is None for array in arrays]
            if any(missing) and not all(missing):
                raise DataError(f"some events have {word} and others have not: state or drop it in all")
            joined[name] = None if missing[0] else np.concatenate(arrays)
        return replace(first, **joined, columns=joined_columns([chunk.columns for chunk in chunks]))

    def digest(self) -> str:
        """Return a fingerprint of the momenta: whether two sets of events are the same."""
        return hashlib.sha256(np.ascontiguousarray(self.momenta).tobytes()).hexdigest()

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each event, (B,): `ids`, or 0, 1, 2 and so on."""
        return np.arange(len(self), dtype=np.int64) if self.ids is None else self.ids


def one_row(rows: int | slice | NDArray[Any], count: int, row: str = "event") -> slice | NDArray[Any]:
    """An integer among `count` rows as the slice of that row; anything else as it is."""
    if not isinstance(rows, (int, np.integer)) or isinstance(rows, bool):
        return rows  # type: ignore[return-value]
    if not -count <= rows < count:
        raise IndexError(f"there is no {row} {rows} among {count}")
    first = int(rows) % count
    return slice(first, first + 1)


def _as_arrays(events: Events) -> dict[str, Any]:
    """Return the attributes of events as arrays, from lists, flat rows, a DataFrame or a name.

    Arrays that cannot be written (memory maps of files) are copied: torch takes no others.
    """
    molecule: Any = events.molecule
    if isinstance(molecule, (str, Path)):
        molecule = Molecule.load(molecule)
    given = {name: getattr(events, name) for name in _JOINED}
    arrays: dict[str, Any] = {"molecule": molecule}
    if hasattr(events.momenta, "columns"):  # a DataFrame; pandas need not be imported to ask
        table = Events.from_dataframe(given["momenta"], molecule)
        arrays["columns"] = table.columns
        given |= {name: getattr(table, name) for name in _JOINED if getattr(table, name) is not None}
    for name, value in given.items():
        if value is None:
            continue
        try:
            dtype = np.int64 if name == "ids" else np.float64
            array = np.require(value, None if isinstance(value, np.ndarray) else dtype, ["W"])
            arrays[name] = array if name == "ids" else array.astype(np.float64, copy=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} are not an array of numbers") from error
        if name in ("momenta", "positions") and arrays[name].ndim == 2:
            n = len(molecule)
            flat = arrays[name].shape[1] == 3 * n
            arrays[name] = arrays[name].reshape(-1, n, 3) if flat else arrays[name][None]
    return arrays


def _check_none(bad: NDArray, what: str) -> None:
    if bad.any():
        raise DataError(f"{what} ({int(bad.sum())} of {len(bad)} events)", row=int(np.argmax(bad)) + 1)


def events_of(momenta: ArrayLike | Events, molecule: Molecule) -> Events:
    """Momenta, hbar / bohr, in any way that `Events` takes them, as events of a molecule, and of no other."""
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
