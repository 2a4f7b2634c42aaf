"""What a run itself says of its experiment: drift, source, resolution, accidents, losses, and its scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import kolmogorov, ndtr

from flowcei.check.scale import ScaleFit, fit_scale
from flowcei.errors import DataError, UsageError
from flowcei.experiment.accidents import FEWEST as FEWEST_TRUE
from flowcei.experiment.accidents import VAGUE, Mixture, mixed_sums, tell_by_sums
from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.experiment.experiment import Experiment, stated_experiment
from flowcei.experiment.missing import LOST
from flowcei.experiment.shots import Shots
from flowcei.physics.priors import build_prior
from flowcei.units import compact

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats

FEWEST = 100
"""Complete events, of which an experiment is measured."""

_UNLIKELY = 1e-3  # chance that sums which are what is believed are said not to be
_ONE_SIDED = 1.645  # standard errors: 95 % of a normal distribution are below
_SIGNIFICANT = 3.0  # standard errors
_TOO_FAR = 4.0  # standard errors
_LEAST = 1e-4  # hbar/bohr: noise that is said in place of none
_QUANTILES = 50  # of the width of sums, where noise is a share of the momenta of each event


@dataclass(frozen=True)
class Measured:
    """A number, or one for each axis or ion, with its standard error."""

    value: Any
    error: Any
    unit: str = "hbar/bohr"
    below: Any = None  # where it is not known to differ from 0: what it is below at 95 %

    def rows(self, name: str) -> Iterator[tuple[str, float, float, str, str]]:
        """Of each of its numbers name, number, standard error, both as text, and unit."""
        values, errors, below = self.value, self.error, self.below
        if isinstance(values, list):
            values, errors = dict(zip("xyz", values, strict=True)), dict(zip("xyz", errors, strict=True))
            below = dict(zip("xyz", below or [None] * 3, strict=True))
        elif not isinstance(values, dict):
            values, errors, below = {"": values}, {"": errors}, {"": below}
        for key, value in values.items():
            most = (below or {}).get(key)
            unclear = most is not None and value < 2.0 * errors[key]
            text = f"< {most:.2g} (95 %)" if unclear else compact(value, errors[key])
            yield f"{name} {key}".strip(), value, errors[key], text, self.unit


@dataclass(frozen=True, eq=False)
class ExperimentMeasurement:
    """What was measured of an experiment.

    Attributes:
        events: Complete events.
        quantities: `Measured` numbers: `drift`, `width` of the sums of momenta of true events, `spread` of
            the source or `noise` of an axis, `accidents`, `efficiency` by ion, `momentum_scale`, `build_up`.
        remarks: What was not measured, or does not hold, in words.
        experiment: What `flowcei sample --experiment` takes; None where noise and source were not
            told apart, or true events and accidents.
        fit: Momentum scale and build-up time, where a prior was trusted.
    """

    events: int
    quantities: dict[str, Measured]
    remarks: tuple[str, ...]
    experiment: Experiment | None
    fit: ScaleFit | None = None

    def __repr__(self) -> str:
        return f"ExperimentMeasurement: {', '.join(self.quantities)} of {self.events} events"

    def table(self) -> pd.DataFrame:
        """Return a row for each number, by its name: number, error, value with its error as text, unit."""
        rows = [row for name, one in self.quantities.items() for row in one.rows(name)]
        columns = ["quantity", "number", "error", "value", "unit"]
        return pd.DataFrame(rows, columns=columns).set_index("quantity")

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text."""
        table = {name: asdict(one) for name, one in self.quantities.items()}
        stated = None if self.experiment is None else self.experiment.to_dict()
        out = {"events": self.events, "measured": table, "remarks": list(self.remarks), "experiment": stated}
        return out if self.fit is None else out | {"fit": asdict(self.fit)}


