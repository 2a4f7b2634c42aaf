"""How far the samples of an event lie apart: the posterior spread of positions, and what varies together.

Positions are looked at in the recoil frame of each event: x along the ion with the longest momenta, y in the
plane of the momenta, z out of it, the centre of mass at 0, identical ions labelled by the geometry
(`flowcei.posterior.labels`). Momenta fix some combinations of bonds much better than each alone: of OCS at 1
% noise the correlation of the two lengths is -0.87, and their sum is known four times better than either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from flowcei.events.extracolumns import add_columns
from flowcei.frame.recoil import RecoilFrame
from flowcei.posterior.labels import environments, label_by_geometry, relabel, speed_names
from flowcei.storage.html import html_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats, Numbers, Reals
    from flowcei.posterior.samples import PosteriorSamples

PERCENTILES = (5, 16, 50, 84, 95)
"""The percentiles that every table holds."""

_CORRELATED = 0.3  # correlation from which on a pair is worth a line
_LINES = 3
_COMPONENT = 0.1  # of a direction: a bond with a smaller one is not named


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
    molecule: Molecule, momenta: Floats, positions: Reals, prior: GeometryPrior | None = None
) -> Floats:
    """Positions (E, n, N, 3), bohr, labelled by the geometry, in the recoil frame of momenta (E, N, 3)."""
    frame, p = _frame(molecule, momenta)
    rotation = frame.enter(p, torch.ones(len(p), dtype=p.dtype)).rotation.numpy()
    x = np.asarray(positions, dtype=np.float64)
    x = relabel(x, label_by_geometry(molecule, momenta, x, prior))
    x = x - (molecule.masses / molecule.masses.sum() @ x)[:, :, None]
    return x @ np.swapaxes(rotation, 1, 2)[:, None]


def momenta_in_recoil_frame(molecule: Molecule, momenta: Floats) -> Floats:
    """Momenta (E, N, 3) in their recoil frame, the total shared by mass, identical ions by falling speed."""
    frame, p = _frame(molecule, momenta)
    framed = frame.enter(p, torch.ones(len(p), dtype=p.dtype))
    turned: Floats = (frame.momenta(framed.condition) * framed.ker.sqrt()[:, None, None]).numpy()
    return turned


def first_axis(molecule: Molecule, momenta: Floats) -> int:
    """Which ion in `order_by_speed` has its momentum along x of the recoil frame."""
    return _frame(molecule, momenta)[0].axes[0]


def _frame(molecule: Molecule, momenta: Floats) -> tuple[RecoilFrame, torch.Tensor]:
    p = torch.from_numpy(np.ascontiguousarray(momenta, dtype=np.float64))
    return RecoilFrame.of(molecule, p, reflect=False), p


def quantities(molecule: Molecule, positions: Reals) -> tuple[list[Quantity], Floats]:
    """Coordinates, bonds, angles of labelled geometries (..., N, 3), bohr: Q names, values (..., Q)."""
    x = np.asarray(positions, dtype=np.float64)
    values = [x.reshape(*x.shape[:-2], -1)]
    for i, j in molecule.bonds:
        values.append(np.linalg.norm(x[..., j, :] - x[..., i, :], axis=-1)[..., None])
    for i, vertex, j in molecule.angles:
        a, b = x[..., i, :] - x[..., vertex, :], x[..., j, :] - x[..., vertex, :]
        # arctan2, because arccos loses half the digits of a nearly straight angle.
        sine = np.linalg.norm(np.cross(a, b), axis=-1)
        values.append(np.degrees(np.arctan2(sine, (a * b).sum(axis=-1)))[..., None])
    listed = _listed(molecule)
    by_speed = {k for group in _alike(molecule, listed) for k in group}
    names = [replace(q, like="by speed") if k in by_speed else q for k, (q, _) in enumerate(listed)]
    return names, np.concatenate(values, axis=-1)


def pooled_quantities(molecule: Molecule) -> dict[Quantity, list[int]]:
    """Bonds and angles that a symmetry of the bonds exchanges, by place: of CH4 c-h (4) and h-c-h (6)."""
    listed, number = _listed(molecule), environments(molecule)
    alone = Counter(number)
    words = [
        molecule.labels[k] if alone[n] == 1 else molecule.symbols[k].lower() for k, n in enumerate(number)
    ]
    pooled = []
    for group in _alike(molecule, listed):
        quantity, atoms = listed[group[0]]
        if quantity.kind != "atom":
            chain = [words[k] for k in atoms]
            pooled.append((f"{'-'.join(min(chain, chain[::-1]))} ({len(group)})", quantity, group))
    count = Counter(name for name, _, _ in pooled)
    # Of two kinds with one name, such as the c-h of two unlike methyl groups, both go by an example.
    return {
        replace(q, name=name if count[name] == 1 else f"{q.name} ({len(group)})", like="pooled"): group
        for name, q, group in pooled
    }


def _listed(molecule: Molecule) -> list[tuple[Quantity, tuple[int, ...]]]:
    """All quantities, with their atoms."""
    labels = molecule.labels
    listed: list[tuple[Quantity, tuple[int, ...]]]
    listed = [(Quantity("atom", f"{a}.{axis}", "bohr"), (k,)) for k, a in enumerate(labels) for axis in "xyz"]
    for kind, unit, every in (("bond", "bohr", molecule.bonds), ("angle", "deg", molecule.angles)):
        listed += [(Quantity(kind, "-".join(labels[k] for k in atoms), unit), atoms) for atoms in every]
    return listed


def _alike(molecule: Molecule, listed: list[tuple[Quantity, tuple[int, ...]]]) -> list[list[int]]:
    """Groups of two and more of `_listed` whose atoms have the same environments."""
    number, groups = environments(molecule), defaultdict(list)
    for k, (quantity, atoms) in enumerate(listed):
        around = [number[i] for i in atoms]
        axis = quantity.name[-1] if quantity.kind == "atom" else ""
        groups[quantity.kind, axis, *min(around, around[::-1])].append(k)
    return [group for group in groups.values() if len(group) > 1]


def correlated(covariance: Floats) -> tuple[Floats, Floats]:
    """Deviations (..., Q), correlations (..., Q, Q) of covariances (..., Q, Q); NaN if constant, infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
        correlation = covariance / (deviation[..., :, None] * deviation[..., None, :])
    finite = np.isfinite(deviation)
    return np.where(finite, deviation, np.nan), np.where(np.isfinite(correlation), correlation, np.nan)


