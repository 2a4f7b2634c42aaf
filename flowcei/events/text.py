"""Events as CSV: the columns of the first study, one row an event, atomic units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from flowcei.errors import DataError
from flowcei.events.extracolumns import NAMELESS, component_names
from flowcei.events.faults import refuse
from flowcei.events.foreign.mapping import Mapping, Vectors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    import numpy as np

    from flowcei.events.container import Events
    from flowcei.events.faults import Faults
    from flowcei.events.foreign.mapping import Component
    from flowcei.events.foreign.table import Table
    from flowcei.molecules.molecule import Molecule

columns = component_names


def is_native_header(names: Sequence[str], molecule: Molecule) -> bool:
    """Whether column names are those that flowcei writes, or nearly: one momentum is enough."""
    return not set(columns(molecule.labels, "p")).isdisjoint(names)


def native_mapping(table: Table, molecule: Molecule, faults: Faults | None = None) -> Mapping:
    """Return the meaning of the columns that flowcei writes, refusing what does not fit.

    The header names the columns in any order: momenta (`pcx`, ...), and where known
    positions (`cx`, ...), `event` (a number for each) and `sigma` (noise, hbar / bohr).
    A leading column of row numbers without a name is dropped; what others are is not judged here.

    Args:
        table: The file.
        molecule: Whose ions they name.
        faults: Collects columns without a name, and lacking positions; the first is raised where None.

    Raises:
        DataError: Naming the first column that is missing.
    """
    names, path = table.names, table.path
    momenta, positions = columns(molecule.labels, "p"), columns(molecule.labels)
    ions = f"{molecule.name} with ions {', '.join(molecule.labels)}"
    missing = [c for c in momenta if c not in names]
    if missing:
        what = f"the momentum column is missing (for {ions}: {momenta[0]} ... {momenta[-1]})"
        raise DataError(what, path=path, column=missing[0])
    for name in names:
        if name.startswith(NAMELESS):
            error = DataError("unknown column; name it or remove it", path=path, column=name)
            refuse(error, "columns", faults)
    lost = [c for c in positions if c not in names]
    if 0 < len(lost) < len(positions):
        what = "the position column is missing; give all positions or none"
        refuse(DataError(what, path=path, column=lost[0]), "columns", faults)
    return Mapping(
        momenta=Vectors(unit="hbar/bohr", ions=_vectors(molecule, "p")),
        positions=Vectors(unit="bohr", ions=_vectors(molecule, "")) if not lost else None,
        event="event" if "event" in names else "",
        sigma="sigma" if "sigma" in names else "",
    )


def _vectors(molecule: Molecule, prefix: str) -> dict[str, tuple[Component, Component, Component]]:
    return {k: (f"{prefix}{k}x", f"{prefix}{k}y", f"{prefix}{k}z") for k in molecule.labels}


def write_csv(events: Events, file: TextIO, *, header: bool = True) -> None:
    """Write events as CSV; numbers read back exactly."""
    labels = events.molecule.labels
    parts: dict[str, np.ndarray] = {}
    if events.ids is not None:
        parts["event"] = events.ids
    if events.positions is not None:
        flat = events.positions.reshape(len(events), -1)
        parts |= dict(zip(columns(labels), flat.T, strict=True))
    flat = events.momenta.reshape(len(events), -1)
    parts |= dict(zip(columns(labels, "p"), flat.T, strict=True))
    if events.sigma is not None and events.sigma.any():
        parts["sigma"] = events.sigma
    pd.DataFrame(parts | events.columns).to_csv(file, index=False, header=header, na_rep="nan")
