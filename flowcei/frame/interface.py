"""What every frame does, and how the condition of a model is laid out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from flowcei.frame.resimulation import Resimulation
    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule

Array = TypeVar("Array", bound=Any)


class Condition(NamedTuple, Generic[Array]):
    """The parts of conditions in a recoil frame, (B, C), of NumPy or torch.

    Attributes:
        momenta: Over sqrt(KER), without what is 0 or repeated, (B, C - 2).
        log_ker: Of the KER in hartree, (B,).
        log_noise: Of sigma over the rms momentum component, (B,).
    """

    momenta: Array
    log_ker: Array
    log_noise: Array

    @classmethod
    def split(cls, rows: Array) -> Condition[Array]:
        """Return the parts of rows (B, C) of a model's condition, not standardised."""
        return cls(rows[:, :-2], rows[:, -2], rows[:, -1])

    def joined(self) -> Tensor:
        """Return the rows (B, C) that `split` takes apart."""
        return torch.cat([self.momenta, self.log_ker[:, None], self.log_noise[:, None]], dim=1)


@dataclass(frozen=True)
class FramedEvents:
    """Measured events, taken into their frames.

    Attributes:
        condition: What a model is told of each event, (B, C).
        rotation: Rows e1, e2, e3 (with a reflection, e3 is left-handed), (B, 3, 3).
        order: Which ion of the file stands at each place, (B, N).
        ker: Kinetic energy release, (B,), hartree.
        total_momentum: What was subtracted, (B, 3), hbar / bohr.
    """

    condition: Tensor
    rotation: Tensor
    order: Tensor
    ker: Tensor
    total_momentum: Tensor

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.ker)

    def __getitem__(self, rows: slice | Tensor) -> FramedEvents:
        """Return some of the events."""
        return FramedEvents(*(getattr(self, field.name)[rows] for field in fields(self)))


class Frame(Protocol):
    """Coordinates in which a model sees momenta and positions: `RecoilFrame` and `RawFrame`.

    Attributes:
        kind: Its name after ``--frame``.
        invariant: Whether orientation and scale are taken out: then conditions are those of
            `Condition`, and a prior's density can be compared with the model's.
    """

    kind: ClassVar[str]
    invariant: ClassVar[bool]

    @property
    def masses(self) -> tuple[float, ...]:
        """Of the ions, (N,), electron masses."""

    @property
    def width(self) -> int:
        """Width D of the chart."""

    @property
    def condition_width(self) -> int:
        """Width C of the condition."""

    def names(self, labels: Sequence[str]) -> list[str]:
        """Return names of the chart's D coordinates."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers that `flowcei.frame.kinds.frame_from_dict` reads."""

    def enter(self, momenta: Tensor, sigma: Tensor) -> FramedEvents:
        """Take events in: momenta (B, N, 3) and the noise (B,) of their components, hbar / bohr."""

    def to_chart(self, positions: Tensor, events: FramedEvents) -> Tensor:
        """Return the chart (B, n, D) of positions (B, n, N, 3), bohr."""

    def to_positions(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """Return positions (B, n, N, 3), bohr, of charts (B, n, D)."""

    def log_jacobian(self, events: FramedEvents) -> Tensor:
        """Return log|d chart / d positions|, (B,)."""

    def simulator(
        self, molecule: Molecule, chart: Standardiser, condition: Standardiser
    ) -> Resimulation | None:
        """Return the simulator in standardised charts and conditions; None where it has no such form."""
