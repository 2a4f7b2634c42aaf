"""How far the samples of an event lie apart: the posterior spread of positions, and what varies together.

Positions are looked at in the recoil frame of each event: x along the ion with the longest momenta, y in the
plane of the momenta, z out of it, the centre of mass at 0, identical ions labelled by the geometry
(`flowcei.posterior.labels`). Momenta fix some combinations of bonds much better than each alone: of OCS at 1
% noise the correlation of the two lengths is -0.87, and their sum is known four times better than either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.events.extracolumns import add_columns
from flowcei.experiment.accidents import P_TRUE, counted_as_true
from flowcei.frame.recoil import RecoilFrame
from flowcei.posterior.labels import environments, label_by_geometry, speed_names
from flowcei.storage.cells import Words
from flowcei.storage.html import html_table
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats, Numbers, Reals, Rows
    from flowcei.posterior.samples import PosteriorSamples

PERCENTILES = (5, 16, 50, 84, 95)
"""The percentiles that every table holds."""

_STATISTICS = ("mean", "sd", *(f"p{p:02d}" for p in PERCENTILES))
_CORRELATED = 0.3  # correlation from which on a pair is worth a line
_LINES = 3
_COMPONENT = 0.1  # of a direction: a bond with a smaller one is not named


@dataclass(frozen=True)
class Quantity:
    """A number that a geometry has."""

    kind: str  # `atom`, `bond` or `angle`
    name: str  # such as `c.x`, `c-o` or `o-c-s`
    unit: str  # `bohr` or `deg`
    atoms: tuple[int, ...]
    # `by speed` where atoms that the bonds do not tell apart are ordered by the speed of their ions, `pooled`
    # where a row takes all of these together, else empty.
    like: str = ""


def in_recoil_frame(
    molecule: Molecule,
    momenta: Floats,
    positions: Reals,
    prior: GeometryPrior | None = None,
    frame: RecoilFrame | None = None,
) -> Floats:
    """Positions (E, n, N, 3), bohr, labelled by the geometry, in the recoil frame of momenta (E, N, 3)."""
    # Imported here: numba takes half a second.
    from flowcei.posterior._samples import enter_frame

    rotation = (frame or recoil_frame(molecule, momenta)).rotation(momenta)
    order = label_by_geometry(molecule, momenta, positions, prior)
    order = order[:, :1] if order.strides[1] == 0 else order
    out = np.empty(positions.shape)
    share = molecule.masses / molecule.masses.sum()
    enter_frame(*map(np.ascontiguousarray, (positions, order, share, rotation)), out)
    return out


def momenta_in_recoil_frame(molecule: Molecule, momenta: Floats) -> Floats:
    """Momenta (E, N, 3) in their recoil frame, the total shared by mass, identical ions by falling speed."""
    frame = recoil_frame(molecule, momenta)
    framed = frame.enter(momenta, np.ones(len(momenta)))
    return frame.momenta(framed.condition) * np.sqrt(framed.ker)[:, None, None]


def first_axis(molecule: Molecule, momenta: Floats) -> int:
    """Which ion in `order_by_speed` has its momentum along x of the recoil frame."""
    return recoil_frame(molecule, momenta).axes[0]


def recoil_frame(molecule: Molecule, momenta: Floats) -> RecoilFrame:
    """The frame that events of momenta (E, N, 3) choose: x along the ion with the longest."""
    return RecoilFrame.of(molecule, momenta, reflect=False)


def quantities(molecule: Molecule, positions: Reals) -> tuple[list[Quantity], Floats]:
    """Coordinates, bonds, angles of labelled geometries (..., N, 3), bohr: Q names, values (..., Q)."""
    from flowcei.posterior._samples import measure

    x, names = np.ascontiguousarray(positions, dtype=np.float64), _names(molecule)
    # One quantity after the other in memory: they are sorted and averaged one by one.
    values = np.empty((len(names), x.size // (3 * len(molecule))))
    bonds, angles = np.array(molecule.bonds, dtype=np.intp), np.array(molecule.angles, dtype=np.intp)
    cosines = np.empty((len(molecule.angles), values.shape[1]))
    measure(x.reshape(-1, len(molecule), 3), bonds.reshape(-1, 2), angles.reshape(-1, 3), values, cosines)
    # arctan2, because arccos loses half the digits of a nearly straight angle; NumPy takes many at once.
    sines = values[len(names) - len(cosines) :]
    np.degrees(np.arctan2(sines, cosines, out=sines), out=sines)
    return names, np.moveaxis(values.reshape(-1, *x.shape[:-2]), 0, -1)


def angle_between(a: Floats, b: Floats) -> Floats:
    """Angles (...,), degrees, of vectors (..., 3)."""
    # arctan2, because arccos loses half the digits of a nearly straight angle.
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1)))


def _names(molecule: Molecule) -> list[Quantity]:
    """The Q quantities in the order of their values."""
    labels, every = molecule.labels, (("bond", "bohr", molecule.bonds), ("angle", "deg", molecule.angles))
    listed = [Quantity("atom", f"{a}.{axis}", "bohr", (k,)) for k, a in enumerate(labels) for axis in "xyz"]
    for kind, unit, chains in every:
        listed += [Quantity(kind, "-".join(labels[k] for k in atoms), unit, atoms) for atoms in chains]
    for k in (k for group in _alike(molecule, listed) for k in group):
        listed[k] = replace(listed[k], like="by speed")
    return listed


def _alike(molecule: Molecule, names: list[Quantity]) -> list[list[int]]:
    """Groups of two and more quantities, by place, whose atoms have the same environments."""
    number, groups = environments(molecule), defaultdict(list)
    for k, quantity in enumerate(names):
        around = [number[i] for i in quantity.atoms]
        axis = quantity.name[-1] if quantity.kind == "atom" else ""
        groups[quantity.kind, axis, *min(around, around[::-1])].append(k)
    return [group for group in groups.values() if len(group) > 1]


def pooled_quantities(molecule: Molecule) -> dict[Quantity, list[int]]:
    """Bonds and angles that a symmetry of the bonds exchanges, by place: of CH4 c-h (4) and h-c-h (6)."""
    names, number = _names(molecule), environments(molecule)
    alone = Counter(number)
    words = [
        molecule.labels[k] if alone[n] == 1 else molecule.symbols[k].lower() for k, n in enumerate(number)
    ]
    groups = [group for group in _alike(molecule, names) if names[group[0]].kind != "atom"]
    chains = [[words[k] for k in names[group[0]].atoms] for group in groups]
    titles = ["-".join(min(chain, chain[::-1])) for chain in chains]
    count = Counter((title, len(group)) for title, group in zip(titles, groups, strict=True))
    pooled = {}
    for title, group in zip(titles, groups, strict=True):
        first, size = names[group[0]], len(group)
        # Of two kinds with one name, such as the c-h of two unlike methyl groups, both go by an example.
        name = title if count[title, size] == 1 else first.name
        pooled[replace(first, name=f"{name} ({size})", like="pooled")] = group
    return pooled


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
    """The spread of each of E events, of n samples, and of a whole file."""

    molecule: Molecule
    names: list[Quantity]  # the Q quantities
    values: Floats  # of the samples in the recoil frame, (E, n, Q), bohr or degrees
    event_id: Numbers  # the number of each event, (E,)
    frame: RecoilFrame  # in which positions are
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)  # extra ones of the events, (E,) each

    @classmethod
    def of(cls, samples: PosteriorSamples, frame: RecoilFrame | None = None) -> Spread:
        """Return the spread of samples that count alike, in a frame; where None, the one they choose."""
        molecule, momenta = samples.molecule, samples.momenta
        frame = frame or recoil_frame(molecule, momenta)
        turned = in_recoil_frame(molecule, momenta, samples.positions, samples.known_prior(), frame)
        return cls(molecule, *quantities(molecule, turned), samples.event_id, frame, samples.columns)

    @property
    def along(self) -> str:
        """The ion whose momentum is the x axis, by name."""
        return speed_names(self.molecule)[self.frame.axes[0]]

    def __repr__(self) -> str:
        size = f"{len(self.values)} events x {self.values.shape[1]} samples of {self.molecule.name}"
        return f"Spread: {size}, {len(self.names)} quantities, x along {self.along}"

    def _repr_html_(self) -> str:
        typical = np.median(self.values[self.counted].std(axis=1), axis=0)
        within = {self.names[k].name: f"{typical[k]:.3g} {self.names[k].unit}" for k in self.internal}
        return html_table(repr(self), {f"{name}, within an event": text for name, text in within.items()})

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per event and quantity: mean, deviation and percentiles of its samples.

        Rows that are ``pooled`` take the bonds (angles) of their kind together. Extra columns follow.
        """
        return _spelled(self.columns_by_row())

    def columns_by_row(self) -> dict[str, Any]:
        """Return the columns of `to_dataframe`, words as `Words`."""
        rows, count = list(self.rows()), len(self.values)
        number = np.tile(np.arange(len(rows)), count)
        table: dict[str, Any] = {"event": np.repeat(self.event_id, len(rows))}
        table |= {name: Words(number, words) for name, words in _named(rows).items()}
        table |= {k: array.T.reshape(-1) for k, array in self.statistics.items()}
        return add_columns(table, self.columns, np.repeat(np.arange(count), len(rows)))

    def overall(self) -> pd.DataFrame:
        """Return a row per quantity over all events.

        `mean`, `sd` and percentiles are of all samples together; `typical_sd` is the median
        over events of the deviation within an event: what one event is uncertain by. Where accidents were
        told from true events each counts by its P(true).
        """
        rows, weights = self.rows(), true_weights(self.columns)
        typical = [weighed(each[:, None], weights)["p50"][0] for each in self.statistics["sd"]]
        statistics = [weighed(values, weights) for values in rows.values()]
        table = {k: np.concatenate([row[k] for row in statistics]) for k in statistics[0]}
        return overall_table(list(rows), table, typical)

    def per_atom(self) -> Floats:
        """Return the rms distance of samples from their event's mean, (E, N), bohr."""
        ions = len(self.molecule)
        variance = self.statistics["sd"][: 3 * ions] ** 2
        return np.asarray(np.sqrt(variance.reshape(ions, 3, -1).sum(axis=1).T))

    @property
    def positions(self) -> Floats:
        """Samples in the recoil frame, (E, n, N, 3), bohr."""
        ions = len(self.molecule)
        return self.values[..., : 3 * ions].reshape(*self.values.shape[:2], ions, 3)

    @cached_property
    def statistics(self) -> dict[str, Floats]:
        """Mean, deviation and percentiles of each of R rows in each event, (R, E)."""
        return {name: np.stack([row[name] for row in self._by_row]) for name in _STATISTICS}

    @cached_property
    def extremes(self) -> Floats:
        """The least and the greatest sample of each of R rows, (R, 2)."""
        return np.array([(row["p00"].min(), row["p100"].max()) for row in self._by_row])

    @cached_property
    def _by_row(self) -> list[dict[str, Floats]]:
        return [_statistics(values, (*PERCENTILES, 0, 100)) for values in self.rows().values()]

    def rows(self) -> dict[Quantity, Floats]:
        """The samples of each row of a table, (E, n) or, pooled, a multiple of n."""
        values = np.moveaxis(self.values, 2, 0)
        pooled = pooled_quantities(self.molecule).items()
        rows = dict(zip(self.names, values, strict=True))
        return rows | {quantity: np.concatenate(values[group], axis=1) for quantity, group in pooled}

    @property
    def counted(self) -> Rows:
        """Events that count as true, of which medians over events are."""
        return counted_as_true(self.columns, len(self.values))

    @property
    def internal(self) -> list[int]:
        """Places of the K bonds and angles among the quantities: the last."""
        return [k for k, q in enumerate(self.names) if q.kind != "atom"]

    def covariance(self, rows: slice = slice(None)) -> Floats:
        """Return the covariance (1 / n) of the K bonds and angles within events, or some, (E, K, K)."""
        values = np.moveaxis(self.values[rows], 2, 1)[:, 3 * len(self.molecule) :]
        values = values - values.mean(axis=2, keepdims=True)
        return np.asarray(np.vecdot(values[:, :, None], values[:, None]) / values.shape[2])

    def covariance_table(self) -> pd.DataFrame:
        """Return a row per event and pair of bonds and angles: covariance, its unit, and correlation."""
        return _spelled(self.covariance_columns())

    def covariance_columns(self) -> dict[str, Any]:
        """Return the columns of `covariance_table`, words as `Words`."""
        names, covariance = [self.names[k] for k in self.internal], self.covariance()
        first, second = np.triu_indices(len(names), 1)
        pairs = [(names[i], names[j]) for i, j in zip(first, second, strict=True)]
        number = np.tile(np.arange(len(pairs)), len(covariance))
        words = {"quantity": [a.name for a, _ in pairs], "with": [b.name for _, b in pairs]}
        words["unit"] = [f"{a.unit}*{b.unit}" for a, b in pairs]
        table: dict[str, Any] = {"event": np.repeat(self.event_id, len(pairs))}
        table |= {name: Words(number, each) for name, each in words.items()}
        numbers = {"covariance": covariance, "correlation": correlated(covariance)[1]}
        return table | {name: array[:, first, second].reshape(-1) for name, array in numbers.items()}

    def principal_axes(self) -> tuple[Floats, Floats]:
        """Return the principal axes of the B bonds: deviations (B,), bohr, rising, and directions (B, B).

        Medians over events of the deviations within an event; row k is the direction that axis k
        has in most of the events.
        """
        return _principal_axes(self.covariance()[self.counted], len(self.molecule.bonds))

    def covariance_in_words(self, unit: str = "bohr") -> list[str]:
        """Return lines on what varies together within one event; none where nothing does."""
        return covariance_in_words(self.molecule, self.names, self.covariance()[self.counted], unit)