def measure_experiment(
    events: Events,
    *,
    noise: Any = None,  # noqa: ANN401 (any form that Experiment takes)
    detector: Mapping[str, str] | None = None,
    spread: Any = None,  # noqa: ANN401
    temperature: float | None = None,
    prior: str | GeometryPrior | None = None,
    fit: str = "both",
    seed: int = 0,
) -> ExperimentMeasurement:
    """Measure an experiment from its events: what their sums of momenta, and a trusted prior, say of it.

    True events have normal sums, of variance sum_i sigma_i^2 + s^2 on an axis by noise and source; accidents
    those of ions of different events. Noise and source add up in sums: one must be stated to have the other.

    Args:
        events: Of one run, 100 complete ones or more, without a bound on their sums. With the column
            `lost_ion` they also tell the efficiency.
        noise: Known resolution, as of `Experiment`; gives the spread of the source.
        detector: Instead of `noise`, as of `Experiment`.
        spread: Known spread of the source, hbar / bohr; gives the noise of each axis, alike for all ions.
        temperature: Instead of `spread`, K.
        prior: Name of a prior of the molecule, or one, that is trusted to be that of the molecules: gives the
            scale of momenta and the build-up time of charges.
        fit: ``"scale"``, ``"build_up"`` or ``"both"`` of these; the other is then 1, or 0 fs.
        seed: Of the events that are simulated for the prior.

    Returns:
        Numbers with standard errors, and an experiment where noise and source are known.

    Raises:
        UsageError: For what no experiment can have, or a prior without noise and source.
        DataError: For too few events.

    Example:
        >>> import flowcei
        >>> e = flowcei.Experiment(noise=1.5, spread=[2, 2, 8], drift=[28, 0, 0], accidents=0.2)
        >>> measured = measure_experiment(flowcei.simulate("ocs", 2000, experiment=e, seed=1), noise=1.5)
        >>> [round(s) for s in measured.experiment.spread], round(measured.experiment.drift[0])
        ([2, 2, 8], 28)
    """
    known = {"noise": noise, "detector": detector, "spread": spread, "temperature": temperature}
    known = {name: value for name, value in known.items() if value is not None}
    if prior is not None and not known:
        raise UsageError(
            "momenta of a prior have noise: state it, or the spread or temperature of the source"
        )
    if (stated := stated_experiment(events.origin)) is not None and stated.assignments:
        raise DataError("hits of its assignments were shuffled: their sums tell nothing of the experiment")
    lost = events.columns.get(LOST, np.zeros(len(events)))
    run = _Sums.of(events[np.flatnonzero(lost == 0)] if lost.any() else events, known)
    quantities, remarks = run.quantities(), run.remarks()
    if lost.any():
        quantities["efficiency"] = _efficiency(lost, events.molecule, quantities["accidents"])
    experiment = run.experiment(quantities, remarks) if known else None
    fitted = None
    if prior is not None and experiment is not None:
        given = build_prior(events.molecule, prior)
        fitted = fit_scale(run.events[run.mixture.p_true > 0.5], experiment, given, fit, seed)
        quantities |= {name: Measured(*numbers) for name, numbers in fitted.quantities.items()}
        remarks += fitted.remarks
        experiment = Experiment(**run.entries(quantities) | fitted.entries)
    return ExperimentMeasurement(len(run.events), quantities, tuple(remarks), experiment, fitted)


