"""What every law of an ensemble can do: be written, with its tables."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowcei.storage.creation import atomic_write
from flowcei.storage.hdf import writing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd

    from flowcei.check.run import RunCheck
    from flowcei.molecules.molecule import Molecule

FLAGGED = "flagged"
"""Why events are left out."""

LEVEL = 1.6449
"""Standard errors on either side of which 90 % of a normal distribution lie."""


def added(laws: Sequence[EnsembleLaw], flagged: int) -> dict[str, Any]:
    """What laws of some events each have in common: molecule, events, samples, what was left out of all."""
    first = laws[0]
    counts = {reason: sum(law.left_out[reason] for law in laws) for reason in first.left_out}
    return {
        "molecule": first.molecule,
        "events": sum(law.events for law in laws),
        "samples": first.samples,
        "left_out": counts | {FLAGGED: flagged},
        "log_likelihood": sum(law.log_likelihood for law in laws),
    }


class EnsembleLaw(ABC):
    """A law of the geometries of many events."""

    kind: str
    molecule: Molecule
    events: int
    samples: int  # an event
    left_out: dict[str, int]  # events that do not count as they should, by reason
    log_likelihood: float  # over that of the prior of the samples, of all events together
    check: RunCheck | None = None  # whether the run is what the law predicts; None where it was not asked

    def _repr_html_(self) -> str:
        table = self.to_dataframe().to_html(index=False, float_format="{:.4g}".format)
        return f"<p>{escape(repr(self))}</p>{table}"

    @abstractmethod
    def to_dataframe(self) -> pd.DataFrame:
        """Return the table of the law."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a file."""

    def facts(self) -> dict[str, Any]:
        """Return what else is known, as plain numbers and text."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text: the tables, and how well they are known."""
        names = ("events", "samples", "left_out", "log_likelihood")
        table = {"molecule": self.molecule.name, "law": self.kind} | {n: getattr(self, n) for n in names}
        run = {} if self.check is None else {"run": self.check.to_dict()}
        return table | {"table": self.to_dataframe().to_dict("records")} | self.facts() | run

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the arrays of the law to an HDF5 file, with the tables as JSON in the attribute `summary`.

        Raises:
            UsageError: Where the file exists or cannot be written.
        """
        with atomic_write(Path(path), overwrite=overwrite) as target, writing(target) as file:
            for name, array in self.arrays().items():
                file[name] = array
            file.attrs.update({"content": "flowcei population", "summary": json.dumps(self.to_dict())})
