"""Positions centred and turned into the frame of their momenta."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.agreement import compare_with_simulation
from flowcei.check.alignment import angles_of, best_rotations, needed_positions
from flowcei.check.conservation import noisiness
from flowcei.check.finding import percent
from flowcei.errors import DataError
from flowcei.physics.explosion import centre_of_mass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.container import Events


@dataclass(frozen=True, eq=False)
class Changes:
    """What a repair did to each event.

    Attributes:
        shift: How far the centre of mass was from 0, (B,), bohr.
        angle: By how much the positions were turned, (B,), degrees; 0 where they were not.
        mirrored: Whether only a reflection would have made them fit, (B,).
        noise: Median relative noise of the momenta.
    """

    shift: NDArray[np.float64]
    angle: NDArray[np.float64]
    mirrored: NDArray[np.bool_]
    noise: float

    def __str__(self) -> str:
        """Say it in one line."""
        rms = float(np.sqrt((self.shift**2).mean()))
        turned = self.angle[self.angle > 0]
        parts = [f"centres of mass moved by {rms:.4g} bohr (rms, largest {self.shift.max():.4g})"]
        if turned.size:
            parts.append(
                f"positions of {turned.size} of {len(self.angle)} events turned by "
                f"{np.median(turned):.4g} degrees (median; {turned.min():.3g} to {turned.max():.3g})"
            )
        else:
            parts.append("nothing turned: positions and momenta were in one frame")
        if self.mirrored.any():
            parts.append(
                f"{int(self.mirrored.sum())} events fit only as mirror images and were left as they were"
            )
        return "; ".join(parts)


def repair(events: Events) -> tuple[Events, Changes]:
    """Centre the positions and turn them into the frame of the momenta.

    Positions are turned, each event by its own rotation, so that their re-simulated momenta
    come closest to the recorded ones. Where all are in one frame already they are only
    centred. Momenta, units, charges and handedness are left as they are.

    With noise the rotation follows the noise: relative to the true frame it is off by about
    the noise, and three ions come to lie exactly in the plane of their noisy momenta.

    Args:
        events: With positions.

    Returns:
        The repaired events, and what was changed.

    Raises:
        DataError: For events with momenta only, and where the positions do not explain the
            momenta in any orientation.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 50, seed=1)
        >>> repaired, changes = repair(replace(events, positions=events.positions[:, :, [1, 2, 0]]))
        >>> float(np.median(changes.angle).round(2))
        120.0
        >>> bool(np.allclose(repaired.positions, events.positions, atol=1e-3))
        True
    """
    x = needed_positions(events)
    centre = centre_of_mass(x, events.molecule.masses)
    x = x - centre
    found = compare_with_simulation(events, noisiness(events))
    if found is None or found.lost:
        count = len(events) if found is None else found.lost
        raise DataError(f"in {count} of {len(events)} events ions coincide; remove these events first")
    if not found.one_shape:
        msg = (
            "the positions do not explain the momenta in any orientation "
            f"(p_i.p_j differ by {percent(float(np.median(found.shape)))}): there is nothing to rotate to"
        )
        raise DataError(msg)
    angle = np.zeros(len(events))
    turned = found.rotated
    # What is apart in most events is apart in all, though noise hides small angles.
    if turned.mean() > 0.5:
        turned = ~found.mirrored
    if turned.any():
        rotation = best_rotations(found.simulated[turned], found.recorded[turned], noise=found.noise)
        x[turned] = x[turned] @ np.swapaxes(rotation, 1, 2)
        angle[turned] = angles_of(rotation)
    changes = Changes(np.linalg.norm(centre[:, 0], axis=1), angle, found.mirrored, found.noise)
    return replace(events, positions=x), changes
