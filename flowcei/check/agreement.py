"""Whether the positions of events explain their momenta: shape, scale and frame; positions in their frame.

Re-simulated and recorded momenta are compared through their Gram matrices p_i . p_j, which do not depend
on orientation, and over their trace neither on units nor on a common factor of the charges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.diagnostic import percent
from flowcei.errors import DataError
from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.experiment.drift import measure_drift
from flowcei.experiment.experiment import stated_forward
from flowcei.experiment.likelihood import centred_momenta
from flowcei.physics.explosion import (
    PLAIN,
    centre_of_mass,
    followed_momenta,
    kinetic_energy,
    potential_energy,
)
from flowcei.physics.priors import build_prior

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats

ROUNDING = 1e-3  # of the momenta: less is no disagreement, but rounded columns or other masses
HARMLESS = 0.1  # more than this between shapes is no longer the same explosion
CHI2_MEDIAN = 2.36597  # of three degrees of freedom
_CHI2_FAR = 27.9  # of three degrees of freedom: exceeded by one event in 260,000
_ACCURACY = 1e-9
_COLLINEAR = 1e-11  # of singular values: directions that differ by a few 1e-6, as single precision does
_PAIRED = 0.5  # correlation of energies, below which rows do not belong together
_DRAWS = 200  # of the noise, over all events
_FEWEST = 20  # events of which a correlation means something


@dataclass(frozen=True)
class Noisiness:
    """Noise of a momentum component, from the momentum sum: each component of it has sigma sqrt(N)."""

    relative: float  # over the rms momentum component; median event
    absolute: float  # hbar / bohr; median event
    offset: Floats  # mean of the sum, (3,), hbar / bohr, where significant; else 0
    far: float  # share of events whose sum is out of proportion

    def sigma(self, events: Events) -> Floats:
        """Return the noise (B,), hbar / bohr: what is stated, else what the sum shows."""
        stated = stated_sigma(events)
        return self.relative * rms_component(events.momenta) if stated is None else stated


def stated_sigma(events: Events) -> Floats | None:
    """Return the noise (B,), hbar / bohr, that every event states, else None."""
    return events.sigma if events.sigma is not None and (events.sigma > 0).all() else None


def noisiness(events: Events) -> Noisiness:
    """Estimate the noise of momenta from their sum."""
    rms, drift, stated = rms_component(events.momenta), measure_drift(events.momenta), stated_sigma(events)
    offset = drift.momentum if drift.significant else np.zeros(3)
    squares = sum_squares(events, offset)
    level = float(np.median(squares / rms**2)) / CHI2_MEDIAN
    # Far events are judged by what they state; a level of their own reaches further than the median one.
    scale, reach = (level * rms**2, 25.0) if stated is None else (stated**2, 1.0)
    far = squares > _CHI2_FAR * reach * np.maximum(scale, (NOISE_FLOOR * rms) ** 2)
    absolute = float(np.sqrt(np.median(squares) / CHI2_MEDIAN))
    return Noisiness(float(np.sqrt(level)), absolute, offset, float(far.mean()))


def sum_squares(events: Events, offset: Floats) -> Floats:
    """Return the squared distance (B,) of momentum sums from `offset`, over the number of ions."""
    return ((events.momenta.sum(axis=1) - offset) ** 2).sum(axis=1) / len(events.molecule)


@dataclass(frozen=True, eq=False)
class Agreement:
    """Recorded momenta of B events beside those re-simulated from the positions."""

    events: Events  # those that could be followed
    lost: int  # events that could not: ions coincide
    recorded: Floats  # momenta in the frame of the centre of mass, (B, N, 3), hbar / bohr
    simulated: Floats  # re-simulated, scaled to the size of the recorded ones, (B, N, 3)
    sigma: Floats  # stated or measured noise, (B,), hbar / bohr
    noise: float  # median relative noise
    motion: float  # what motion at the start alone does to `apart`, rms; 0 of ions that began at rest
    slack: float  # factor by which few events may exceed what noise explains
    shape: Floats  # relative difference of the Gram matrices over their traces, (B,)
    shape_of_noise: Floats  # what noise alone does to `shape`, (B,)
    apart: Floats  # distance of recorded and re-simulated momenta, over their size, (B,)
    turned: Floats  # `apart` after the best rotation, (B,)
    apart_of_noise: Floats  # what noise alone does to `apart`, (B,)
    angle: Floats  # of the best rotation, (B,), degrees
    angle_of_noise: Floats  # what noise alone does to `angle`, (B,), degrees
    mirrored: Bools  # whether only a reflection makes them agree, (B,)

    @property
    def tolerated(self) -> float:
        """The median `shape` up to which noise explains it."""
        return float((0.5 + self.slack) * np.median(self.shape_of_noise) + ROUNDING)

    @property
    def one_shape(self) -> bool:
        """Whether the positions explain the momenta up to orientation and scale."""
        median = float(np.median(self.shape))
        # Near an equilibrium all shapes are alike: there rows in another order show in the energies.
        paired = len(self.shape) < _FEWEST or self.correlation > _PAIRED
        return median <= self.tolerated or (median <= HARMLESS and paired)

    @property
    def correlation(self) -> float:
        """The correlation of log KE and log U0 over the events."""
        molecule = self.events.molecule
        kinetic = np.log(kinetic_energy(self.recorded, molecule.masses))
        potential = np.log(released_energy(self.events))
        if np.ptp(kinetic) == 0 or np.ptp(potential) == 0:
            return 0.0
        return float(np.corrcoef(kinetic, potential)[0, 1])

    @property
    def rotated(self) -> Bools:
        """Which events have positions and momenta in different frames, (B,)."""
        usual = float(np.percentile(self.turned, 95))
        far = self.apart > 5.0 * np.maximum(self.slack * self.apart_of_noise, usual) + ROUNDING
        # All of them by a little: invisible in one event, plain in the median.
        median = float(np.median(self.apart))
        all_apart = median > 2.0 * self.slack * float(np.median(self.apart_of_noise)) + ROUNDING
        if all_apart and median > 2.5 * float(np.median(self.turned)):
            far |= self.apart > 2.5 * self.turned
        return far & ~self.mirrored


def moving_prior(events: Events) -> GeometryPrior | None:
    """The prior of simulated events that began with momenta of their vibrations, which their file lacks."""
    spec = events.origin.get("prior")
    moving = isinstance(spec, dict) and spec.get("motion") is True
    return build_prior(events.molecule, spec) if moving else None


def compare_with_simulation(events: Events, noise: Noisiness) -> Agreement | None:
    """Re-simulate events with positions and compare; None where no event can be followed."""
    simulated = resimulated(events)
    followed = np.asarray(np.isfinite(simulated).all(axis=(1, 2)))
    if not followed.any():
        return None
    sigma, simulated, lost = noise.sigma(events)[followed], simulated[followed], int((~followed).sum())
    events = events[followed]
    masses, count = events.molecule.masses, len(events)
    recorded = centred_momenta(events.momenta, masses)
    grown = (_size(recorded) / _size(simulated))[:, None, None]
    simulated *= grown
    level = float(np.median(sigma / rms_component(events.momenta)))
    # What noise alone does to a shape is drawn, not derived: it depends on the shape of the explosion.
    rng, scale, draws = np.random.default_rng(0), sigma[:, None, None], max(1, _DRAWS // count)
    ends = [_moved(events, k) * grown for k in range(draws)]
    drawn = (end + scale * rng.standard_normal(end.shape) for end in ends)
    noisy = [centred_momenta(draw, masses) for draw in drawn]
    # The median of few events may lie above its expectation; of few sums sigma itself may be far too small.
    few = 1.0 / np.sqrt(count)
    slack = (1.0 + 4.0 * few) * (1.0 if stated_sigma(events) is not None else 1.0 + 3.0 * few)
    rotation = best_rotations(simulated, recorded, noise=level)
    turned = residuals(simulated @ np.swapaxes(rotation, 1, 2), recorded)
    moved = [residuals(end * (_size(simulated) / _size(end))[:, None, None], simulated) for end in ends]
    motion = float(np.sqrt(np.square(moved).mean()))
    apart_of_noise = sigma * np.sqrt(3.0 * centred_variances(masses).sum()) / _size(recorded)
    apart_of_noise = np.hypot(apart_of_noise, motion)
    reflection = best_rotations(simulated, recorded, mirror=True)
    mirrored = residuals(simulated @ np.swapaxes(reflection, 1, 2), recorded)
    usual = float(np.percentile(np.minimum(turned, mirrored), 95))
    allowed = 5.0 * np.maximum(slack * apart_of_noise, usual)
    return Agreement(
        events=events,
        lost=lost,
        recorded=recorded,
        simulated=simulated,
        sigma=sigma,
        noise=level,
        motion=motion if motion > ROUNDING else 0.0,
        slack=float(slack),
        shape=shape_difference(simulated, recorded),
        shape_of_noise=np.mean([shape_difference(draw, simulated) for draw in noisy], axis=0),
        apart=residuals(simulated, recorded),
        turned=turned,
        apart_of_noise=apart_of_noise,
        angle=angles_of(rotation),
        angle_of_noise=angles_of(best_rotations(simulated, noisy[0], noise=level)),
        mirrored=(turned > allowed + ROUNDING) & (mirrored <= allowed),
    )


def needed_positions(events: Events) -> Floats:
    """Return the positions (B, N, 3), bohr; DataError for events that have momenta only."""
    if events.positions is None:
        raise DataError("the events have momenta only; positions are needed here")
    return events.positions


def _moved(events: Events, seed: int) -> Floats:
    """Momenta (B, N, 3) of positions exploded with drawn motion, from rest where their prior has none."""
    rest, prior = resimulated(events), moving_prior(events)
    if prior is None:
        return rest
    x, molecule = needed_positions(events), events.molecule
    start = prior.momenta_of(x, molecule.identical, np.random.default_rng(seed))
    how: dict[str, Any] = {"forward": stated_forward(events), "initial_momenta": start, "accuracy": _ACCURACY}
    out = np.asarray(followed_momenta(x, molecule.masses, molecule.charges, **how), np.float64)
    return np.where(np.isfinite(out), out, rest)


def resimulated(events: Events, charges: Floats | None = None) -> Floats:
    """Explode positions, in any unit of length, anew: momenta (B, N, 3), NaN where ions coincide.

    From rest. Charges (N,) are those of the molecule where None.
    """
    masses = events.molecule.masses
    x = needed_positions(events)
    x = x - centre_of_mass(x, masses)
    # On the scale 1 no unit of length, however wrong, is too violent for the integrator.
    size = np.sqrt((x**2).mean(axis=(1, 2), keepdims=True))
    size[size == 0] = 1.0
    q = events.molecule.charges if charges is None else charges
    forward = stated_forward(events)
    if forward.name != PLAIN:  # it has a scale; flowcei made them, in bohr
        return np.asarray(followed_momenta(x, masses, q, forward=forward, accuracy=_ACCURACY), np.float64)
    return followed_momenta(x / size, masses, q, accuracy=_ACCURACY) / np.sqrt(size)


def released_energy(events: Events) -> Floats:
    """Kinetic energy (B,), hartree, of positions exploded: U0, or what other forces or motion make of it."""
    masses, charges = events.molecule.masses, events.molecule.charges
    if stated_forward(events).name != PLAIN or moving_prior(events):
        return np.asarray(kinetic_energy(_moved(events, 0), masses))
    return np.asarray(np.abs(potential_energy(needed_positions(events), charges)))


def centred_variances(masses: Floats) -> Floats:
    """Return the variances (N,) that unit noise of every ion has in the frame of the centre of mass."""
    share = masses / masses.sum()
    return 1.0 - 2.0 * share + len(share) * share**2


def best_rotations(source: Floats, target: Floats, *, noise: float = 0.0, mirror: bool = False) -> Floats:
    """Return rotations R (B, 3, 3), or reflections, with ``source @ R^T`` closest to target, (B, N, 3).

    Of vectors collinear within the relative `noise`, the rotation of smallest angle.
    """
    # W. Kabsch, Acta Cryst. A 32, 922 (1976), through singular values.
    u, s, vt = np.linalg.svd(np.einsum("bni,bnj->bij", target, source))
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    u[:, :, 2] *= (-sign if mirror else sign)[:, None]
    best: Floats = u @ vt
    collinear = s[:, 1] <= max(_COLLINEAR, noise**2) * s[:, 0]
    if collinear.any() and not mirror:
        best[collinear] = _shortest_turn(vt[collinear, 0], u[collinear, :, 0])
    return best


def _shortest_turn(a: Floats, b: Floats) -> Floats:
    """Return the rotations (B, 3, 3) of smallest angle from unit vectors a to b, (B, 3)."""
    from scipy.spatial.transform import Rotation

    normal = np.cross(a, b)
    sine = np.linalg.norm(normal, axis=1)
    # From a to -a about any normal of a.
    some = np.cross(a, np.eye(3)[np.abs(a).argmin(axis=1)])
    normal = np.where((sine < 1e-9)[:, None], some, normal)
    angle = np.arctan2(sine, (a * b).sum(axis=1))
    axis = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    return np.asarray(Rotation.from_rotvec(angle[:, None] * axis).as_matrix())


def angles_of(rotations: Floats) -> Floats:
    """Return the angles (B,) of rotations (B, 3, 3), degrees."""
    # Not from the trace: its arccos loses half the digits of small angles.
    chord = np.linalg.norm(rotations - np.eye(3), axis=(1, 2)) / np.sqrt(8.0)
    return np.degrees(2.0 * np.arcsin(np.minimum(chord, 1.0)))


def _size(p: Floats) -> Floats:
    return np.linalg.norm(p, axis=(1, 2))


def residuals(a: Floats, b: Floats) -> Floats:
    """Return the distances (B,) of vectors (B, N, 3) from `b`, over the size of `b`."""
    return _size(a - b) / _size(b)


def shape_difference(a: Floats, b: Floats) -> Floats:
    """Return the relative difference (B,) of the Gram matrices p_i . p_j over their traces, to that of b."""
    grams = [p @ np.swapaxes(p, 1, 2) for p in (a, b)]
    return residuals(*(gram / np.trace(gram, axis1=1, axis2=2)[:, None, None] for gram in grams))


@dataclass(frozen=True, eq=False)
class Changes:
    """What a repair did to each event."""

    shift: Floats  # how far the centre of mass was from 0, (B,), bohr
    angle: Floats  # by how much the positions were turned, (B,), degrees; 0 where they were not
    mirrored: Bools  # whether only a reflection would have made them fit, (B,)
    noise: float  # median relative noise of the momenta

    def __str__(self) -> str:
        """Say it in one line."""
        rms, turned = float(np.sqrt((self.shift**2).mean())), self.angle[self.angle > 0]
        line = f"centres of mass moved by {rms:.4g} bohr (rms, largest {self.shift.max():.4g}); "
        if turned.size:
            degrees = f"{np.median(turned):.4g} degrees (median; {turned.min():.3g} to {turned.max():.3g})"
            line += f"positions of {turned.size} of {len(self.angle)} events turned by {degrees}"
        else:
            line += "nothing turned: positions and momenta were in one frame"
        if count := int(self.mirrored.sum()):
            line += f"; {count} events fit only as mirror images and were left as they were"
        return line


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
    centre = centre_of_mass(needed_positions(events), events.molecule.masses)
    x = needed_positions(events) - centre
    agreement = compare_with_simulation(events, noisiness(events))
    if agreement is None or agreement.lost:
        count = len(events) if agreement is None else agreement.lost
        raise DataError(f"in {count} of {len(events)} events ions coincide; remove these events first")
    if not agreement.one_shape:
        difference = f"p_i.p_j differ by {percent(float(np.median(agreement.shape)))}"
        msg = f"the positions do not explain the momenta in any orientation ({difference})"
        raise DataError(f"{msg}: there is nothing to rotate to")
    turned, angle = agreement.rotated, np.zeros(len(events))
    # What is apart in most events is apart in all, though noise hides small angles.
    if turned.mean() > 0.5:
        turned = ~agreement.mirrored
    rotation = best_rotations(agreement.simulated[turned], agreement.recorded[turned], noise=agreement.noise)
    x[turned] = x[turned] @ np.swapaxes(rotation, 1, 2)
    angle[turned] = angles_of(rotation)
    changes = Changes(np.linalg.norm(centre[:, 0], axis=1), angle, agreement.mirrored, agreement.noise)
    return replace(events, positions=x), changes
