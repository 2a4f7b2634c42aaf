"""The coordinates of a file as they are: how the first study trained, for comparison only.

No rotation, no centre of mass, no scale. A column that is the same in all events is left out, of positions
because a density would be unbounded there, and given back unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from flowcei.errors import DataError
from flowcei.frame.interface import FramedEvents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import Floats

_SAME = 1e-5  # of the largest deviation of a column: less is rounding
_LEAST_NOISE = 1e-8  # whose logarithm stands for none


@dataclass(frozen=True)
class RawFrame:
    """Which columns of a file vary; its rotation, order and KER change nothing."""

    kind: ClassVar[str] = "raw"
    invariant: ClassVar[bool] = False

    masses: tuple[float, ...]  # (N,), electron masses
    fixed: tuple[float | None, ...]  # of each of the 3N position columns its value where it is constant, bohr
    seen: tuple[int, ...]  # the momentum columns that vary

    def __post_init__(self) -> None:
        """ValueError for columns that are not there, or nothing to learn."""
        columns = 3 * len(self.masses)
        sound = (
            len(self.fixed) == columns
            and self.width > 0
            and 0 < len(set(self.seen)) == len(self.seen)
            and set(self.seen) <= set(range(columns))
        )
        if not sound:
            fields = f"{len(self.fixed)} columns and momenta {self.seen}"
            raise ValueError(f"{fields} are no frame of {columns // 3} ions")

    @classmethod
    def of(cls, masses: Floats, positions: Floats, momenta: Floats) -> RawFrame:
        """Frame of the columns of positions and momenta, (B, N, 3) each, that vary; DataError for none."""
        x, p = (table.reshape(len(table), -1) for table in (positions, momenta))
        moving, seen = _varying(x), _varying(p)
        if not moving.any() or not seen.any():
            raise DataError("all events are the same: there is nothing to learn")
        means = x.mean(axis=0).tolist()
        fixed = tuple(None if m else mean for m, mean in zip(moving.tolist(), means, strict=True))
        return cls(tuple(masses.tolist()), fixed, tuple(np.flatnonzero(seen).tolist()))

    @property
    def by_axis(self) -> bool:
        """Noise is told as one level."""
        return False

    @property
    def bare(self) -> RawFrame:
        """There is no approximation of events."""
        return self

    @property
    def build_up(self) -> float:
        """Charges are there at once."""
        return 0.0

    @property
    def width(self) -> int:
        """Number of position columns that vary."""
        return len(self._moving)

    @property
    def condition_width(self) -> int:
        """Number of momentum columns that vary, and the log of the noise."""
        return len(self.seen) + 1

    @property
    def told_width(self) -> int:
        """A network is told the condition."""
        return self.condition_width

    @property
    def _moving(self) -> list[int]:
        return [k for k, value in enumerate(self.fixed) if value is None]

    def names(self, labels: Sequence[str]) -> list[str]:
        """Names of the chart's coordinates, such as ``c.x``."""
        return [f"{labels[k // 3]}.{'xyz'[k % 3]}" for k in self._moving]

    def enter(
        self,
        momenta: Floats,
        sigma: Floats,
        build_up: Floats | None = None,  # noqa: ARG002 (not told)
    ) -> FramedEvents:
        """Events of momenta (B, N, 3) with noise (B,): the columns that vary, log(sigma / rms)."""
        with np.errstate(divide="ignore", invalid="ignore"):  # of ions that are all at rest
            level = sigma / np.sqrt((momenta**2).mean(axis=(1, 2)))
        seen = momenta.reshape(len(momenta), -1)[:, list(self.seen)]
        return FramedEvents(
            np.column_stack([seen, np.log(np.maximum(level, _LEAST_NOISE))]),
            np.tile(np.eye(3), (len(momenta), 1, 1)),
            np.tile(np.arange(len(self.masses)), (len(momenta), 1)),
            np.ones(len(momenta)),
        )

    def to_chart(self, positions: Floats, events: FramedEvents) -> Floats:  # noqa: ARG002
        """Columns that vary, (B, n, D), of positions (B, n, N, 3), bohr."""
        return positions.reshape(*positions.shape[:2], -1)[..., self._moving]

    def to_positions(self, chart: Floats, events: FramedEvents) -> tuple[Floats, Floats]:
        """Positions (B, n, N, 3), bohr, and `log_jacobian` of charts (B, n, D); constants are put back."""
        x = np.tile([v or 0.0 for v in self.fixed], (*chart.shape[:2], 1))
        x[..., self._moving] = chart
        return x.reshape(*chart.shape[:2], -1, 3), self.log_jacobian(chart, events)

    def log_jacobian(self, chart: Floats, events: FramedEvents) -> Floats:  # noqa: ARG002
        """log|d chart / d positions|, (B, n): 0."""
        return np.zeros(chart.shape[:2])

    def simulator(self, molecule: Molecule, chart: Standardiser, condition: Standardiser) -> None:
        """No simulator: columns that were left out would be missing."""


def _varying(columns: Floats) -> NDArray[np.bool_]:
    deviation = columns.std(axis=0)
    return deviation > _SAME * deviation.max()
