"""The arrays of posterior samples: rows, joining, tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import add_columns, checked_columns
from flowcei.experiment.experiment import Experiment, has_accidents
from flowcei.experiment.missing import lost_ions
from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.exact import R_HAT
from flowcei.posterior.flags import EXCLUDING, FLAG_BITS, counted, flag_names, in_words
from flowcei.posterior.structures import sample_table
from flowcei.storage.html import html_table

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.build_up import BuildUpPrior
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Rows
    from flowcei.posterior.weights import Weights

ARRAYS = {
    "positions": ("event", "sample", "ion", "axis"),
    "momenta": ("event", "ion", "axis"),
    "event_id": ("event",),
    "sigma": ("event",),
    "log_prob": ("event", "sample"),
    "flags": ("event",),
    "build_up": ("event", "sample"),
    "assignment": ("event", "sample"),
}
"""The arrays of samples with their dimensions, in the order of files."""


@dataclass(frozen=True, eq=False, repr=False)
class SampleArrays(RowArrays):
    """The arrays of `PosteriorSamples`, which says what they are."""

    ROWS = (*ARRAYS, "weights", "columns")

    molecule: Molecule
    momenta: Floats
    positions: NDArray[np.float32]
    log_prob: Floats | None
    event_id: Numbers
    sigma: Floats
    origin: dict[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    flags: NDArray[np.uint16] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    build_up: Floats | None = None
    assignment: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        """Check shapes."""
        e, n = (*self.positions.shape, 0, 0)[:2]
        size = {"event": e, "sample": n, "ion": len(self.molecule), "axis": 3}
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays["weights"] = None if self.weights is None else self.weights.log_weights
        for name, array in arrays.items():
            expected = tuple(size[dimension] for dimension in ARRAYS.get(name, ("event", "sample")))
            if array is not None and array.shape != expected:
                raise DataError(f"{name} of samples have shape {array.shape}; expected {expected}")
        if self.columns:
            object.__setattr__(self, "columns", checked_columns(self.columns, self.molecule, e))

    @property
    def exact(self) -> bool:
        """Whether they are of the exact posterior and count alike, as ``exact=True`` draws them."""
        return R_HAT in self.columns

    def __repr__(self) -> str:
        events, n = self.positions.shape[:2]
        weighed = ", exact" if self.exact else ", weighed" if self.weights is not None else ""
        flagged = f", {self.flagged.sum()} flagged" if self.flagged.any() else ""
        return f"PosteriorSamples: {events} events x {n} samples of {self.molecule.name}{weighed}{flagged}"

    def _repr_html_(self) -> str:
        events, n = self.positions.shape[:2]
        facts: dict[str, object] = {"molecule": self.molecule.name, "events": events, "samples": n}
        facts |= {name: self.origin[name] for name in ("model", "noise", "seed") if name in self.origin}
        if self.exact:
            facts["of the exact posterior"] = "yes"
        elif self.weights is not None:
            facts["sample efficiency (median)"] = f"{np.median(self.weights.efficiency):.1%}"
        counts = {f"flagged {name}": int((self.flag_bits & bit > 0).sum()) for name, bit in FLAG_BITS.items()}
        facts |= {name: count for name, count in counts.items() if count}
        return html_table("PosteriorSamples", facts | {f"column {name}": "extra" for name in self.columns})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join samples of different events.

        Raises:
            DataError: Where some have a density or weights and others do not, or molecules differ.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 3, seed=1), 9, noise="1%", seed=1)
            >>> flowcei.PosteriorSamples.concatenate([s[:1], s[2]]).event_id.tolist()
            [0, 2]
        """
        if any(part.molecule.to_dict() != parts[0].molecule.to_dict() for part in parts):
            raise DataError("samples of different molecules cannot be joined")
        if any(part.flags is not None for part in parts):
            parts = [replace(part, flags=part.flag_bits) for part in parts]
        joined, faulty = super().concatenate(parts), next((part for part in parts if part.verdict), None)
        if faulty is None:
            return joined
        return replace(joined, origin=joined.origin | {"verdict": faulty.origin["verdict"]})

    @property
    def answered(self) -> Bools:
        """Which events (E,) have samples: False where the model can express no geometry for them."""
        return np.asarray(np.isfinite(self.positions).all(axis=(1, 2, 3)))

    @property
    def finite(self) -> bool:
        """Whether all numbers are, but for the samples of events that are flagged to have none."""
        chosen = self.flag_bits & FLAG_BITS["no-geometry"] == 0
        answered = self if chosen.all() else self[chosen]  # no copy of a large file that is sound
        density = answered.log_prob
        if density is not None and not np.isfinite(density).all():
            # Exact samples of an event that no geometry explains are the model's, of unknown density.
            mixed = answered.flag_bits & FLAG_BITS["mixing"] == 0
            density = density[mixed | ~np.isnan(density).all(axis=1)]
        tables = (self.event_id, self.momenta, self.sigma, answered.positions, density)
        return all(table is None or bool(np.isfinite(table).all()) for table in tables)

    @property
    def flag_bits(self) -> NDArray[np.uint16]:
        """The flags of each event, (E,): 0 where none were raised."""
        return np.zeros(len(self), np.uint16) if self.flags is None else self.flags

    @property
    def flag_names(self) -> tuple[tuple[str, ...], ...]:
        """The names of the flags of each event, E tuples: see `flowcei.posterior.flags.FLAGS`."""
        return tuple(map(flag_names, self.flag_bits))

    @property
    def flagged(self) -> Bools:
        """Which events (E,) have an answer that is not to be trusted.

        Poor weights alone (`efficiency`, `weights`) do not count, since the flow's samples stand in; nor do
        chains that have not mixed (`mixing`): `flag_names` has these.
        """
        return np.asarray(self.flag_bits & EXCLUDING > 0)

    @property
    def verdict(self) -> str | None:
        """What `flowcei sample` found wrong with their run: one line, "" for nothing; None: nobody looked."""
        stated = self.origin.get("verdict")
        if not isinstance(stated, dict):
            return None
        return "" if stated.get("sound") else str(stated.get("text", ""))

    @property
    def measurement(self) -> Measurement | None:
        """What the experiment, where one is stated, does to the momenta."""
        stated = self.origin.get("experiment")
        return Experiment.from_dict(stated).of(self.molecule) if stated else None

    @property
    def lost(self) -> Bools | None:
        """Which ions (E, N) were not detected; None where all were."""
        return lost_ions(self.columns, len(self.molecule))

    @property
    def mixed(self) -> bool:
        """Whether the events hold accidents, and the samples have evidence, by which these are told."""
        return self.weights is not None and has_accidents(self.origin.get("experiment", {}))

    @property
    def build_up_prior(self) -> BuildUpPrior | None:
        """What the experiment says of its build-up time; None where it states one, or none."""
        return None if (own := self.measurement) is None else own.build_up_prior

    @property
    def isotropic(self) -> bool:
        """Whether the noise is one level, which a model is told: else its own samples are of another."""
        return (own := self.measurement) is None or own.isotropic

    @property
    def units(self) -> dict[str, str]:
        """The units of the arrays that have one."""
        density = f"log(1/bohr^{3 * len(self.molecule) - 3})"
        units = {"positions": "bohr", "momenta": "hbar/bohr", "sigma": "hbar/bohr", "log_prob": density}
        if self.build_up is None:
            return units
        return units | {"log_prob": f"{density[:-1]}/fs)", "build_up": "fs"}

    def unflagged(self, *, keep_flagged: bool = False) -> Self:
        """Return the events whose answer may be trusted.

        Args:
            keep_flagged: Whether to return flagged ones too; those without a geometry never are.

        Raises:
            DataError: Where none is left.
        """
        chosen = self.answered & (keep_flagged | ~self.flagged)
        if not chosen.any():
            advice = "none has samples to look at" if keep_flagged else "none is left to look at"
            raise DataError(f"{counted(self.flag_bits)}: {advice}")
        return self if chosen.all() else self[chosen]

    def first(self) -> Self:
        """Return the first sample of each event alone, without weights."""
        return self.select(np.zeros((len(self), 1), dtype=np.intp))

    def select(self, samples: Rows) -> Self:
        """Return some samples (E, m) of each event, by their numbers, each counting alike."""
        rows = np.arange(len(self))[:, None] * self.positions.shape[1] + samples
        arrays = {name: getattr(self, name) for name in ("positions", "log_prob", "build_up", "assignment")}
        # Rows of one table, which NumPy copies whole: half the time of two indices.
        some = {k: a.reshape(-1, *a.shape[2:]).take(rows, axis=0) for k, a in arrays.items() if a is not None}
        return replace(self, **some, weights=None)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a sample: event, sample, positions (bohr), log density, flags, weight, extra columns.

        Positions are in the frame of the momenta, each ion as it was measured (`labelled`). Of an event
        without samples (`answered`) positions, density and weight are NaN.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 5, seed=1)
            >>> s.to_dataframe()[["event", "sample", "cx"]].shape
            (10, 3)
        """
        after: dict[str, Any] = {} if self.log_prob is None else {"log_prob": self.log_prob}
        after |= {} if self.build_up is None else {"build_up": self.build_up}
        if self.flags is not None:
            words = np.array([in_words(flags) for flags in self.flags], dtype=object)
            after["flags"] = np.repeat(words, self.positions.shape[1])
        if self.assignment is not None:
            after["assignment"] = self.assignment
        if self.weights is not None:
            after["weight"] = np.where(self.answered[:, None], self.weights.normalised, np.nan)
        return sample_table(self.molecule, self.event_id, self.columns, self.positions, {}, after)

    def to_xarray(self) -> Any:  # noqa: ANN401 (xarray is optional)
        """Return the samples as an `xarray.Dataset` of dimensions event, sample, ion and axis.

        Variables have the names of the attributes and their unit in `attrs`; `weight` is normalised,
        `log_weight` is not; extra columns go along.

        Raises:
            UsageError: Where xarray is not installed.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 5, seed=1)
            >>> s.to_xarray()["positions"].sel(event=1, ion="c").mean("sample").shape
            (3,)
        """
        try:
            import xarray
        except ImportError as error:
            msg = "to_xarray needs xarray: pip install flowcei[xarray]; or use to_dataframe"
            raise UsageError(msg) from error
        arrays = {name: getattr(self, name) for name in ARRAYS}
        event, sample, ion = arrays.pop("event_id"), np.arange(self.positions.shape[1]), self.molecule.labels
        coords = {"event": event, "sample": sample, "ion": list(ion), "axis": ["x", "y", "z"]}
        attrs: dict[str, Any] = {name: {"unit": unit} for name, unit in self.units.items()}
        attrs |= {"assignment": {}}
        attrs["flags"] = {"flag_masks": list(FLAG_BITS.values()), "flag_meanings": " ".join(FLAG_BITS)}
        variables: dict[str, Any]
        variables = {k: (ARRAYS[k], array, attrs[k]) for k, array in arrays.items() if array is not None}
        if self.weights is not None:
            variables["weight"] = ("event", "sample"), self.weights.normalised
            variables["log_weight"] = ("event", "sample"), self.weights.log_weights
        named = add_columns(variables | coords, self.columns, np.arange(len(self)))
        extra = list(named)[len(variables) + len(coords) :]
        variables |= {name: ("event", named[name]) for name in extra}
        return xarray.Dataset(
            variables, coords, {"molecule": self.molecule.name, "origin": json.dumps(self.origin)}
        )
