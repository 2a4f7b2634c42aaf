"""What a model may be asked: the noise and the momenta it was trained for."""

# A network answers anything, also momenta in other units, of another molecule or from geometries that its
# prior excludes. What it was trained on is remembered as the range of the KER and the ellipsoid of the other
# numbers of the condition. Noise is told with the momenta: less than trained for is raised to the least,
# which errs towards caution; more is an error where one level is asked for, and a flag where events state
# their own.

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import NoDensityError, UsageError
from flowcei.events.container import events_of
from flowcei.experiment.detector import Noise, rms_component
from flowcei.experiment.missing import unsure_motion
from flowcei.frame.interface import Condition
from flowcei.physics.explosion import PLAIN
from flowcei.posterior.flags import moving, moving_source
from flowcei.reconstruction import lost
from flowcei.storage.card import DataRecord, RangeRecord

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.experiment import Experiment
    from flowcei.experiment.measurement import Measurement
    from flowcei.frame.interface import Frame
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.reconstruction.sampling import SamplingRequest

_FAR = 10.0  # standard deviations of a condition beyond which nothing was trained on
_ROUND_TRIP = 1e-2  # largest error of samples on their way back at which a flow is still used
_DEFAULT = 0.01  # of the rms momentum component
_ROUNDING = 1.01  # of a level of noise
# Like ions whose orders are added up for exact samples, at the most: of twelve, far from the equilibrium, one
# geometry takes 0.3 s (Zen 4), and an event many thousands of these.
_MOST_ALIKE = 10
_MARGIN = 0.1  # of the range of log KER, on either side
_FARTHER = 1.5  # times the largest squared distance in training


def check_request(model: Reconstructor, request: SamplingRequest) -> None:
    """UsageError or NoDensityError for what a model cannot answer, whatever the events."""
    check_invertible(model.training.round_trip_error)
    if request.exact:
        check_density(model.prior, model.molecule)
    own = None if request.experiment is None else request.experiment.of(model.molecule)
    if request.weighs:
        _check_forward(model.training.forward, own)
    elif own is not None:
        check_told(own, model.frame, model.training.forward)


def warn_of_motion(model: Reconstructor, samples: PosteriorSamples) -> None:
    """Warn where events lack several ions and atoms move at the start: `unsure_motion`."""
    most = 0 if samples.lost is None else int(samples.lost.sum(axis=1).max(initial=0))
    if unsure := unsure_motion(model.prior_spec, most):
        warnings.warn(unsure, stacklevel=3)


def check_invertible(error: float | None) -> None:
    """UsageError for a flow whose couplings do not invert themselves."""
    if error is not None and not error <= _ROUND_TRIP:
        raise UsageError(
            f"the flow does not invert itself (its samples and densities differ by {error:.2g}, bound "
            f"{_ROUND_TRIP}): train again with a lower --learning-rate"
        )


def check_density(prior: GeometryPrior, molecule: Molecule) -> None:
    """Refuse exact samples where a prior has no density, or one that takes too long."""
    if not prior.has_density:
        kind = prior.kind
        instead = "sample without --exact, or train with --prior of another kind"
        raise NoDensityError(
            f"exact samples need the density of the prior, and {kind!r} can only be sampled: {instead}"
        )
    most = max((len(group) for group in molecule.identical), default=0)
    if most > _MOST_ALIKE and not prior.exchangeable:
        slow = f"add up the orders of {most} like ions, too many for more than {_MOST_ALIKE}"
        raise UsageError(f"exact samples {slow}: sample without --exact")


def check_told(measurement: Measurement, frame: Frame, trained: str = "") -> None:
    """UsageError where samples that nothing corrects would not be those of an experiment."""
    noise = measurement.of_axes if frame.by_axis else measurement.one_level
    if noise and not measurement.accidents and knows_forces(measurement, frame) and not trained:
        return
    knows = "the noise of each axis" if frame.by_axis else "one level of noise"
    times = f" and a build-up to {frame.build_up:g} fs" if frame.build_up else ""
    raise UsageError(
        f"the model knows {knows}{times}, no more: samples of this experiment are exact or weighed "
        "(--weigh or --exact; weigh=True or exact=True)"
    )


def knows_forces(measurement: Measurement, frame: Frame) -> bool:
    """Whether a model is told the forces: Coulomb's, at once or built up in one time in the trained range."""
    growth = measurement.build_up
    if measurement.build_up_prior is not None:
        return False  # what an event says of the time, weights know
    if growth is None or growth.is_zero:
        return growth is not None or measurement.forward.name == PLAIN
    return len(set(growth.times)) == 1 and growth.times[0] <= frame.build_up


def _check_forward(trained: str, measurement: Measurement | None) -> None:
    """UsageError for weights by Coulomb's law of a model that was trained on other explosions."""
    if trained and measurement is None:
        raise UsageError(
            f"the model was trained on explosions by {trained}: weights and exact samples need it stated, by "
            "--experiment"
        )


