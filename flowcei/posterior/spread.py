"""How far the samples of an event lie apart: the posterior spread of positions.

Positions are looked at in the recoil frame of each event: x along the ion with the longest
momenta, y in the plane of the momenta, z out of it, the centre of mass at 0. Identical ions
are labelled by the geometry: see `flowcei.posterior.labels`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from flowcei.events.extracolumns import add_columns
from flowcei.frame.recoil import RecoilFrame
from flowcei.posterior.labels import environments, label_by_geometry, relabel, speed_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior

PERCENTILES = (5, 16, 50, 84, 95)
"""The percentiles that every table holds."""


@dataclass(frozen=True)
class Quantity:
    """A number that a geometry has.

    Attributes:
        kind: ``atom``, ``bond`` or ``angle``.
        name: Such as ``c.x``, ``c-o`` or ``o-c-s``.
        unit: ``bohr`` or ``deg``.
        like: ``by speed`` where atoms that the bonds do not tell apart are ordered by the
            speed of their ions, ``pooled`` where a row takes all of these together, else empty.
    """

    kind: str
    name: str
    unit: str
    like: str = ""


def in_recoil_frame(
    molecule: Molecule,
    momenta: NDArray[np.float64],
    positions: NDArray[np.floating],
    prior: GeometryPrior | None = None,
) -> NDArray[np.float64]:
    """Turn positions of each event into the recoil frame of its momenta, like ions labelled.

    Args:
        molecule: Whose they are.
        momenta: (E, N, 3), hbar / bohr.
        positions: (E, n, N, 3), bohr.
        prior: As for `label_by_geometry`.

    Returns:
        (E, n, N, 3), bohr, centre of mass 0, identical ions labelled by the geometry.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, seed=1)
        >>> in_recoil_frame(e.molecule, e.momenta, e.positions[:, None]).shape
        (2, 1, 3, 3)
    """
    frame, p = _frame(molecule, momenta)
    rotation = frame.enter(p, torch.ones(len(p), dtype=p.dtype)).rotation.numpy()
    x = np.asarray(positions, dtype=np.float64)
    x = relabel(x, label_by_geometry(molecule, momenta, x, prior))
    x = x - (molecule.masses / molecule.masses.sum() @ x)[:, :, None]
    return x @ np.swapaxes(rotation, 1, 2)[:, None]


def momenta_in_recoil_frame(molecule: Molecule, momenta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the momenta of each event (E, N, 3) into their recoil frame, the total shared by mass.

    Momenta alone say nothing of bonds: identical ions come by falling speed, as `speed_names`
    calls them.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, seed=1)
        >>> bool(np.abs(momenta_in_recoil_frame(e.molecule, e.momenta)[:, 2, 1:]).max() < 1e-9)
        True
    """
    frame, p = _frame(molecule, momenta)
    framed = frame.enter(p, torch.ones(len(p), dtype=p.dtype))
    turned: NDArray[np.float64] = (frame.momenta(framed.condition) * framed.ker.sqrt()[:, None, None]).numpy()
    return turned


def first_axis(molecule: Molecule, momenta: NDArray[np.float64]) -> int:
    """Return which of the ions in `order_by_speed` has its momentum along x of the recoil frame.

    Of identical ions it is the fastest.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, seed=1)
        >>> e.molecule.labels[first_axis(e.molecule, e.momenta)]
        's'
    """
    return _frame(molecule, momenta)[0].axes[0]


def _frame(molecule: Molecule, momenta: NDArray[np.float64]) -> tuple[RecoilFrame, torch.Tensor]:
    p = torch.from_numpy(np.ascontiguousarray(momenta, dtype=np.float64))
    return RecoilFrame.of(molecule, p, reflect=False), p