def _principal_axes(covariance: Floats, bonds: int) -> tuple[Floats, Floats]:
    """The principal axes of bonds, which come first, of covariances (E, K, K)."""
    block = covariance[:, :bonds, :bonds]
    values, vectors = np.linalg.eigh(block[np.isfinite(block).all(axis=(1, 2))])
    deviation = np.median(np.sqrt(values.clip(0.0)), axis=0)
    # A direction has no sign: the mean of its projectors, not of its vectors.
    projector = np.einsum("eik,ejk->kij", vectors, vectors)
    direction = np.linalg.eigh(projector)[1][:, :, -1]
    return deviation, direction * np.sign(direction.sum(axis=1, keepdims=True) + 1e-12)


def covariance_in_words(
    molecule: Molecule, quantities: list[Quantity], covariance: Floats, unit: str
) -> list[str]:
    """Lines on what varies together within one event, of covariances of bonds and angles (E, K, K)."""
    scale, typical = length_in_bohr(unit), typical_correlation(covariance)
    names = [quantity.name for quantity in quantities if quantity.kind != "atom"]
    pairs = [pair for pair in combinations(range(len(names)), 2) if abs(typical[pair]) > _CORRELATED]
    pairs.sort(key=lambda pair: -abs(typical[pair]))
    lines = [f"correlation of {names[i]} and {names[j]}: {typical[i, j]:.2f}" for i, j in pairs[:_LINES]]
    bonds = names[: len(molecule.bonds)]
    if len(bonds) > 1 and np.isfinite(typical).all():
        deviation, directions = _principal_axes(covariance, len(bonds))
        axes = []
        for k in (0, -1):
            components = zip(directions[k], bonds, strict=True)
            words = [f"{x:+.2f} {name}" for x, name in components if abs(x) > _COMPONENT]
            axes.append(f"{deviation[k] / scale:.2g} {unit} along {' '.join(words).removeprefix('+')}")
        lines.append(f"principal axes of the bonds: {' and '.join(axes)}")
    return lines


