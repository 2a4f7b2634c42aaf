"""Where physics meets the network: the recoil frame, and the chart a model sees (docs/frame.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from flowcei.frame._charts import BULK, log_volume, place
from flowcei.frame.interface import Condition, FramedEvents, WhitenedEvents
from flowcei.frame.resimulation import Resimulation
from flowcei.frame.whitening import Bodies, Whitening
from flowcei.physics.build_up import LONGEST
from flowcei.physics.priors.orders import OrderSearch
from flowcei.physics.threads import in_threads, shares

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule

_LARGEST = 1e6
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
        momenta: Tensor,
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
        p, _ = draft._ordered(_centred(momenta, torch.tensor(masses, dtype=momenta.dtype)))  # noqa: SLF001
        e1 = _first_largest(p.norm(dim=2).mean(dim=0), ())
        along = normalize(p[:, e1], dim=1)[:, None]
        across = p - (p * along).sum(dim=2, keepdim=True) * along
        e2 = _first_largest(across.norm(dim=2).mean(dim=0), (e1,))
        axes: tuple[int, ...] = (e1, e2)
        if n > 3:
            normal = normalize(torch.linalg.cross(along, across[:, e2, None]), dim=2)
            axes += (_first_largest((p * normal).sum(dim=2).abs().mean(dim=0), (e1, e2)),)
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

    def enter(self, momenta: Tensor, sigma: Tensor, build_up: Tensor | None = None) -> FramedEvents:
        """Events of momenta (B, N, 3) with noise (B,) of their components, hbar / bohr, in their frames.

        Their condition holds the momenta over sqrt(KER), without zeros and without what momentum conservation
        repeats, log KER, and the log of sigma over the rms momentum component. By axis noise is (B,) or that
        of the lab's axes, (B, 3), and this log is of its matrix in the frame. Build-up times, (B,), fs, 0
        where None, are those of the whitening, and, to the longest that was trained for, of the condition.
        """
        masses = torch.tensor(self.masses, dtype=momenta.dtype, device=momenta.device)
        p, order = self._ordered(_centred(momenta, masses))
        # KER = U0 exactly: positions times KER and momenta over sqrt(KER) are free of scale.
        ker = (p**2 / (2.0 * masses[:, None])).sum(dim=(1, 2))
        rotation = self._rotation(p)
        turned = p @ rotation.transpose(1, 2) / ker.sqrt()[:, None, None]
        rms = (p**2).mean(dim=(1, 2)).sqrt()
        blocks = turned[:, 0, :0]  # two ions: the KER says it all
        if len(self.masses) > 2:
            e1, e2, *_ = self.axes
            first, second = turned[:, e1, :1], turned[:, e2, :2]
            blocks = torch.cat([first, second, turned[:, self._others[:-1]].flatten(1)], dim=1)
        sigma = sigma if sigma.ndim == 2 else sigma[:, None]
        level = (sigma / rms[:, None]).log()
        noise = turned_logarithm(level.expand(-1, 3), rotation) if self.by_axis else level
        # In the units of the chart, where KER = 1: times are as long as KER^(-3/2).
        time, unit = torch.zeros_like(ker) if build_up is None else build_up.to(ker), ker**1.5
        told_time = (time.clamp_max(self.build_up) * unit)[:, None]
        condition = Condition(blocks, ker.log(), noise, told_time if self.build_up else noise[:, :0]).joined()
        if self.whitening is None:
            return FramedEvents(condition, rotation, order, ker)
        bodies = Bodies(np.asarray(self.masses), self.tree, self.assembly.numpy(), self.reflect)
        sigma = sigma.expand(-1, 3) / ker.sqrt()[:, None]
        told = (self.momenta(condition), sigma, rotation, ker, time * unit)
        measured, noise_of_axes, lab, energy, times = (t.numpy(force=True) for t in told)
        normal = self.whitening.approximate(measured, noise_of_axes, lab, energy, times, bodies)
        tensors = (torch.from_numpy(t).to(ker) for t in normal)
        return WhitenedEvents(condition, rotation, order, ker, *tensors)

    def _ordered(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Centred momenta (B, N, 3) with identical ions by falling speed or aligned, and the order (B, N)."""
        p, order = _sorted(p, self.identical)
        if not self.reference:
            return p, order
        # Where symmetry leaves a choice the search takes the first ion, which is the fastest: a function of
        # the momenta alone, whatever their labels.
        velocities = _velocities(p.numpy(force=True), self.masses)
        aligned = torch.from_numpy(self._alignment.nearest(velocities, _MOST_ORDERS)).to(order.device)
        return p.gather(1, aligned[:, :, None].expand_as(p)), order.gather(1, aligned)

    @cached_property
    def _alignment(self) -> OrderSearch:
        """Search for the order whose velocities, weighted by masses, lie nearest to the reference's."""
        reference = _velocities(np.asarray(self.reference)[None], self.masses)[0]
        return OrderSearch(
            reference, self.identical, np.asarray(self.masses), mirrored=self.reflect, exact=_ALIKE
        )

    def momenta(self, condition: Tensor) -> Tensor:
        """Momenta over sqrt(KER) in the recoil frame, (B, N, 3), of conditions (B, C)."""
        n, (e1, e2, *_) = len(self.masses), self.axes
        out = condition.new_zeros(len(condition), n, 3)
        if n == 2:  # the KER says it all: p^2 / 2 mu = 1
            size = (2.0 / sum(1.0 / m for m in self.masses)) ** 0.5
            out[:, e1, 0], out[:, e2, 0] = size, -size
            return out
        *others, last = self._others
        blocks = Condition.split(condition, n).momenta
        out[:, e1, :1], out[:, e2, :2] = blocks[:, :1], blocks[:, 1:3]
        out[:, others] = blocks[:, 3:].unflatten(1, (len(others), 3))
        out[:, last] = -out.sum(dim=1)
        return out

    def _rotation(self, p: Tensor) -> Tensor:
        first = normalize(p[:, self.axes[0]], dim=1)
        # An ion exactly at rest has no direction: take any.
        resting = first.norm(dim=1, keepdim=True) == 0
        first = torch.where(resting, first.new_tensor([1.0, 0.0, 0.0]), first)
        second = p[:, self.axes[1]]
        second = second - (second * first).sum(dim=1, keepdim=True) * first
        # Exactly collinear momenta fix no plane: take any, the condition says so.
        flat = second.norm(dim=1, keepdim=True) <= 1e-12 * p[:, self.axes[1]].norm(dim=1, keepdim=True)
        second = normalize(torch.where(flat, _any_normal(first), second), dim=1)
        third = torch.linalg.cross(first, second)
        if self.reflect:
            side = (p[:, self.axes[2]] * third).sum(dim=1, keepdim=True)
            third = torch.where(side < 0, -third, third)
        return torch.stack([first, second, third], dim=1)

    def to_chart(self, positions: Tensor, events: FramedEvents) -> Tensor:
        """Chart (B, n, D) of positions (B, n, N, 3), bohr, lab frame."""
        order = events.order[:, None, :, None].expand_as(positions)
        x = positions.gather(2, order)
        start, end = (list(side) for side in zip(*self.tree, strict=True))
        bonds = (x[:, :, end] - x[:, :, start]) @ events.rotation[:, None].transpose(2, 3)
        chart = bonds.flatten(2) * events.ker[:, None, None]
        if not isinstance(events, WhitenedEvents):
            return chart
        u = (_lengthened(chart, self._power) - events.centre[:, None]) @ events.root
        far = (u.abs() - BULK).clamp_min(0.0)
        return u + u.sign() * ((1.0 + 2.0 * far).sqrt() - 1.0 - far)

    def to_positions(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """Positions (B, n, N, 3), bohr, lab frame, centre of mass 0, of charts (B, n, D)."""
        if isinstance(events, WhitenedEvents):
            out = events.ker.new_empty(*chart.shape[:2], len(self.masses), 3)
            self._in_kernel(place, chart, events, (events.rotation, events.order), (self.assembly,), out)
            return out
        bonds = chart.unflatten(2, (-1, 3)) / events.ker[:, None, None, None]
        bonds = bonds @ events.rotation[:, None]
        x = torch.einsum("kj,bnjx->bnkx", self.assembly.to(chart), bonds)
        return torch.empty_like(x).scatter_(2, events.order[:, None, :, None].expand_as(x), x)

    def log_jacobian(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """log|d chart / d relative positions|, (B, n): of scaling, D log KER, lengths and whitening."""
        if isinstance(events, WhitenedEvents):
            out = events.ker.new_empty(chart.shape[:2])
            self._in_kernel(log_volume, chart, events, (), (), out)
            return out
        return (self.width * events.ker.log())[:, None].expand(chart.shape[:2])

    def _in_kernel(
        self,
        kernel: Callable[..., None],
        chart: Tensor,
        events: WhitenedEvents,
        more: tuple[Tensor, ...],
        fixed: tuple[Tensor, ...],
        out: Tensor,
    ) -> None:
        """Write what a kernel makes of whitened charts, and of `more` of each event, to `out`."""
        tables = (chart.double(), events.centre, events.root, events.ker, *more, out)
        each = [table.detach().contiguous().numpy() for table in tables]
        constant = self._power, *(table.numpy() for table in fixed)
        threads = torch.get_num_threads()

        def work(rows: slice) -> None:
            *arrays, result = (array[rows] for array in each)
            kernel(*arrays, *constant, np.empty(self.width), result)

        in_threads(work, shares(len(chart), _SHARE, threads), threads)

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
    def assembly(self) -> Tensor:
        """Matrix (N, N - 1) from bond vectors to positions, centre of mass 0."""
        n = len(self.masses)
        rows = torch.zeros(n, n - 1, dtype=torch.float64)
        for k, (start, end) in enumerate(self.tree):
            rows[end] = rows[start]
            rows[end, k] += 1.0
        weight = torch.tensor(self.masses, dtype=torch.float64)
        return rows - weight / weight.sum() @ rows


def _lengthened(vectors: Tensor, power: float) -> Tensor:
    """Bonds (B, n, 3K) as long as a power of their length."""
    if power == 1.0:
        return vectors
    bonds = vectors.unflatten(2, (-1, 3))
    return (bonds * bonds.norm(dim=3, keepdim=True) ** (power - 1.0)).flatten(2)


def turned_logarithm(log_sigma: Tensor, rotation: Tensor) -> Tensor:
    """Log of a covariance in a frame over 2, sum_k log sigma_k R_k R_k^T, (B, 6): xx yy zz xy xz yz.

    sigma_k (B, 3) is the noise of lab axis k; that axis in the frame, R_k,
    is column k of the rotation (B, 3, 3).
    """
    matrix = (rotation * log_sigma[:, None]) @ rotation.transpose(1, 2)
    i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    return matrix[:, i, j]


def _centred(momenta: Tensor, masses: Tensor) -> Tensor:
    """Momenta (B, N, 3) without each ion's share, by mass, of the total momentum."""
    return momenta - (masses / masses.sum())[:, None] * momenta.sum(dim=1)[:, None, :]


def _velocities(p: NDArray[np.float64], masses: tuple[float, ...]) -> NDArray[np.float64]:
    """Velocities (B, N, 3) of momenta of a kinetic energy of 1; of resting ions NaN."""
    mass = np.asarray(masses)[:, None]
    with np.errstate(invalid="ignore"):
        return p / mass / np.sqrt((p**2 / (2.0 * mass)).sum(axis=(1, 2)))[:, None, None]


def _sorted(p: Tensor, identical: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor]:
    """Momenta with identical ions sorted by falling magnitude, and the order."""
    order = torch.arange(p.shape[1], device=p.device).repeat(len(p), 1)
    for group in identical:
        ions = torch.tensor(group, device=p.device)
        rank = p[:, ions].norm(dim=2).argsort(dim=1, descending=True, stable=True)
        order[:, ions] = ions[rank]
    return p.gather(1, order[:, :, None].expand_as(p)), order


def _first_largest(values: Tensor, taken: tuple[int, ...]) -> int:
    """First index within rounding of the largest value, but for those taken: ties must not flicker."""
    values = values.clone()
    values[list(taken)] = -1.0
    return int((values >= values.max() * (1.0 - 1e-6)).nonzero()[0])


def _any_normal(v: Tensor) -> Tensor:
    axis = torch.zeros_like(v).scatter_(1, v.abs().argmin(dim=1, keepdim=True), 1.0)
    return torch.linalg.cross(v, axis)


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
