"""Where physics meets the network: the recoil frame, and the chart a model sees (docs/frame.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from flowcei.frame._charts import BULK, place
from flowcei.frame.interface import Condition, FramedEvents, WhitenedEvents
from flowcei.frame.resimulation import Resimulation
from flowcei.frame.whitening import Bodies, Whitening
from flowcei.physics.build_up import LONGEST
from flowcei.physics.priors.orders import OrderSearch
from flowcei.physics.threads import in_threads, shares

if TYPE_CHECKING:
    from flowcei.frame.interface import Rows
    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import Floats

_UNWARNED = np.errstate(all="ignore")  # of absurd events, which are flagged
_LARGEST = 1e6
_NONE = 1e-12  # hbar / bohr: of a shorter vector the direction is 0
_ALIKE = 1e-3  # of the size of the reference: what printed digits leave of a symmetry
_SHARE = 256  # events of a thread, at the least
_MOST_ORDERS = 2_000  # partial ones looked at for one event, 2 ms; near an equilibrium a few dozen


@dataclass(frozen=True)
class RecoilFrame:
    """The frame of one molecule; which ions span it is chosen once."""

    kind: ClassVar[str] = "recoil"
    invariant: ClassVar[bool] = True

    masses: tuple[float, ...]  # (N,), electron masses
    identical: tuple[tuple[int, ...], ...]  # groups of ions that are sorted
    axes: tuple[int, ...]  # the ions along e1, in the plane of e2, and (N > 3) on the side of e3
    reflect: bool  # whether the third ion's side is folded away
    tree: tuple[tuple[int, int], ...]  # the N - 1 bonds (from, to) whose vectors are the chart
    # Momenta of the equilibrium, (N, 3), to which like ions are aligned; none: they are sorted by speed.
    reference: tuple[tuple[float, float, float], ...] = ()
    whitening: Whitening | None = None  # of the chart, by an approximation of each event's posterior
    by_axis: bool = False  # whether the condition holds the noise of each lab axis, turned into the frame
    build_up: float = 0.0  # longest build-up time, fs, where the condition holds it

    def __post_init__(self) -> None:
        """ValueError for axes, groups or bonds that do not fit the ions."""
        n = len(self.masses)
        if not (self._axes_fit() and self._tree_fits()):
            fields = f"axes {self.axes}, groups {self.identical} and bonds {self.tree}"
            raise ValueError(f"{fields} are no frame of {n} ions")
        if not 0.0 <= self.build_up <= LONGEST:
            raise ValueError(f"build-up times to {self.build_up:g} fs")
        if self.whitening is not None and len(self.whitening.charges) != n:
            raise ValueError(f"the whitening is not of {n} ions")
        if self.reference:
            size = np.abs(np.asarray(self.reference)).max()
            if len(self.reference) != n or not 0 < size < _LARGEST:
                raise ValueError(f"momenta to align with are no {n} vectors of 0 to {_LARGEST:g} hbar/bohr")

    def _axes_fit(self) -> bool:
        """Whether the axes and the groups of like ions name each ion once."""
        n, grouped = len(self.masses), [k for group in self.identical for k in group]
        return (
            len(self.axes) == (3 if n > 3 else 2)
            and (n > 3 or not self.reflect)
            and all(len(set(ions)) == len(ions) for ions in (self.axes, grouped))
            and set(self.axes) | set(grouped) <= set(range(n))
        )

    def _tree_fits(self) -> bool:
        """Whether the bonds reach each ion once, from one that is reached before."""
        reached = [0, *(end for _, end in self.tree)]
        return sorted(reached) == list(range(len(self.masses))) and all(
            start in reached[: k + 1] for k, (start, _) in enumerate(self.tree)
        )

    @classmethod
    def of(
        cls,
        molecule: Molecule,
        momenta: Floats,
        *,
        reflect: bool,
        reference: tuple[tuple[float, float, float], ...] = (),
    ) -> RecoilFrame:
        """Choose the frame of a molecule from typical momenta (B, N, 3), hbar / bohr.

        The longest momentum is the best known direction; among the others the one with the longest
        perpendicular part fixes the plane best. `reflect`: handedness carries no information.
        `reference`: momenta (N, 3), hbar / bohr, with which like ions are aligned, as of the equilibrium.
        """
        n, tree = len(molecule), _spanning_tree(len(molecule), molecule.bonds)
        masses = tuple(molecule.masses.tolist())
        draft = cls(
            masses, molecule.identical, (0, 1, 2)[: 3 if n > 3 else 2], reflect and n > 3, tree, reference
        )
        if reference and draft._alignment.all_alike:
            draft = replace(draft, reference=())
        p, _ = draft._ordered(_centred(momenta, molecule.masses))  # noqa: SLF001
        e1 = _first_largest(_length(p).mean(axis=0), ())
        along = _unit(p[:, e1])[:, None]
        across = p - (p * along).sum(axis=2, keepdims=True) * along
        e2 = _first_largest(_length(across).mean(axis=0), (e1,))
        axes: tuple[int, ...] = (e1, e2)
        if n > 3:
            normal = _unit(np.cross(along, across[:, e2, None]))
            axes += (_first_largest(np.abs((p * normal).sum(axis=2)).mean(axis=0), (e1, e2)),)
        return replace(draft, axes=axes)

    @property
    def width(self) -> int:
        """D = 3N - 3, the width of the chart."""
        return 3 * len(self.masses) - 3

    @property
    def bare(self) -> RecoilFrame:
        """The frame without whitened charts."""
        return replace(self, whitening=None)

    @property
    def condition_width(self) -> int:
        """Width of the condition: 3N - 6 momenta, log KER, log noise or 6 of its matrix, build-up time."""
        return 3 * len(self.masses) - 5 + (6 if self.by_axis else 1) + (self.build_up > 0.0)

    @property
    def told_width(self) -> int:
        """Width of the condition; of whitened charts also 2 D + 1 numbers of the approximation."""
        return self.condition_width + (0 if self.whitening is None else 2 * self.width + 1)

    def names(self, labels: Sequence[str]) -> list[str]:
        """Names of the chart's D coordinates, such as ``c-o.x``; a whitened one is the first of a mixture."""
        return [f"{labels[i]}-{labels[j]}.{axis}" for i, j in self.tree for axis in "xyz"]

    @property
    def _others(self) -> list[int]:
        """Ions off the two axes of the plane."""
        return [k for k in range(len(self.masses)) if k not in self.axes[:2]]

    @_UNWARNED
    def enter(self, momenta: Floats, sigma: Floats, build_up: Floats | None = None) -> FramedEvents:
        """Events of momenta (B, N, 3) with noise (B,) of their components, hbar / bohr, in their frames.

        Their condition holds the momenta over sqrt(KER), without zeros and without what momentum conservation
        repeats, log KER, and the log of sigma over the rms momentum component. By axis noise is (B,) or that
        of the lab's axes, (B, 3), and this log is of its matrix in the frame. Build-up times, (B,), fs, 0
        where None, are those of the whitening, and, to the longest that was trained for, of the condition.
        """
        masses = np.array(self.masses)
        p, order = self._ordered(_centred(momenta, masses))
        # KER = U0 exactly: positions times KER and momenta over sqrt(KER) are free of scale.
        ker = (p**2 / (2.0 * masses[:, None])).sum(axis=(1, 2))
        rotation = self._rotation(p)
        turned = p @ np.swapaxes(rotation, 1, 2) / np.sqrt(ker)[:, None, None]
        rms = np.sqrt((p**2).mean(axis=(1, 2)))
        blocks = turned[:, 0, :0]  # two ions: the KER says it all
        if len(self.masses) > 2:
            e1, e2, *_ = self.axes
            others = turned[:, self._others[:-1]].reshape(len(p), -1)
            blocks = np.column_stack([turned[:, e1, :1], turned[:, e2, :2], others])
        sigma = sigma if sigma.ndim == 2 else sigma[:, None]
        level = np.log(sigma / rms[:, None])
        noise = turned_logarithm(level, rotation) if self.by_axis else level
        # In the units of the chart, where KER = 1: times are as long as KER^(-3/2).
        time, unit = np.zeros(len(p)) if build_up is None else build_up, ker**1.5
        told_time = (np.minimum(time, self.build_up) * unit)[:, None]
        told = Condition(blocks, np.log(ker), noise, told_time if self.build_up else noise[:, :0])
        condition = told.joined()
        if self.whitening is None:
            return FramedEvents(condition, rotation, order, ker)
        bodies = Bodies(masses, self.tree, self.assembly, self.reflect)
        of_axes = np.repeat(sigma, 3 // sigma.shape[1], axis=1) / np.sqrt(ker)[:, None]
        event = self.momenta(condition), of_axes, rotation, ker, time * unit
        return WhitenedEvents(condition, rotation, order, ker, *self.whitening.approximate(*event, bodies))

    def _ordered(self, p: Floats) -> tuple[Floats, Rows]:
        """Centred momenta (B, N, 3) with identical ions by falling speed or aligned, and the order (B, N)."""
        p, order = _sorted(p, self.identical)
        if not self.reference:
            return p, order
        # Where symmetry leaves a choice the search takes the first ion, which is the fastest: a function of
        # the momenta alone, whatever their labels.
        aligned = self._alignment.nearest(_velocities(p, self.masses), _MOST_ORDERS)
        return np.take_along_axis(p, aligned[:, :, None], axis=1), np.take_along_axis(order, aligned, axis=1)

    @cached_property
    def _alignment(self) -> OrderSearch:
        """Search for the order whose velocities, weighted by masses, lie nearest to the reference's."""
        reference = _velocities(np.asarray(self.reference)[None], self.masses)[0]
        return OrderSearch(
            reference, self.identical, np.asarray(self.masses), mirrored=self.reflect, exact=_ALIKE
        )

    def momenta(self, condition: Floats) -> Floats:
        """Momenta over sqrt(KER) in the recoil frame, (B, N, 3), of conditions (B, C)."""
        n, (e1, e2, *_) = len(self.masses), self.axes
        out = np.zeros((len(condition), n, 3))
        if n == 2:  # the KER says it all: p^2 / 2 mu = 1
            size = (2.0 / sum(1.0 / m for m in self.masses)) ** 0.5
            out[:, e1, 0], out[:, e2, 0] = size, -size
            return out
        *others, last = self._others
        blocks = Condition.split(condition, n).momenta
        out[:, e1, :1], out[:, e2, :2] = blocks[:, :1], blocks[:, 1:3]
        out[:, others] = blocks[:, 3:].reshape(len(out), len(others), 3)
        out[:, last] = -out.sum(axis=1)
        return out

    def rotation(self, momenta: Floats) -> Floats:
        """Rotations (B, 3, 3) into the frames of momenta (B, N, 3)."""
        return self._rotation(self._ordered(_centred(momenta, np.array(self.masses)))[0])

    def _rotation(self, p: Floats) -> Floats:
        first = _unit(p[:, self.axes[0]])
        # An ion exactly at rest has no direction: take any.
        first[_length(first) == 0.0] = [1.0, 0.0, 0.0]
        second = p[:, self.axes[1]]
        size = _length(second)
        second = second - (second * first).sum(axis=1, keepdims=True) * first
        # Exactly collinear momenta fix no plane: take any, the condition says so.
        flat = _length(second) <= 1e-12 * size
        second[flat] = _any_normal(first[flat])
        second = _unit(second)
        third = np.cross(first, second)
        if self.reflect:
            third[(p[:, self.axes[2]] * third).sum(axis=1) < 0] *= -1.0
        return np.stack([first, second, third], axis=1)

    @_UNWARNED
    def to_chart(self, positions: Floats, events: FramedEvents) -> Floats:
        """Chart (B, n, D) of positions (B, n, N, 3), bohr, lab frame."""
        ends = np.zeros_like(self.assembly)
        for k, bond in enumerate(self.tree):
            ends[bond, k] = -1.0, 1.0
        flat = positions.reshape(*positions.shape[:2], -1)
        chart = flat @ self._matrix(ends, events, events.ker)
        if not isinstance(events, WhitenedEvents):
            return chart
        u = (_lengthened(chart, self._power) - events.centre[:, None]) @ events.root
        far = np.maximum(np.abs(u) - BULK, 0.0)
        return u + np.sign(u) * (np.sqrt(1.0 + 2.0 * far) - 1.0 - far)

    @_UNWARNED
    def to_positions(self, chart: Floats, events: FramedEvents) -> tuple[Floats, Floats]:
        """Positions (B, n, N, 3), bohr, lab, centre of mass 0, and `log_jacobian` of charts (B, n, D)."""
        n, size = len(self.masses), chart.shape[:2]
        if not isinstance(events, WhitenedEvents):
            x = chart @ np.swapaxes(self._matrix(self.assembly, events, 1.0 / events.ker), 1, 2)
            volume = np.broadcast_to((self.width * np.log(events.ker))[:, None], size)
            return x.reshape(*size, n, 3), np.array(volume)
        tables = (chart, events.centre, events.root, events.ker, events.rotation, events.order)
        each = [np.ascontiguousarray(table) for table in tables]
        x, volume = np.empty((*size, n, 3)), np.empty(size)

        def work(rows: slice) -> None:
            arrays = (array[rows] for array in each)
            place(*arrays, self._power, self.assembly, np.empty((2, self.width)), x[rows], volume[rows])

        in_threads(work, shares(len(chart), _SHARE, None), None)
        return x, volume

    def log_jacobian(self, chart: Floats, events: FramedEvents) -> Floats:
        """log|d chart / d relative positions|, (B, n): of scaling, D log KER, lengths and whitening."""
        return self.to_positions(chart, events)[1]

    def _matrix(self, table: Floats, events: FramedEvents, scale: Floats) -> Floats:
        """Matrices (B, 3N, D) from ions in the lab to bonds in the frame, by a table (N, N - 1) of both."""
        placed = np.empty((len(scale), *table.shape))
        np.put_along_axis(placed, events.order[:, :, None], table[None], axis=1)
        turned = events.rotation * scale[:, None, None]
        return np.einsum("bik,bac->bicka", placed, turned).reshape(len(scale), -1, self.width)

    @property
    def _power(self) -> float:
        """Of the lengths of bonds, in a whitened chart."""
        return 1.0 if self.whitening is None else self.whitening.power

    def simulator(
        self, molecule: Molecule, chart: Standardiser, condition: Standardiser
    ) -> Resimulation | None:
        """Exact simulator in standardised charts and conditions; None for whitened ones."""
        if self.whitening is not None:
            return None
        return Resimulation(self, molecule, chart, condition)

    @cached_property
    def assembly(self) -> Floats:
        """Matrix (N, N - 1) from bond vectors to positions, centre of mass 0."""
        n = len(self.masses)
        rows = np.zeros((n, n - 1))
        for k, (start, end) in enumerate(self.tree):
            rows[end] = rows[start]
            rows[end, k] += 1.0
        weight = np.array(self.masses)
        return rows - weight / weight.sum() @ rows


def _length(vectors: Floats) -> Floats:
    """Lengths (...,) of vectors (..., 3)."""
    return np.sqrt((vectors**2).sum(axis=-1))


def _unit(vectors: Floats) -> Floats:
    """Directions (..., 3) of vectors (..., 3); 0 of none."""
    return vectors / np.maximum(_length(vectors), _NONE)[..., None]


def _lengthened(vectors: Floats, power: float) -> Floats:
    """Bonds (B, n, 3K) as long as a power of their length."""
    if power == 1.0:
        return vectors
    bonds = vectors.reshape(*vectors.shape[:2], -1, 3)
    return (bonds * _length(bonds)[..., None] ** (power - 1.0)).reshape(vectors.shape)


def turned_logarithm(log_sigma: Floats, rotation: Floats) -> Floats:
    """Log of a covariance in a frame over 2, sum_k log sigma_k R_k R_k^T, (B, 6): xx yy zz xy xz yz.

    sigma_k (B, 3), or one level (B, 1), is the noise of lab axis k; that axis in the frame, R_k,
    is column k of the rotation (B, 3, 3).
    """
    matrix = (rotation * log_sigma[:, None]) @ np.swapaxes(rotation, 1, 2)
    i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    return matrix[:, i, j]


def _centred(momenta: Floats, masses: Floats) -> Floats:
    """Momenta (B, N, 3) without each ion's share, by mass, of the total momentum."""
    return momenta - (masses / masses.sum())[:, None] * momenta.sum(axis=1)[:, None, :]


def _velocities(p: Floats, masses: tuple[float, ...]) -> Floats:
    """Velocities (B, N, 3) of momenta of a kinetic energy of 1; of resting ions NaN."""
    mass = np.asarray(masses)[:, None]
    with np.errstate(invalid="ignore"):
        return p / mass / np.sqrt((p**2 / (2.0 * mass)).sum(axis=(1, 2)))[:, None, None]


def _sorted(p: Floats, identical: tuple[tuple[int, ...], ...]) -> tuple[Floats, Rows]:
    """Momenta with identical ions sorted by falling magnitude, and the order."""
    order = np.tile(np.arange(p.shape[1]), (len(p), 1))
    for group in identical:
        ions = np.array(group)
        order[:, ions] = ions[np.argsort(-_length(p[:, ions]), axis=1, stable=True)]
    return np.take_along_axis(p, order[:, :, None], axis=1), order


def _first_largest(values: Floats, taken: tuple[int, ...]) -> int:
    """First index within rounding of the largest value, but for those taken: ties must not flicker."""
    values = values.copy()
    values[list(taken)] = -1.0
    return int(np.argmax(values >= values.max() * (1.0 - 1e-6)))


def _any_normal(v: Floats) -> Floats:
    return np.cross(v, np.eye(3)[np.abs(v).argmin(axis=1)])


def _spanning_tree(n: int, bonds: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """N - 1 bonds (from, to), each from an atom already reached; atom 0 reaches what no bond does."""
    reached, tree = [0], []
    while len(reached) < n:
        free = next(k for k in range(n) if k not in reached)
        both = (*bonds, *((j, i) for i, j in bonds), (0, free))
        bond = next((i, j) for i, j in both if i in reached and j not in reached)
        tree.append(bond)
        reached.append(bond[1])
    return tuple(tree)
