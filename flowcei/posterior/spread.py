"""How far the samples of an event lie apart: the posterior spread of positions.

Positions are looked at in the recoil frame of each event: x along the ion with the longest
momenta, y in the plane of the momenta, z out of it, the centre of mass at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from flowcei.events.extracolumns import add_columns
from flowcei.frame import RecoilFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.molecule import Molecule

__all__ = ["PERCENTILES", "Quantity", "Spread", "along", "in_recoil_frame", "quantities"]

PERCENTILES = (5, 16, 50, 84, 95)
"""The percentiles that every table holds."""


@dataclass(frozen=True)
class Quantity:
    """A number that a geometry has.

    Attributes:
        kind: ``atom``, ``bond`` or ``angle``.
        name: Such as ``c.x``, ``c-o`` or ``o-c-s``.
        unit: ``bohr`` or ``deg``.
    """

    kind: str
    name: str
    unit: str


def in_recoil_frame(
    molecule: Molecule, momenta: NDArray[np.float64], positions: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Turn positions of each event into the recoil frame of its momenta.

    Args:
        molecule: Whose they are.
        momenta: (E, N, 3), hbar / bohr.
        positions: (E, n, N, 3), bohr.

    Returns:
        (E, n, N, 3), bohr, centre of mass 0. Of identical ions, which no detector tells
        apart, the fastest comes first: `h1` is the faster hydrogen of every event.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, seed=1)
        >>> in_recoil_frame(e.molecule, e.momenta, e.positions[:, None]).shape
        (2, 1, 3, 3)
    """
    frame, p = _frame(molecule, momenta)
    framed = frame.enter(p, torch.ones(len(p), dtype=p.dtype))
    rotation, order = framed.rotation.numpy(), framed.order.numpy()
    x = np.take_along_axis(np.asarray(positions, dtype=np.float64), order[:, None, :, None], axis=2)
    x = x - (molecule.masses / molecule.masses.sum() @ x)[:, :, None]
    return x @ np.swapaxes(rotation, 1, 2)[:, None]


def along(molecule: Molecule, momenta: NDArray[np.float64]) -> str:
    """Return the label of the ion whose momentum is the x axis of the recoil frame.

    Of identical ions it is the fastest, which `in_recoil_frame` puts first.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, seed=1)
        >>> along(e.molecule, e.momenta)
        's'
    """
    return molecule.labels[_frame(molecule, momenta)[0].axes[0]]


def _frame(molecule: Molecule, momenta: NDArray[np.float64]) -> tuple[RecoilFrame, torch.Tensor]:
    p = torch.from_numpy(np.ascontiguousarray(momenta, dtype=np.float64))
    return RecoilFrame.of(molecule, p, reflect=False), p


def quantities(
    molecule: Molecule, positions: NDArray[np.floating]
) -> tuple[list[Quantity], NDArray[np.float64]]:
    """Return what is tabulated of geometries: atom coordinates, bonds and bond angles.

    Args:
        molecule: Its labels, bonds and angles.
        positions: (..., N, 3), bohr.

    Returns:
        Q quantities, and their values (..., Q) in bohr and degrees.

    Example:
        >>> import flowcei
        >>> ocs = flowcei.Molecule.load("ocs")
        >>> names, values = quantities(ocs, ocs.equilibrium)
        >>> names[-1].name, float(values[-1].round(6))
        ('o-c-s', 180.0)
    """
    x = np.asarray(positions, dtype=np.float64)
    labels = molecule.labels
    names = [Quantity("atom", f"{a}.{axis}", "bohr") for a in labels for axis in "xyz"]
    values = [x.reshape(*x.shape[:-2], -1)]
    for i, j in molecule.bonds:
        names.append(Quantity("bond", f"{labels[i]}-{labels[j]}", "bohr"))
        values.append(np.linalg.norm(x[..., j, :] - x[..., i, :], axis=-1)[..., None])
    for i, vertex, j in molecule.angles:
        names.append(Quantity("angle", f"{labels[i]}-{labels[vertex]}-{labels[j]}", "deg"))
        a, b = x[..., i, :] - x[..., vertex, :], x[..., j, :] - x[..., vertex, :]
        # arctan2, because arccos loses half the digits of a nearly straight angle.
        sine = np.linalg.norm(np.cross(a, b), axis=-1)
        values.append(np.degrees(np.arctan2(sine, (a * b).sum(axis=-1)))[..., None])
    return names, np.concatenate(values, axis=-1)