def quantities(
    molecule: Molecule, positions: NDArray[np.floating]
) -> tuple[list[Quantity], NDArray[np.float64]]:
    """Return what is tabulated of geometries: atom coordinates, bonds and bond angles.

    Args:
        molecule: Its labels, bonds and angles.
        positions: (..., N, 3), bohr, each atom at the place of its label: see `label_by_geometry`.

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
    values = [x.reshape(*x.shape[:-2], -1)]
    for i, j in molecule.bonds:
        values.append(np.linalg.norm(x[..., j, :] - x[..., i, :], axis=-1)[..., None])
    for i, vertex, j in molecule.angles:
        a, b = x[..., i, :] - x[..., vertex, :], x[..., j, :] - x[..., vertex, :]
        # arctan2, because arccos loses half the digits of a nearly straight angle.
        sine = np.linalg.norm(np.cross(a, b), axis=-1)
        values.append(np.degrees(np.arctan2(sine, (a * b).sum(axis=-1)))[..., None])
    by_speed = {k for group in _alike(molecule).values() if len(group) > 1 for k in group}
    names = [
        Quantity(kind, name, unit, "by speed" if k in by_speed else "")
        for k, (kind, name, unit, _) in enumerate(_listed(molecule))
    ]
    return names, np.concatenate(values, axis=-1)


def pooled_quantities(molecule: Molecule) -> dict[Quantity, list[int]]:
    """Return bonds and angles that differ by a symmetry of the bonds alone, each kind under one name.

    Returns:
        The name, with the number of bonds or angles, and which of `quantities` they are.

    Example:
        >>> from flowcei.molecules.molecule import Molecule
        >>> [q.name for q in pooled_quantities(Molecule.load("ch4"))]
        ['c-h (4)', 'h-c-h (6)']
    """
    every = _listed(molecule)
    groups = [group for group in _alike(molecule).values() if len(group) > 1 and every[group[0]][0] != "atom"]
    alone = Counter(environments(molecule))
    words = [
        molecule.labels[k] if alone[number] == 1 else molecule.symbols[k].lower()
        for k, number in enumerate(environments(molecule))
    ]
    chains = [[words[k] for k in every[group[0]][3]] for group in groups]
    names = [f"{'-'.join(min(c, c[::-1]))} ({len(g)})" for c, g in zip(chains, groups, strict=True)]
    # Of two kinds with one name, such as the c-h of two unlike methyl groups, both go by an example.
    return {
        Quantity(kind, name if names.count(name) == 1 else f"{one} ({len(group)})", unit, "pooled"): group
        for name, group in zip(names, groups, strict=True)
        for kind, one, unit, _ in [every[group[0]]]
    }


def _listed(molecule: Molecule) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """Return kind, name, unit and atoms of all that `quantities` tabulates."""
    labels = molecule.labels
    internal: list[tuple[str, str, tuple[int, ...]]]
    internal = [("bond", "bohr", bond) for bond in molecule.bonds]
    internal += [("angle", "deg", angle) for angle in molecule.angles]
    return [
        *(("atom", f"{a}.{axis}", "bohr", (k,)) for k, a in enumerate(labels) for axis in "xyz"),
        *((kind, "-".join(labels[k] for k in atoms), unit, atoms) for kind, unit, atoms in internal),
    ]


def _alike(molecule: Molecule) -> dict[tuple[str, ...], list[int]]:
    """Return which of `quantities` are of atoms with the same environments."""
    number = environments(molecule)
    groups: dict[tuple[str, ...], list[int]] = {}
    for k, (kind, name, _, atoms) in enumerate(_listed(molecule)):
        around = [number[i] for i in atoms]
        axis = name[-1] if kind == "atom" else ""
        key = (kind, axis, *map(str, min(around, around[::-1])))
        groups.setdefault(key, []).append(k)
    return groups


@dataclass(frozen=True, eq=False)
class Spread:
    """The spread of each event and of a whole file.

    Attributes:
        molecule: Whose geometries.
        positions: Samples in the recoil frame, (E, n, N, 3), bohr.
        names: The Q quantities.
        values: (E, n, Q), bohr or degrees.
        ids: The number of each event, (E,).
        along: The ion whose momentum is the x axis, by name.
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
        prior: GeometryPrior | None = None,
        columns: dict[str, NDArray[Any]] | None = None,
    ) -> Spread:
        """Compute the spread of samples.

        Args:
            molecule: Whose they are.
            momenta: (E, N, 3), hbar / bohr.
            positions: (E, n, N, 3), bohr.
            ids: The number of each event, (E,).
            prior: As for `label_by_geometry`.
            columns: Extra columns of the events, (E,) each.
        """
        turned = in_recoil_frame(molecule, momenta, positions, prior)
        names, values = quantities(molecule, turned)
        along = speed_names(molecule)[first_axis(molecule, momenta)]
        return cls(molecule, turned, names, values, ids, along, columns or {})

    def per_event(self) -> pd.DataFrame:
        """Return a row per event and quantity: mean, deviation and percentiles of its samples.

        Rows that are ``pooled`` take the bonds (angles) of their kind together. Extra columns follow.
        """
        rows = self._rows()
        statistics = [self._statistics(values, axis=1) for values in rows.values()]
        frame: dict[str, Any] = {"event": np.repeat(self.ids, len(rows))}
        frame |= self._named(list(rows) * len(self.values))
        frame |= {k: np.stack([row[k] for row in statistics], axis=1).reshape(-1) for k in statistics[0]}
        events = np.repeat(np.arange(len(self.values)), len(rows))
        return pd.DataFrame(add_columns(frame, self.columns, events))

    def overall(self) -> pd.DataFrame:
        """Return a row per quantity over all events.

        `mean`, `sd` and percentiles are of all samples together; `typical_sd` is the median
        over events of the deviation within an event: what one event is uncertain by.
        """
        rows = self._rows()
        statistics = [
            self._statistics(values.reshape(-1), axis=0) | {"typical_sd": np.median(values.std(axis=1))}
            for values in rows.values()
        ]
        return pd.concat([pd.DataFrame(self._named(list(rows))), pd.DataFrame(statistics)], axis=1)

    def per_atom(self) -> NDArray[np.float64]:
        """Return the rms distance of samples from their event's mean, (E, N), bohr."""
        away = self.positions - self.positions.mean(axis=1, keepdims=True)
        rms: NDArray[np.float64] = np.sqrt((away**2).sum(axis=-1).mean(axis=1))
        return rms

    def _rows(self) -> dict[Quantity, NDArray[np.float64]]:
        """Return the samples of each row of a table, (E, n) or, pooled, a multiple of n."""
        # One quantity after the other in memory: percentiles of columns take half as long again.
        values = np.ascontiguousarray(np.moveaxis(self.values, 2, 0))
        rows = dict(zip(self.names, values, strict=True))
        for quantity, group in pooled_quantities(self.molecule).items():
            rows[quantity] = np.concatenate(values[group], axis=1)
        return rows

    @staticmethod
    def _named(names: list[Quantity]) -> dict[str, list[str]]:
        return {
            "kind": [q.kind for q in names],
            "quantity": [q.name for q in names],
            "unit": [q.unit for q in names],
            "like": [q.like for q in names],
        }

    @staticmethod
    def _statistics(values: NDArray[np.float64], axis: int) -> dict[str, NDArray[np.float64]]:
        percentiles = np.percentile(values, PERCENTILES, axis=axis)
        return {"mean": values.mean(axis=axis), "sd": values.std(axis=axis)} | {
            f"p{p:02d}": row for p, row in zip(PERCENTILES, percentiles, strict=True)
        }
