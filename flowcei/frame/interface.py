"""The interface of every frame, and how the condition of a model is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.frame.standardiser import Standardiser
    from flowcei.models.interface import Simulates
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import Floats

    Rows = NDArray[np.intp]


class Condition(NamedTuple):
    """Named blocks of conditions in a recoil frame, not standardised."""

    momenta: Floats  # over sqrt(KER), without what is 0 or repeated, (B, 3N - 6)
    log_ker: Floats  # of the KER in hartree, (B,)
    log_noise: Floats  # of sigma over the rms momentum component, (B, 1); by axis that of its matrix, (B, 6)
    build_up: Floats  # its time times KER^(3/2), fs hartree^(3/2), (B, 1); of charges at once (B, 0)

    @classmethod
    def split(cls, rows: Floats, ions: int, *, build_up: bool = False) -> Condition:
        """Blocks of conditions (B, C), which may hold the build-up time."""
        count, end = 3 * ions - 6, rows.shape[1] - build_up
        return cls(rows[:, :count], rows[:, count], rows[:, count + 1 : end], rows[:, end:])

    def joined(self) -> Floats:
        """Conditions (B, C) of the blocks."""
        return np.column_stack(self)


@dataclass(frozen=True)
class FramedEvents:
    """Measured events in their frames."""

    condition: Floats  # (B, C)
    rotation: Floats  # rows e1, e2, e3 (with a reflection, e3 is left-handed), (B, 3, 3)
    order: Rows  # of the file's ions in the frame, (B, N)
    ker: Floats  # kinetic energy release, (B,), hartree

    def __getitem__(self, rows: Any) -> Self:  # noqa: ANN401 (a slice, a mask or numbers)
        """Return some of the events."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def told(self) -> Floats:
        """What a network is told of each event: the condition, last, (B, T)."""
        return self.condition


@dataclass(frozen=True)
class WhitenedEvents(FramedEvents):
    """Events with a normal approximation of each one's posterior, in the frame's own coordinates y."""

    centre: Floats  # (B, D)
    root: Floats  # lower triangular G (B, D, D); G^T (y - centre) has the covariance 1
    misfit: Floats  # sum of squares at the centre, (B,)

    @property
    def told(self) -> Floats:
        """Where the posterior is, how narrow and how well it fits; and the condition, (B, T)."""
        narrow = np.log(np.diagonal(self.root, axis1=1, axis2=2))
        return np.column_stack([self.centre, narrow, np.log1p(self.misfit), self.condition])


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

    def enter(self, momenta: Floats, sigma: Floats, build_up: Floats | None = None) -> FramedEvents:
        """Events of momenta (B, N, 3) with noise (B,) of their components, hbar / bohr.

        A frame that is told it by axis takes that of the lab's, (B, 3), too; `build_up` (B,), fs, is for one
        that is told it, 0 where None.
        """

    def to_chart(self, positions: Floats, events: FramedEvents) -> Floats:
        """Chart (B, n, D) of positions (B, n, N, 3), bohr."""

    def to_positions(self, chart: Floats, events: FramedEvents) -> tuple[Floats, Floats]:
        """Positions (B, n, N, 3), bohr, and `log_jacobian` of charts (B, n, D)."""

    def log_jacobian(self, chart: Floats, events: FramedEvents) -> Floats:
        """log|d chart / d positions|, (B, n), at charts (B, n, D)."""

    def simulator(self, molecule: Molecule, chart: Standardiser, condition: Standardiser) -> Simulates | None:
        """Exact simulator in standardised charts and conditions; None where they lack something for it."""
