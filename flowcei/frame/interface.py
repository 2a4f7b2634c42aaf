"""The interface of every frame, and how the condition of a model is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.frame.standardiser import Standardiser
    from flowcei.models.interface import Simulates
    from flowcei.molecules.molecule import Molecule

Array = TypeVar("Array", bound=Any)


class Condition(NamedTuple, Generic[Array]):
    """Named blocks of conditions in a recoil frame, of NumPy or torch, not standardised."""

    momenta: Array  # over sqrt(KER), without what is 0 or repeated, (B, 3N - 6)
    log_ker: Array  # of the KER in hartree, (B,)
    log_noise: Array  # of sigma over the rms momentum component, (B, 1); by axis that of its matrix, (B, 6)
    build_up: Array  # its time times KER^(3/2), fs hartree^(3/2), (B, 1); of charges at once (B, 0)

    @classmethod
    def split(cls, rows: Array, ions: int, *, build_up: bool = False) -> Condition[Array]:
        """Blocks of conditions (B, C), which may hold the build-up time."""
        count, end = 3 * ions - 6, rows.shape[1] - build_up
        return cls(rows[:, :count], rows[:, count], rows[:, count + 1 : end], rows[:, end:])

    def joined(self) -> Tensor:
        """Conditions (B, C) of the blocks."""
        return torch.cat([self.momenta, self.log_ker[:, None], self.log_noise, self.build_up], dim=1)


@dataclass(frozen=True)
class FramedEvents:
    """Measured events in their frames."""

    condition: Tensor  # (B, C)
    rotation: Tensor  # rows e1, e2, e3 (with a reflection, e3 is left-handed), (B, 3, 3)
    order: Tensor  # of the file's ions in the frame, (B, N)
    ker: Tensor  # kinetic energy release, (B,), hartree

    def __getitem__(self, rows: Tensor) -> Self:
        """Return some of the events."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def told(self) -> Tensor:
        """What a network is told of each event: the condition, last, (B, T)."""
        return self.condition


@dataclass(frozen=True)
class WhitenedEvents(FramedEvents):
    """Events with a normal approximation of each one's posterior, in the frame's own coordinates y."""

    centre: Tensor  # (B, D)
    root: Tensor  # lower triangular G (B, D, D); G^T (y - centre) has the covariance 1
    misfit: Tensor  # sum of squares at the centre, (B,)

    @property
    def told(self) -> Tensor:
        """Where the posterior is, how narrow and how well it fits; and the condition, (B, T)."""
        narrow = torch.diagonal(self.root, dim1=1, dim2=2).log()
        return torch.cat([self.centre, narrow, self.misfit.log1p()[:, None], self.condition], dim=1)


class Frame(Protocol):
    """Coordinates in which a model sees momenta and positions: a frozen dataclass of plain numbers."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str]  # its name after --frame
    invariant: ClassVar[bool]  # free of orientation and scale: conditions are `Condition`, priors comparable

    @property
    def by_axis(self) -> bool:
        """Whether conditions hold the noise of each lab axis."""

    @property
    def bare(self) -> Frame:
        """The same conditions without an approximation of each event, which costs a search."""

    @property
    def build_up(self) -> float:
        """Longest build-up time, fs, of a frame whose conditions hold it; else 0."""

    @property
    def masses(self) -> tuple[float, ...]:
        """Masses of the ions, (N,), electron masses."""

    @property
    def width(self) -> int:
        """Width D of the chart."""

    @property
    def condition_width(self) -> int:
        """Width C of the condition."""

    @property
    def told_width(self) -> int:
        """Width T of what a network is told, `FramedEvents.told`."""

    def names(self, labels: Sequence[str]) -> list[str]:
        """Names of the chart's D coordinates."""

    def enter(self, momenta: Tensor, sigma: Tensor, build_up: Tensor | None = None) -> FramedEvents:
        """Events of momenta (B, N, 3) with noise (B,) of their components, hbar / bohr.

        A frame that is told it by axis takes that of the lab's, (B, 3), too; `build_up` (B,), fs, is for one
        that is told it, 0 where None.
        """

    def to_chart(self, positions: Tensor, events: FramedEvents) -> Tensor:
        """Chart (B, n, D) of positions (B, n, N, 3), bohr."""

    def to_positions(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """Positions (B, n, N, 3), bohr, of charts (B, n, D)."""

    def log_jacobian(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """log|d chart / d positions|, (B, n), at charts (B, n, D)."""

    def simulator(self, molecule: Molecule, chart: Standardiser, condition: Standardiser) -> Simulates | None:
        """Exact simulator in standardised charts and conditions; None where they lack something for it."""