def true_weights(columns: Mapping[str, NDArray[Any]]) -> Floats | None:
    """What events (E,) count by: their P(true), 1 where it is unknown; None where accidents were not told."""
    true = columns.get(P_TRUE)
    return None if true is None else np.where(np.isnan(true), 1.0, true)


def overall_table(rows: list[Quantity], table: Mapping[str, Floats], typical: list[float]) -> pd.DataFrame:
    """A row for each of R quantities: `table` of (R,) columns, and the median deviation within an event."""
    import pandas as pd

    return pd.DataFrame(_named(rows) | dict(table) | {"typical_sd": typical})


def _spelled(table: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({k: each.spelled if isinstance(each, Words) else each for k, each in table.items()})


def _named(names: list[Quantity]) -> dict[str, list[str]]:
    """Columns of words on the quantities of R rows."""
    return {
        "kind": [q.kind for q in names],
        "quantity": [q.name for q in names],
        "unit": [q.unit for q in names],
        "like": [q.like for q in names],
    }


def weighed(values: Floats, weights: Floats | None) -> dict[str, Floats]:
    """The `_statistics` (1,) of all values (E, n), those of an event with its weight (E,)."""
    flat = values.reshape(1, -1)
    if weights is None:
        return _statistics(flat)
    each = np.repeat(weights, values.shape[1])
    percentiles = np.percentile(flat[0], PERCENTILES, weights=each, method="inverted_cdf")
    mean = np.average(flat[0], weights=each)
    out = {"mean": mean, "sd": np.sqrt(np.average((flat[0] - mean) ** 2, weights=each))}
    out |= {f"p{p:02d}": value for p, value in zip(PERCENTILES, percentiles, strict=True)}
    return {name: np.array([value]) for name, value in out.items()}


def _statistics(values: Floats, levels: tuple[int, ...] = PERCENTILES) -> dict[str, Floats]:
    """Mean, deviation and percentiles (E,) of values (E, n)."""
    from flowcei.posterior._samples import summarise

    out = np.empty((2 + len(levels), len(values)))
    # NumPy sorts many times as fast as a compiled loop.
    summarise(np.sort(values, axis=1), np.array(levels) / 100.0, out)
    return dict(zip(("mean", "sd", *(f"p{p:02d}" for p in levels)), out, strict=True))