@dataclass(frozen=True, eq=False)
class Spread:
    """The spread of each event and of a whole file.

    Attributes:
        molecule: Whose geometries.
        positions: Samples in the recoil frame, (E, n, N, 3), bohr.
        names: The Q quantities.
        values: (E, n, Q), bohr or degrees.
        ids: The number of each event, (E,).
        along: Label of the ion whose momentum is the x axis.
        columns: Extra columns of the events, (E,) each.
    """

    molecule: Molecule
    positions: NDArray[np.float64]
    names: list[Quantity]
    values: NDArray[np.float64]
    ids: NDArray[np.int64]
    along: str
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        molecule: Molecule,
        momenta: NDArray[np.float64],
        positions: NDArray[np.floating],
        ids: NDArray[np.int64],
        columns: dict[str, NDArray[Any]] | None = None,
    ) -> Spread:
        """Compute the spread of samples.

        Args:
            molecule: Whose they are.
            momenta: (E, N, 3), hbar / bohr.
            positions: (E, n, N, 3), bohr.
            ids: The number of each event, (E,).
            columns: Extra columns of the events, (E,) each.
        """
        turned = in_recoil_frame(molecule, momenta, positions)
        names, values = quantities(molecule, turned)
        return cls(molecule, turned, names, values, ids, along(molecule, momenta), columns or {})

    def per_event(self) -> pd.DataFrame:
        """Return a row per event and quantity: mean, deviation and percentiles of samples, extra columns."""
        events, count = len(self.values), len(self.names)
        frame: dict[str, Any] = {"event": np.repeat(self.ids, count)} | self._named(events)
        statistics = self._statistics(self.values, axis=1)
        frame |= {k: v.reshape(-1) for k, v in statistics.items()}
        return pd.DataFrame(add_columns(frame, self.columns, np.repeat(np.arange(events), count)))

    def overall(self) -> pd.DataFrame:
        """Return a row per quantity over all events.

        `mean`, `sd` and percentiles are of all samples together; `typical_sd` is the median
        over events of the deviation within an event: what one event is uncertain by.
        """
        pooled = self._statistics(self.values.reshape(-1, len(self.names)), axis=0)
        within = np.median(self.values.std(axis=1), axis=0)
        return pd.DataFrame(self._named(1) | pooled | {"typical_sd": within})

    def per_atom(self) -> NDArray[np.float64]:
        """Return the rms distance of samples from their event's mean, (E, N), bohr."""
        away = self.positions - self.positions.mean(axis=1, keepdims=True)
        rms: NDArray[np.float64] = np.sqrt((away**2).sum(axis=-1).mean(axis=1))
        return rms

    def _named(self, repeats: int) -> dict[str, list[str]]:
        return {
            "kind": [q.kind for q in self.names] * repeats,
            "quantity": [q.name for q in self.names] * repeats,
            "unit": [q.unit for q in self.names] * repeats,
        }

    @staticmethod
    def _statistics(values: NDArray[np.float64], axis: int) -> dict[str, NDArray[np.float64]]:
        percentiles = np.percentile(values, PERCENTILES, axis=axis)
        return {"mean": values.mean(axis=axis), "sd": values.std(axis=axis)} | {
            f"p{p:02d}": row for p, row in zip(PERCENTILES, percentiles, strict=True)
        }