def default_noise(trained: Noise, data: DataRecord | None) -> Noise:
    """Level that is assumed where nobody says: that of the data, else 1 %, or the nearest trained one."""
    level = trained.high
    if trained.relative:
        usual = _DEFAULT if data is None or data.noise is None else data.noise
        level = min(max(usual, trained.low), level)
    return Noise(level, level, relative=trained.relative)


def noise_limits(momenta: Floats, trained: Noise) -> tuple[Floats, ...]:
    """Least and largest noise (E,) that a model was trained for, of momenta (E, N, 3), hbar / bohr."""
    unit = rms_component(momenta) if trained.relative else np.ones(len(momenta))
    return trained.low * unit, trained.high * unit


def check_noise(noise: str | Noise | None, trained: Noise) -> None:
    """UsageError for one level of noise above the trained range."""
    # A level of the kind that was trained is above the range in every event or in none. Levels that events
    # state, or that are of the other kind, may be above it in one event of thousands.
    level = None if noise is None else Noise.parse(noise)
    if level is not None and level.relative == trained.relative and level.high > trained.high * _ROUNDING:
        raise UsageError(f"noise of {level} is above what the model was trained for ({trained})")


def trained_range(condition: Floats, ions: int) -> RangeRecord:
    """Extent of training conditions (B, C), not standardised."""
    momenta, log_ker, *_ = Condition.split(condition, ions)
    low, high = float(log_ker.min()), float(log_ker.max())
    margin = _MARGIN * (high - low)
    mean: Floats = momenta.mean(axis=0)
    covariance = np.cov(momenta, rowvar=False).reshape(momenta.shape[1], momenta.shape[1])
    precision = np.asarray(np.linalg.pinv(covariance, hermitian=True), dtype=np.float64)
    reach = _FARTHER * float(_distance(momenta, mean, precision).max(initial=0.0))
    return RangeRecord(
        low=low - margin, high=high + margin, mean=mean.tolist(), precision=precision.tolist(), reach=reach
    )


def outside(condition: Floats, trained: RangeRecord | None, ions: int) -> tuple[Bools, Bools]:
    """Conditions (B, C) whose KER (B,), whose other momenta (B,) are unlike all training: none if unknown."""
    if trained is None:
        return np.zeros(len(condition), dtype=bool), np.zeros(len(condition), dtype=bool)
    momenta, log_ker, *_ = Condition.split(condition, ions)
    mean = np.array(trained.mean)
    precision = np.array(trained.precision).reshape(len(mean), len(mean))  # of two ions there is none: []
    distance = _distance(momenta, mean, precision)
    return ~((log_ker >= trained.low) & (log_ker <= trained.high)), ~(distance <= trained.reach)


def _distance(x: Floats, mean: Floats, precision: Floats) -> Floats:
    return np.asarray(np.einsum("bi,ij,bj->b", x - mean, precision, x - mean))


def unlike_training(
    model: Reconstructor,
    events: Events,
    noise: str | Noise | None = None,
    experiment: Experiment | None = None,
) -> dict[str, Bools]:
    """Events (E,) unlike all that a model was trained on, for each flag that momenta alone can raise.

    Those of an experiment are calibrated.
    """
    events = events_of(events, model.molecule)
    sigma = model.sigma(events, noise)
    times = np.full(len(events), build_up_time(experiment, model.molecule))
    tables = events.momenta, model.sigma(events, noise, experiment), times
    condition = model.frame.bare.enter(*tables).condition
    seen = model.training.seen if model.frame.invariant else None
    ker, far = outside(condition, seen, len(model.molecule))
    table = model.condition_standardiser
    mean, scale = (t[-condition.shape[1] :] for t in (table.mean, table.scale))
    with np.errstate(all="ignore"):  # of absurd momenta
        far |= (~(np.abs((condition - mean) / scale) < _FAR)).any(axis=1)
    far &= ~ker
    if experiment is None:
        moves = moving(events.momenta, np.maximum(sigma, model.stated_sigma(events, noise)))
    else:
        measurement = experiment.of(model.molecule)
        moves = moving_source(measurement.sums(events.momenta))
        # Other forces leave energies that no training saw, and weights answer for them.
        ker &= knows_forces(measurement, model.frame)
    flags = {"momentum_sum": moves, "ker": ker, "momenta": far, "noise": too_noisy(model, events, noise)}
    return lost.of_known_momenta(flags, events)


def build_up_time(experiment: Experiment | None, molecule: Molecule) -> float:
    """Time in which the charges of an experiment build up, fs: of several the mean."""
    growth = None if experiment is None else experiment.of(molecule).build_up
    return 0.0 if growth is None else float(np.mean(growth.times))


def too_noisy(
    model: Reconstructor, events: Events, noise: str | Noise | None, experiment: Experiment | None = None
) -> Bools:
    """Events (E,) whose noise, or that of an axis of the experiment, is above the trained range."""
    stated = model.stated_sigma(events, noise, experiment).reshape(len(events), -1)
    most = noise_limits(events.momenta, model.noise)[1] * _ROUNDING
    return np.asarray((stated > most[:, None]).any(axis=1))
