"""The coordinates of a file as they are: how the first study trained, for comparison only.

No rotation, no centre of mass, no scale: a model sees the numbers of the file. What is the
same in all events (an axis on which an ion was put) is left out, of positions because a
density would be unbounded there, and given back unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from flowcei.errors import DataError
from flowcei.frame.interface import FramedEvents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from flowcei.frame.standardiser import Standardiser
    from flowcei.molecules.molecule import Molecule

_SAME = 1e-5  # of the largest deviation of a column: less is rounding
_LEAST_NOISE = 1e-8  # whose logarithm stands for none


@dataclass(frozen=True)
class RawFrame:
    """Which numbers of a file vary; has what `flowcei.frame.recoil.RecoilFrame` has.

    Attributes:
        masses: (N,), electron masses.
        fixed: Of each of the 3N position columns its value where it is the same in all
            events, bohr, else None.
        seen: The momentum columns that vary.
    """

    kind: ClassVar[str] = "raw"
    invariant: ClassVar[bool] = False

    masses: tuple[float, ...]
    fixed: tuple[float | None, ...]
    seen: tuple[int, ...]

    @classmethod
    def of(cls, masses: Tensor, positions: Tensor, momenta: Tensor) -> RawFrame:
        """Look which columns of positions and momenta, (B, N, 3) each, vary.

        Raises:
            DataError: Where no position or no momentum does.
        """
        x, p = positions.flatten(1), momenta.flatten(1)
        moving, seen = _varying(x), _varying(p)
        if not bool(moving.any()) or not bool(seen.any()):
            msg = "all events are the same: there is nothing to learn"
            raise DataError(msg)
        means = x.mean(dim=0).tolist()
        fixed = tuple(None if m else mean for m, mean in zip(moving.tolist(), means, strict=True))
        return cls(tuple(masses.tolist()), fixed, tuple(int(k) for k in seen.nonzero()[:, 0]))

    @property
    def width(self) -> int:
        """Number of position columns that vary."""
        return len(self._moving)

    @property
    def condition_width(self) -> int:
        """Number of momentum columns that vary, and the log of the noise."""
        return len(self.seen) + 1

    @property
    def _moving(self) -> list[int]:
        return [k for k, value in enumerate(self.fixed) if value is None]

    def names(self, labels: Sequence[str]) -> list[str]:
        """Return names of the chart's coordinates, such as ``c.x``."""
        return [f"{labels[k // 3]}.{'xyz'[k % 3]}" for k in self._moving]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers that `from_dict` reads."""
        return {"masses": list(self.masses), "fixed": list(self.fixed), "seen": list(self.seen)}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> RawFrame:
        """Build a frame from what `to_dict` returned.

        Raises:
            ValueError: For a table that describes no frame.
        """
        frame = cls(
            tuple(map(float, table["masses"])),
            tuple(None if value is None else float(value) for value in table["fixed"]),
            tuple(map(int, table["seen"])),
        )
        columns = 3 * len(frame.masses)
        sound = (
            len(frame.fixed) == columns
            and frame.width > 0
            and 0 < len(set(frame.seen)) == len(frame.seen)
            and set(frame.seen) <= set(range(columns))
        )
        if not sound:
            msg = f"{len(frame.fixed)} columns and momenta {frame.seen} are no frame of {columns // 3} ions"
            raise ValueError(msg)
        return frame

    def enter(self, momenta: Tensor, sigma: Tensor) -> FramedEvents:
        """Take measured events as they are.

        Args:
            momenta: (B, N, 3), hbar / bohr.
            sigma: Standard deviation of each momentum component, (B,), hbar / bohr.

        Returns:
            The events; their condition holds the momenta that vary and the log of sigma
            over the rms momentum component; rotation, order and KER change nothing.
        """
        count, n = len(momenta), len(self.masses)
        rms = (momenta**2).mean(dim=(1, 2)).sqrt()
        noise = (sigma / rms).clamp_min(_LEAST_NOISE).log()[:, None]
        return FramedEvents(
            torch.cat([momenta.flatten(1)[:, list(self.seen)], noise], dim=1),
            torch.eye(3, dtype=momenta.dtype, device=momenta.device).expand(count, 3, 3),
            torch.arange(n, device=momenta.device).expand(count, n),
            torch.ones_like(sigma),
            momenta.sum(dim=1),
        )

    def to_chart(self, positions: Tensor, events: FramedEvents) -> Tensor:
        """Return the columns that vary, (B, n, D), of positions (B, n, N, 3), bohr."""
        del events
        return positions.flatten(2)[..., self._moving]

    def to_positions(self, chart: Tensor, events: FramedEvents) -> Tensor:
        """Return positions (B, n, N, 3), bohr, of charts (B, n, D); constants are put back."""
        del events
        constants = torch.tensor([v or 0.0 for v in self.fixed], dtype=chart.dtype, device=chart.device)
        x = constants.repeat(*chart.shape[:2], 1)
        x[..., self._moving] = chart
        return x.unflatten(2, (-1, 3))

    def log_jacobian(self, events: FramedEvents) -> Tensor:
        """Return log|d chart / d positions|, (B,): 0."""
        return torch.zeros_like(events.ker)

    def simulator(self, molecule: Molecule, chart: Standardiser, condition: Standardiser) -> None:
        """Return nothing: columns that were left out would be missing."""
        del molecule, chart, condition


def _varying(columns: Tensor) -> Tensor:
    deviation = columns.std(dim=0)
    return deviation > _SAME * deviation.max()