def typical_correlation(covariance: Floats) -> Floats:
    """Median over events of each correlation of covariances (E, K, K), (K, K); NaN where no event varies."""
    correlation = correlated(covariance)[1]
    varies = np.isfinite(correlation).all(axis=(1, 2))
    return np.median(correlation[varies], axis=0) if varies.any() else np.full(covariance.shape[1:], np.nan)


@dataclass(frozen=True, eq=False, repr=False)
class Spread:
    """The spread of each event and of a whole file.

    Attributes:
        molecule: Whose geometries.
        positions: Samples in the recoil frame, (E, n, N, 3), bohr.
        names: The Q quantities.
        values: (E, n, Q), bohr or degrees.
        event_id: The number of each event, (E,).
        along: The ion whose momentum is the x axis, by name.
        columns: Extra columns of the events, (E,) each.

    Example:
        >>> import flowcei
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
        >>> s.spread()
        Spread: 2 events x 20 samples of ocs, 12 quantities, x along s
    """

    molecule: Molecule
    positions: Floats
    names: list[Quantity]
    values: Floats
    event_id: Numbers
    along: str
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: PosteriorSamples) -> Spread:
        """Return the spread of samples that count alike."""
        molecule, momenta = samples.molecule, samples.momenta
        turned = in_recoil_frame(molecule, momenta, samples.positions, samples.known_prior())
        along = speed_names(molecule)[first_axis(molecule, momenta)]
        return cls(molecule, turned, *quantities(molecule, turned), samples.event_id, along, samples.columns)

    def __repr__(self) -> str:
        size = f"{len(self.values)} events x {self.values.shape[1]} samples of {self.molecule.name}"
        return f"Spread: {size}, {len(self.names)} quantities, x along {self.along}"

    def _repr_html_(self) -> str:
        typical = np.median(self.values.std(axis=1), axis=0)
        facts = {
            f"{q.name}, within an event": f"{deviation:.3g} {q.unit}"
            for q, deviation in zip(self.names, typical, strict=True)
            if q.kind != "atom"
        }
        return html_table(repr(self), facts)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per event and quantity: mean, deviation and percentiles of its samples.

        Rows that are ``pooled`` take the bonds (angles) of their kind together. Extra columns follow.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
            >>> s.spread().to_dataframe().query("kind == 'bond'")["quantity"].tolist()
            ['c-o', 'c-s', 'c-o', 'c-s']
        """
        rows = self.rows()
        statistics = [_statistics(values, axis=1) for values in rows.values()]
        table: dict[str, Any] = {"event": np.repeat(self.event_id, len(rows))}
        table |= _named(list(rows) * len(self.values))
        table |= {k: np.stack([row[k] for row in statistics], axis=1).reshape(-1) for k in statistics[0]}
        events = np.repeat(np.arange(len(self.values)), len(rows))
        return pd.DataFrame(add_columns(table, self.columns, events))

    def overall(self) -> pd.DataFrame:
        """Return a row per quantity over all events.

        `mean`, `sd` and percentiles are of all samples together; `typical_sd` is the median
        over events of the deviation within an event: what one event is uncertain by.
        """
        rows = self.rows()
        statistics = [
            _statistics(values.reshape(-1), axis=0) | {"typical_sd": np.median(values.std(axis=1))}
            for values in rows.values()
        ]
        return pd.concat([pd.DataFrame(_named(list(rows))), pd.DataFrame(statistics)], axis=1)

    def per_atom(self) -> Floats:
        """Return the rms distance of samples from their event's mean, (E, N), bohr."""
        offset = self.positions - self.positions.mean(axis=1, keepdims=True)
        return np.asarray(np.sqrt((offset**2).sum(axis=-1).mean(axis=1)))

    def rows(self) -> dict[Quantity, Floats]:
        """The samples of each row of a table, (E, n) or, pooled, a multiple of n."""
        # One quantity after the other in memory: percentiles of columns take half as long again.
        values = np.ascontiguousarray(np.moveaxis(self.values, 2, 0))
        pooled = pooled_quantities(self.molecule).items()
        rows = dict(zip(self.names, values, strict=True))
        return rows | {quantity: np.concatenate(values[group], axis=1) for quantity, group in pooled}

    @property
    def internal(self) -> list[int]:
        """Places of the K bonds and angles among the quantities."""
        return [k for k, q in enumerate(self.names) if q.kind != "atom"]

    def covariance(self) -> Floats:
        """Return the covariance (1 / n) of the K bonds and angles within each event, (E, K, K)."""
        values = self.values[:, :, self.internal]
        values = values - values.mean(axis=1, keepdims=True)
        return np.asarray(np.einsum("enk,enl->ekl", values, values) / values.shape[1])

    def covariance_table(self) -> pd.DataFrame:
        """Return a row per event and pair of bonds and angles: covariance, its unit, and correlation."""
        names, covariance = [self.names[k] for k in self.internal], self.covariance()
        pairs = list(combinations(range(len(names)), 2))
        first, second = (np.array([pair[k] for pair in pairs], dtype=np.intp) for k in (0, 1))
        words = {
            "quantity": [names[i].name for i in first],
            "with": [names[j].name for j in second],
            "unit": [f"{names[i].unit}*{names[j].unit}" for i, j in pairs],
        }
        numbers = {"covariance": covariance, "correlation": correlated(covariance)[1]}
        events = len(self.event_id)
        table: dict[str, Any] = {"event": np.repeat(self.event_id, len(pairs))}
        table |= {name: np.tile(np.array(column, dtype=object), events) for name, column in words.items()}
        table |= {name: array[:, first, second].reshape(-1) for name, array in numbers.items()}
        return pd.DataFrame(table)

    def principal_axes(self) -> tuple[Floats, Floats]:
        """Return the principal axes of the B bonds: deviations (B,), bohr, rising, and directions (B, B).

        Medians over events of the deviations within an event; row k is the direction that axis k
        has in most of the events.
        """
        bonds = [k for k, place in enumerate(self.internal) if self.names[place].kind == "bond"]
        block = self.covariance()[:, bonds][:, :, bonds]
        block = block[np.isfinite(block).all(axis=(1, 2))]
        values, vectors = np.linalg.eigh(block)
        deviation = np.median(np.sqrt(values.clip(0.0)), axis=0)
        # A direction has no sign: the mean of its projectors, not of its vectors.
        projector = np.einsum("eik,ejk->kij", vectors, vectors)
        direction = np.linalg.eigh(projector)[1][:, :, -1]
        return deviation, direction * np.sign(direction.sum(axis=1, keepdims=True) + 1e-12)

    def covariance_in_words(self) -> list[str]:
        """Return lines on what varies together within one event; none where nothing does."""
        names, typical = [self.names[k] for k in self.internal], typical_correlation(self.covariance())
        pairs = [pair for pair in combinations(range(len(typical)), 2) if abs(typical[pair]) > _CORRELATED]
        pairs.sort(key=lambda pair: -abs(typical[pair]))
        lines = [
            f"correlation of {names[i].name} and {names[j].name}: {typical[i, j]:.2f}"
            for i, j in pairs[:_LINES]
        ]
        bonds = [q.name for q in names if q.kind == "bond"]
        if len(bonds) > 1 and np.isfinite(typical).all():
            deviation, directions = self.principal_axes()
            combined = [zip(direction, bonds, strict=True) for direction in directions]
            axes = [
                f"{deviation[k]:.2g} bohr along "
                + " ".join(f"{x:+.2f} {name}" for x, name in combined[k] if abs(x) > _COMPONENT).removeprefix(
                    "+"
                )
                for k in (0, -1)
            ]
            lines.append(f"principal axes of the bonds: {' and '.join(axes)}")
        return lines


def _named(names: list[Quantity]) -> dict[str, list[str]]:
    attributes = {"kind": "kind", "quantity": "name", "unit": "unit", "like": "like"}
    return {column: [getattr(q, attribute) for q in names] for column, attribute in attributes.items()}


def _statistics(values: Floats, axis: int) -> dict[str, Floats]:
    percentiles = np.percentile(values, PERCENTILES, axis=axis)
    return {"mean": values.mean(axis=axis), "sd": values.std(axis=axis)} | {
        f"p{p:02d}": row for p, row in zip(PERCENTILES, percentiles, strict=True)
    }
