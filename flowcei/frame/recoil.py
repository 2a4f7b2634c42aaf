"""Where physics meets the network: the recoil frame, and the chart a model sees.

Momenta and positions of an event are turned by the *same* rotation, fixed by the measured
momenta. What is left of an event then is free of orientation, of the centre of mass, of
the order of identical ions and of its overall scale:

1. Subtract from each ion its share, by mass, of the total momentum.
2. Sort identical ions by the magnitude of their momenta.
3. Rotate: e1 along one ion, e2 in the plane of a second. Where the prior does not know
   left from right, reflect so that a third ion points to positive e3.
4. KER = U0 exactly, so positions times KER and momenta over sqrt(KER) are free of scale.

The chart of a geometry is its N - 1 bond vectors in that frame times KER, D = 3N - 3
numbers. Every step is linear in the positions, so the Jacobian is that of the scaling
alone: log|d chart / d positions| = D log KER.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from flowcei.frame.interface import Condition, FramedEvents
from flowcei.frame.resimulation import Resimulation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule


@dataclass(frozen=True)
class RecoilFrame:
    """The frame of one molecule; which ions span it is chosen once.

    Attributes:
        masses: (N,), electron masses.
        identical: Groups of ions that are sorted.
        axes: The ions along e1, in the plane of e2, and (N > 3) on the side of e3.
        reflect: Whether the third ion's side is folded away.
        tree: The N - 1 bonds (from, to) whose vectors are the chart.
    """

    kind: ClassVar[str] = "recoil"
    invariant: ClassVar[bool] = True

    masses: tuple[float, ...]
    identical: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...]
    reflect: bool
    tree: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, molecule: Molecule, momenta: Tensor, *, reflect: bool) -> RecoilFrame:
        """Choose the frame of a molecule from typical momenta.

        The longest momentum is the best known direction; among the others the one with
        the longest perpendicular part fixes the plane best.

        Args:
            molecule: Its ions and bonds.
            momenta: Typical events, (B, N, 3), hbar / bohr.
            reflect: Whether handedness carries no information (`mirror_symmetric`).
        """
        masses = torch.tensor(molecule.masses, dtype=momenta.dtype)
        p, _ = _sorted(_centred(momenta, masses)[0], molecule.identical)
        e1 = _first_largest(p.norm(dim=2).mean(dim=0), ())
        along = torch.nn.functional.normalize(p[:, e1], dim=1)[:, None]
        across = p - (p * along).sum(dim=2, keepdim=True) * along
        e2 = _first_largest(across.norm(dim=2).mean(dim=0), (e1,))
        axes = [e1, e2]
        if len(molecule) > 3:
            normal = torch.linalg.cross(along, across[:, e2, None])
            normal = torch.nn.functional.normalize(normal, dim=2)
            axes.append(_first_largest((p * normal).sum(dim=2).abs().mean(dim=0), (e1, e2)))
        return cls(
            tuple(molecule.masses.tolist()),
            molecule.identical,
            tuple(axes),
            reflect and len(molecule) > 3,
            _spanning_tree(len(molecule), molecule.bonds),
        )

    @property
    def width(self) -> int:
        """D = 3N - 3, the width of the chart."""
        return 3 * len(self.masses) - 3

    @property
    def condition_width(self) -> int:
        """Width of the condition: 3N - 6 momenta, log KER and log noise."""
        return 3 * len(self.masses) - 4

    def names(self, labels: Sequence[str]) -> list[str]:
        """Return names of the chart's D coordinates, such as ``c-o.x``."""
        return [f"{labels[i]}-{labels[j]}.{axis}" for i, j in self.tree for axis in "xyz"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers that `from_dict` reads."""
        return {
            "masses": list(self.masses),
            "identical": [list(g) for g in self.identical],
            "axes": list(self.axes),
            "reflect": self.reflect,
            "tree": [list(b) for b in self.tree],
        }

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> RecoilFrame:
        """Build a frame from what `to_dict` returned.

        Raises:
            ValueError: For a table that describes no frame.
        """
        frame = cls(
            tuple(map(float, table["masses"])),
            tuple(tuple(map(int, g)) for g in table["identical"]),
            tuple(map(int, table["axes"])),
            bool(table["reflect"]),
            tuple((int(i), int(j)) for i, j in table["tree"]),
        )
        frame._check()
        return frame

    def _check(self) -> None:
        n = len(self.masses)
        grouped = [k for group in self.identical for k in group]
        reached = [0, *(end for _, end in self.tree)]
        sound = (
            len(self.axes) == (3 if n > 3 else 2)
            and (n > 3 or not self.reflect)
            and all(len(set(ions)) == len(ions) for ions in (self.axes, grouped))
            and set(self.axes) | set(grouped) <= set(range(n))
            and sorted(reached) == list(range(n))
            and all(start in reached[: k + 1] for k, (start, _) in enumerate(self.tree))
        )
        if not sound:
            msg = f"axes {self.axes}, groups {self.identical} and bonds {self.tree} are no frame of {n} ions"
            raise ValueError(msg)

    def enter(self, momenta: Tensor, sigma: Tensor) -> FramedEvents:
        """Take measured events into their recoil frames.

        Args:
            momenta: (B, N, 3), hbar / bohr.
            sigma: Standard deviation of each momentum component, (B,), hbar / bohr.

        Returns:
            The events; their condition holds the momenta over sqrt(KER) (without zeros
            and without what momentum conservation repeats), log KER, and the log of sigma
            over the rms momentum component.
        """
        masses = torch.tensor(self.masses, dtype=momenta.dtype, device=momenta.device)
        centred, total = _centred(momenta, masses)
        p, order = _sorted(centred, self.identical)
        ker = (p**2 / (2.0 * masses[:, None])).sum(dim=(1, 2))
        rotation = self._rotation(p)
        turned = p @ rotation.transpose(1, 2) / ker.sqrt()[:, None, None]
        rms = (p**2).mean(dim=(1, 2)).sqrt()
        told = turned[:, 0, :0]
        if len(self.masses) > 2:  # two ions: the KER says it all
            e1, e2, *_ = self.axes
            rest = [k for k in range(len(self.masses)) if k not in (e1, e2)][:-1]
            told = torch.cat([turned[:, e1, :1], turned[:, e2, :2], turned[:, rest].flatten(1)], dim=1)
        condition = Condition(told, ker.log(), (sigma / rms).log()).joined()
        return FramedEvents(condition, rotation, order, ker, total)

    def momenta(self, condition: Tensor) -> Tensor:
        """Return the momenta over sqrt(KER) in the recoil frame, (B, N, 3), of conditions (B, C)."""
        n = len(self.masses)
        out = condition.new_zeros(len(condition), n, 3)
        if n == 2:  # the KER says it all: p^2 / 2 mu = 1
            size = (2.0 / sum(1.0 / m for m in self.masses)) ** 0.5
            out[:, self.axes[0], 0], out[:, self.axes[1], 0] = size, -size
            return out
        e1, e2, *_ = self.axes
        *rest, last = [k for k in range(n) if k not in (e1, e2)]
        told = Condition.split(condition).momenta
        out[:, e1, :1], out[:, e2, :2] = told[:, :1], told[:, 1:3]
        out[:, rest] = told[:, 3:].unflatten(1, (len(rest), 3))
        out[:, last] = -out.sum(dim=1)
        return out

    def _rotation(self, p: Tensor) -> Tensor:
        first = torch.nn.functional.normalize(p[:, self.axes[0]], dim=1)
        # An ion exactly at rest has no direction: take any.
        rest = first.norm(dim=1, keepdim=True) == 0
        first = torch.where(rest, first.new_tensor([1.0, 0.0, 0.0]), first)
        second = p[:, self.axes[1]]
        second = second - (second * first).sum(dim=1, keepdim=True) * first
        # Exactly collinear momenta fix no plane: take any, the condition says so.
        flat = second.norm(dim=1, keepdim=True) <= 1e-12 * p[:, self.axes[1]].norm(dim=1, keepdim=True)
        second = torch.where(flat, _any_normal(first), second)
        second = torch.nn.functional.normalize(second, dim=1)
        third = torch.linalg.cross(first, second)
        if self.reflect:
            side = (p[:, self.axes[2]] * third).sum(dim=1, keepdim=True)
            third = torch.where(side < 0, -third, third)
        return torch.stack([first, second, third], dim=1)

    def to_chart(self, positions: Tensor, events: FramedEvents) -> Tensor:
        """Return the chart (B, n, D) of positions (B, n, N, 3), bohr, lab frame."""
        order = events.order[:, None, :, None].expand_as(positions)
        x = positions.gather(2, order)
        start, end = (list(side) for side in zip(*self.tree, strict=True))
        bonds = (x[:, :, end] - x[:, :, start]) @ events.rotation[:, None].transpose(2, 3)
        return bonds.flatten(2) * events.ker[:, None, None]

    def to_positions(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """Return positions (B, n, N, 3), bohr, lab frame, centre of mass 0, of charts (B, n, D)."""
        bonds = chart.unflatten(2, (-1, 3)) / events.ker[:, None, None, None]
        bonds = bonds @ events.rotation[:, None]
        x = torch.einsum("kj,bnjx->bnkx", self.assembly.to(chart), bonds)
        out = torch.empty_like(x)
        return out.scatter_(2, events.order[:, None, :, None].expand_as(x), x)

    def log_jacobian(self, events: FramedEvents) -> Tensor:
        """Return log|d chart / d relative positions|, (B,): D log KER."""
        return self.width * events.ker.log()

    def simulator(self, molecule: Molecule, chart: Standardiser, condition: Standardiser) -> Resimulation:
        """Return the simulator in standardised charts and conditions."""
        return Resimulation(molecule, self.momenta, self.assembly, chart, condition)

    @property
    def assembly(self) -> Tensor:
        """The matrix (N, N - 1) from bond vectors to positions, centre of mass 0."""
        n = len(self.masses)
        rows = torch.zeros(n, n - 1, dtype=torch.float64)
        for k, (start, end) in enumerate(self.tree):
            rows[end] = rows[start]
            rows[end, k] += 1.0
        weight = torch.tensor(self.masses, dtype=torch.float64)
        return rows - weight / weight.sum() @ rows


def _centred(momenta: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    total = momenta.sum(dim=1)
    return momenta - (masses / masses.sum())[:, None] * total[:, None], total


def _sorted(p: Tensor, identical: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor]:
    """Return momenta with identical ions sorted by falling magnitude, and the order."""
    order = torch.arange(p.shape[1], device=p.device).repeat(len(p), 1)
    for group in identical:
        places = torch.tensor(group, device=p.device)
        rank = p[:, places].norm(dim=2).argsort(dim=1, descending=True, stable=True)
        order[:, places] = places[rank]
    return p.gather(1, order[:, :, None].expand_as(p)), order


def _first_largest(values: Tensor, taken: tuple[int, ...]) -> int:
    """Return the first index within rounding of the largest value: ties must not flicker."""
    values = values.clone()
    values[list(taken)] = -1.0
    return int((values >= values.max() * (1.0 - 1e-6)).nonzero()[0])


def _any_normal(v: Tensor) -> Tensor:
    axis = torch.zeros_like(v).scatter_(1, v.abs().argmin(dim=1, keepdim=True), 1.0)
    return torch.linalg.cross(v, axis)


def _spanning_tree(n: int, bonds: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return N - 1 bonds (from, to), each from an atom already reached; atom 0 first."""
    reached, tree = [0], []
    while len(reached) < n:
        for i, j in (*bonds, *((j, i) for i, j in bonds)):
            if i in reached and j not in reached:
                tree.append((i, j))
                reached.append(j)
                break
        else:
            loose = next(k for k in range(n) if k not in reached)
            tree.append((0, loose))
            reached.append(loose)
    return tuple(tree)
