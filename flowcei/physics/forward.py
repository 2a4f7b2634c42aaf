"""What turns geometries into momenta: one protocol, whatever the forces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Reals = NDArray[np.floating]
Floats = NDArray[np.float64]
Status = NDArray[np.uint8]


@dataclass(frozen=True)
class Start:
    """What is followed: ions at positions (B, N, 3) or (N, 3), bohr, at rest or with momenta, hbar / bohr."""

    positions: ArrayLike
    masses: ArrayLike  # (N,), electron masses
    charges: ArrayLike  # (N,), elementary charges
    initial_momenta: ArrayLike | None = None

    @property
    def ions(self) -> tuple[Floats, Floats]:
        """Masses and charges as arrays (N,)."""
        return np.asarray(self.masses, np.float64), np.asarray(self.charges, np.float64)


class ForwardModel(Protocol):
    """A forward model: `Coulomb`, `PairPotential`, or a class of your own with these two."""

    @property
    def name(self) -> str:
        """What models and samples say of it; two with the same name are the same."""
        ...

    def follow(
        self, start: Start, accuracy: float, threads: int | None = None, *, derivatives: bool = False
    ) -> tuple[Reals, Floats, Status]:
        """Return momenta at infinity, (B, N, 3), dp/dx, (B, 3N, 3N), none unless asked for, and status (B,).

        Status is 0 where both are right, else a key of `LOST_FOR`.
        """
        ...


LOST_FOR = {
    1: "a position or momentum that is not finite",
    2: "coincident ions",
    3: "an explosion too violent to be followed; check units",
    4: "ions nearer than the first point of the table of their potential",
    5: "ions that do not fly apart",
}


def check_followed(status: Status) -> None:
    """Raise a ValueError that names the first event (B,) that could not be followed, and why."""
    if status.any():
        raise ValueError(describe_lost(status))


def describe_lost(status: Status) -> str:
    """The first of the events (B,) that could not be followed, and what was wrong with it."""
    row = int(np.argmax(status != 0))
    reason = LOST_FOR.get(int(status[row]), "momenta that the forward model does not give")
    return f"row {row} of positions has {reason} ({int((status == status[row]).sum())} such rows)"
