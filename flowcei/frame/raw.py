"""The coordinates of a file as they are: how the first study trained, for comparison only.

No rotation, no centre of mass, no scale. A column that is the same in all events is left out, of positions
because a density would be unbounded there, and given back unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from flowcei.errors import DataError
from flowcei.frame.interface import FramedEvents

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule

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
    def of(cls, masses: Tensor, positions: Tensor, momenta: Tensor) -> RawFrame:
        """Frame of the columns of positions and momenta, (B, N, 3) each, that vary; DataError for none."""
        x, p = positions.flatten(1), momenta.flatten(1)
        moving, seen = _varying(x), _varying(p)
        if not bool(moving.any()) or not bool(seen.any()):
            raise DataError("all events are the same: there is nothing to learn")
        means = x.mean(dim=0).tolist()
        fixed = tuple(None if m else mean for m, mean in zip(moving.tolist(), means, strict=True))
        return cls(tuple(masses.tolist()), fixed, tuple(seen.nonzero()[:, 0].tolist()))

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
        momenta: Tensor,
        sigma: Tensor,
        build_up: Tensor | None = None,  # noqa: ARG002 (not told)
    ) -> FramedEvents:
        """Events of momenta (B, N, 3) with noise (B,): the columns that vary, log(sigma / rms)."""
        rms = (momenta**2).mean(dim=(1, 2)).sqrt()
        noise = (sigma / rms).clamp_min(_LEAST_NOISE).log()[:, None]
        return FramedEvents(
            torch.cat([momenta.flatten(1)[:, list(self.seen)], noise], dim=1),
            torch.eye(3, dtype=momenta.dtype, device=momenta.device).expand(len(momenta), 3, 3),
            torch.arange(len(self.masses), device=momenta.device).expand(len(momenta), -1),
            torch.ones_like(sigma),
        )

    def to_chart(self, positions: Tensor, events: FramedEvents) -> Tensor:  # noqa: ARG002
        """Columns that vary, (B, n, D), of positions (B, n, N, 3), bohr."""
        return positions.flatten(2)[..., self._moving]

    def to_positions(self, chart: Tensor, events: FramedEvents) -> Tensor:  # noqa: ARG002
        """Positions (B, n, N, 3), bohr, of charts (B, n, D); constants are put back."""
        constants = torch.tensor([v or 0.0 for v in self.fixed], dtype=chart.dtype, device=chart.device)
        x = constants.repeat(*chart.shape[:2], 1)
        x[..., self._moving] = chart
        return x.unflatten(2, (-1, 3))

    def log_jacobian(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """log|d chart / d positions|, (B, n): 0."""
        return torch.zeros_like(events.ker)[:, None].expand(chart.shape[:2])

    def simulator(self, molecule: Molecule, chart: Standardiser, condition: Standardiser) -> None:
        """No simulator: columns that were left out would be missing."""


def _varying(columns: Tensor) -> Tensor:
    deviation = columns.std(dim=0)
    return deviation > _SAME * deviation.max()
