"""What the simulator takes of charges that build up or move: times, and how much moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowcei.errors import UsageError
from flowcei.physics.build_up import LONGEST, BuildUp
from flowcei.units import FEMTOSECOND

Floats = NDArray[np.float64]
Growth = tuple[Floats, Floats]


@dataclass(frozen=True)
class ChargeTransfer:
    """Charge that one ion has at first and the others later: what they lack fades as exp(-t / time).

    Each of the others receives as much of it as it has of their final charges.

    Attributes:
        ion: Number of the ion that gives, from 0.
        time: Time constant, fs.
        charge: What it has above its final charge at first, elementary charges; all that the others will have
            where None.

    Raises:
        UsageError: For a time or a charge that is not positive; as it is used, for more charge than there is.

    Example:
        >>> import flowcei
        >>> slow = flowcei.Coulomb(transfer=flowcei.ChargeTransfer(2, 20.0))
        >>> ocs = flowcei.Molecule.load("ocs")
        >>> p = flowcei.asymptotic_momenta(ocs.equilibrium, ocs.masses, ocs.charges, forward=slow)
        >>> fast = flowcei.asymptotic_momenta(ocs.equilibrium, ocs.masses, ocs.charges)
        >>> round(float(p[2, 2] / fast[2, 2]), 2)
        0.88
    """

    ion: int
    time: float
    charge: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0.0 < self.time <= LONGEST:
            raise UsageError(f"charge goes over in {self.time:g} fs; it must be above 0 to {LONGEST:g} fs")
        if self.charge is not None and not 0.0 < self.charge < np.inf:
            raise UsageError(f"the charge that goes over is {self.charge:g}; it must be above 0")

    @classmethod
    def of(cls, spec: Mapping[str, Any], labels: Sequence[str]) -> ChargeTransfer:
        """Return that of a table as `transfer_spec` gives it, for ions with labels."""
        if spec["from"] not in labels:
            raise UsageError(
                f"charge_transfer is from {spec['from'][:40]!r}; the ions are {', '.join(labels)}"
            )
        return cls(labels.index(spec["from"]), BuildUp.parse(spec["time"]).times[0], spec.get("charge"))

    def amounts(self, charges: Floats) -> Floats:
        """What each ion lacks at first, (N,), over its final charge: less than 0 of the one that gives."""
        others = float(np.abs(charges).sum() - abs(charges[self.ion]))
        moved = others if self.charge is None else self.charge
        if moved > others:
            raise UsageError(f"a charge of {moved:g} goes over to ions that have {others:g} in the end")
        out = np.full(len(charges), moved / others)
        out[self.ion] = -moved / abs(charges[self.ion])
        return out

    def __str__(self) -> str:
        """Return it in words."""
        moved = "all charge of the others" if self.charge is None else f"a charge of {self.charge:g}"
        return f"{moved} comes from ion {self.ion + 1} in {BuildUp((self.time,))}"


def transfer_spec(given: object) -> dict[str, Any]:
    """A table of ``from``, ``time`` and perhaps ``charge``, in one form; UsageError where it is none."""
    table = given if isinstance(given, dict) else {}
    if not {"from", "time"} <= set(table) <= {"from", "time", "charge"}:
        raise UsageError("charge_transfer is a table of from (an ion), time (5fs) and perhaps charge")
    times = BuildUp.parse(table["time"])
    if len(times.times) != 1:
        raise UsageError(f"charge_transfer has one time; got {table['time']!r:.60}")
    charge = table.get("charge")
    if charge is not None and type(charge) not in (int, float):
        raise UsageError(f"the charge that goes over is {charge!r:.40}; it must be a number")
    ChargeTransfer(0, times.times[0], charge)
    out: dict[str, Any] = {"from": str(table["from"]), "time": str(times)}
    return out if charge is None else out | {"charge": float(charge)}


def growth_of(
    build_up: str | ArrayLike | BuildUp | None,
    transfer: ChargeTransfer | None,
    count: int,
    masses: Floats,
    charges: Floats,
) -> Growth | None:
    """Times (B, K), in units of the molecule but for its size, and what each ion lacks at first, (N,).

    Times of build-up, then that in which charge moves; where none does the latter is empty.
    """
    times, moved = np.zeros((count, 0)), np.zeros(0)
    if build_up is not None and (own := _times(build_up, count, len(masses))).any():
        times = own
    if transfer is not None:
        times = np.hstack([times, np.full((count, 1), transfer.time)])
        moved = transfer.amounts(charges)
    if not times.any():
        return None
    unit = FEMTOSECOND * float(np.abs(charges).max() / np.sqrt(masses.sum()))
    return np.ascontiguousarray(times * unit), moved


def _times(build_up: str | ArrayLike | BuildUp, count: int, n: int) -> Floats:
    """Build-up times (B, 1), or of each ion (B, N), fs; ValueError for others."""
    if isinstance(build_up, str | BuildUp):
        stated = np.array(BuildUp.parse(build_up).of_ions(n))  # which has been checked
        return np.broadcast_to(stated, (count, len(stated)))
    given = np.asarray(build_up, np.float64)
    if given.shape not in ((), (count,), (count, n)):
        raise ValueError(
            f"build-up times have shape {given.shape}; expected (), ({count},) or ({count}, {n})"
        )
    times = given if given.ndim == 2 else np.broadcast_to(given[..., None], (count, 1))
    wrong = ~((times >= 0.0) & (times <= LONGEST))
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        allowed = f"they must be 0 to {LONGEST:g} fs"
        raise ValueError(f"row {row} has build-up times of {times[row].tolist()} fs; {allowed}")
    return times