@dataclass(frozen=True, eq=False)
class _Sums:
    """The sums of momenta of complete events, and what they are taken to be."""

    events: Events
    known: dict[str, Any]  # entries of an experiment
    resolved: bool  # whether its noise is among them
    sourced: bool  # whether its source is
    mixture: Mixture
    errors: Floats  # of mean, theta and share, (7,)
    source: Measurement  # with what is known of it

    @classmethod
    def of(cls, events: Events, known: dict[str, Any]) -> _Sums:
        """Fit them; UsageError for an experiment that there is not, DataError for too few events."""
        resolved, sourced = (
            bool({"noise", "detector"} & set(known)),
            bool({"spread", "temperature"} & set(known)),
        )
        own = Experiment(**({} if resolved else {"noise": 1.0}) | known).of(events.molecule)
        if sourced and np.isinf(own.spread).any():
            raise UsageError("spread is unknown along an axis: state all three, or the noise instead")
        if len(events) < FEWEST:
            raise DataError(f"{len(events)} complete events; an experiment is measured on {FEWEST} or more")
        still = replace(own, spread=np.where(np.isinf(own.spread), 0.0, own.spread))
        if not resolved:
            still = replace(still, noise=np.zeros_like(own.noise))
        base = still.width(events.momenta) ** 2
        slope = np.full_like(base, len(events.molecule) if sourced and not resolved else 1.0)
        least = NOISE_FLOOR * np.median(rms_component(events.momenta))
        if (np.abs(events.momenta.sum(axis=1)).max(axis=0) < least).any():
            reason = "they were centred, or have no noise, and tell nothing of an experiment"
            raise DataError(f"the momenta of all events sum to zero along an axis: {reason}")
        mixture = tell_by_sums(events.momenta, base, slope)
        errors = np.sqrt(np.diagonal(mixture.covariance()))
        return cls(events, known, resolved, sourced, mixture, errors, own)

    @property
    def vague(self) -> bool:
        """Whether true events and accidents are not told apart, or nearly all are accidents."""
        return bool(self.errors[6] > VAGUE or self.mixture.p_true.sum() < FEWEST_TRUE)

    def quantities(self) -> dict[str, Measured]:
        """What they tell."""
        one, errors = self.mixture, self.errors
        width = np.sqrt((one.p_true[:, None] * one.variance).sum(axis=0) / one.p_true.sum())
        by_theta = (one.p_true[:, None] * one.slope).sum(axis=0) / one.p_true.sum()
        error = by_theta * errors[3:6] / (2.0 * width)
        out = {"drift": Measured(one.mean.tolist(), errors[:3].tolist())}
        out["width"] = Measured(width.tolist(), error.tolist())
        if self.resolved != self.sourced:
            root = np.sqrt(np.maximum(one.theta, 0.0))
            below = np.sqrt(np.maximum(one.theta, 0.0) + _ONE_SIDED * errors[3:6])
            vague = bool((one.theta < 2.0 * errors[3:6]).any())
            error = errors[3:6] / (2.0 * np.maximum(root, 0.5 * below))
            numbers = root.tolist(), error.tolist(), "hbar/bohr", below.tolist() if vague else None
            out["spread" if self.resolved else "noise"] = Measured(*numbers)
        share = one.share, float(errors[6])
        none = share[0] < _SIGNIFICANT * share[1]
        out["accidents"] = Measured(*share, "", share[0] + _ONE_SIDED * share[1] if none else None)
        return out

    def entries(self, quantities: Mapping[str, Measured]) -> dict[str, Any]:
        """Those of an experiment, as known and as measured."""
        # Source and drift are stated as they are, not as momenta that are too large or small show them.
        scale = quantities["momentum_scale"].value if "momentum_scale" in quantities else 1.0
        accidents, source = quantities["accidents"], self.source.spread
        out = self.known | {"drift": [round(value / scale, 4) for value in quantities["drift"].value]}
        if "spread" in quantities:
            out["spread"] = [round(value / scale, 4) for value in quantities["spread"].value]
        if "noise" in quantities:
            square = np.square(quantities["noise"].value) - (scale**2 - 1.0) * source**2 / len(source)
            out["noise"] = np.sqrt(np.maximum(square, _LEAST**2)).round(4).tolist()
        if accidents.below is None:
            out["accidents"] = round(accidents.value, 5)
        if "efficiency" in quantities:
            out["efficiency"] = {
                ion: round(e, 4) for ion, e in quantities["efficiency"].value.items() if e > 0
            }
        return out

    def experiment(self, quantities: Mapping[str, Measured], remarks: list[str]) -> Experiment | None:
        """One with these numbers; None, and a remark, where nobody should sample with them."""
        if self.vague:
            return None
        try:
            (stated := Experiment(**self.entries(quantities))).of(self.events.molecule)
        except UsageError as error:
            why = "the sums have no peak of true events, or the noise is larger than stated"
            remarks.append(f"{error}; {why}: no number here is to be trusted")
            return None
        return stated

    def remarks(self) -> list[str]:
        """What they do not tell, or what they are not."""
        one, errors, out = self.mixture, self.errors, list[str]()
        if not (self.resolved or self.sourced):
            out.append(
                "sums have the noise of all ions and the spread of the source together: with --noise (or a "
                "detector) they tell the spread, with --spread or --temperature the noise"
            )
        if self.sourced and not self.resolved:
            out.append("the noise of an axis is taken to be that of each ion")
        if self.vague:
            why = "the sums of true events and of accidents are alike, or hardly an event is true"
            out.append(f"{why}: no number here is to be trusted")
        # The error of a width that is as stated: that of a few narrow ones is too small.
        larger = np.maximum(1.0, (one.base / one.variance).mean(axis=0))
        for axis, theta, error in zip("xyz", one.theta, larger * errors[3:6], strict=True):
            if theta < -_TOO_FAR * error:
                out.append(f"sums along {axis} are narrower than what is stated makes them: it is too much")
            elif self.resolved and self.sourced and theta > _TOO_FAR * error:
                out.append(f"sums along {axis} are wider than what is stated makes them: it is too little")
        for axis, p in zip("xyz", self._chances(), strict=True):
            if p < _UNLIKELY:
                out.append(
                    f"sums along {axis} are not normal beside those of ions of different events (p {p:.1g}): "
                    "the numbers of this axis are not to be trusted"
                )
        return out

    def _chances(self) -> list[float]:
        """Chance (3,) of sums so unlike what is fitted, by Kolmogorov and Smirnov."""
        one, out = self.mixture, []
        # Each ion of another molecule, or of as few as those of a shot: as an experiment has them.
        shots = Shots.of_accidents(self.events.molecule.kinds, one.share)
        laws = [mixed_sums(self.events.momenta)]
        laws += [] if shots is None else [mixed_sums(self.events.momenta, shots)]
        for k in range(3):
            t = np.sort(one.t[:, k])
            width = np.sqrt(np.quantile(one.variance[:, k], (np.arange(_QUANTILES) + 0.5) / _QUANTILES))
            true = ndtr((t[:, None] - one.mean[k]) / width).mean(axis=1)
            steps, distances = np.arange(len(t) + 1) / len(t), list[float]()
            for mixed in laws:
                accident = np.searchsorted(np.sort(mixed[:, k]), t) / len(mixed)
                fitted = (1.0 - one.share) * true + one.share * accident
                distances.append(max(np.abs(fitted - steps[1:]).max(), np.abs(fitted - steps[:-1]).max()))
            out.append(float(kolmogorov(np.sqrt(len(t)) * min(distances))))
        return out


def _efficiency(lost: Floats, molecule: Molecule, accidents: Measured) -> Measured:
    """Of each ion, from complete events and those that lack it: true ones differ by its loss alone.

    Accidents are of shots that had several molecules: fewer of the events that lack an ion.
    """
    value, error, ions = {}, {}, np.eye(len(molecule), dtype=bool)
    for ion, label in enumerate(molecule.labels):
        counts = np.array([(lost == 0).sum(), (lost == ion + 1).sum()], np.float64)

        def of(share: float, counts: Floats = counts, ion: int = ion) -> float:
            shots = Shots.of_accidents(molecule.kinds, share)
            shares = shots.share(np.stack([ions[0] & False, ions[ion]])) if shots else np.zeros(2)
            true = counts * (1.0 - shares)
            return float(true[0] / true.sum())

        share, off = (accidents.value, accidents.error) if accidents.below is None else (0.0, 0.0)
        value[label] = of(share)
        by_share = 0.5 * (of(share + off) - of(max(0.0, share - off)))
        error[label] = float(np.hypot(np.sqrt(value[label] * (1.0 - value[label]) / counts.sum()), by_share))
    return Measured(value, error, "")
