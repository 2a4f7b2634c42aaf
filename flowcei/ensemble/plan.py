"""How many events a wanted error takes, by the information that noisy momenta hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from flowcei.ensemble.coordinates import named
from flowcei.ensemble.mixture import Mixture, compare_priors
from flowcei.ensemble.population import Population, population
from flowcei.ensemble.wants import MOST, Laws, Promise, Setting, Want, charges_of, check_prior, scale_of
from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.events.simulation import fresh_seed, simulate
from flowcei.experiment.experiment import Experiment
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior

if TYPE_CHECKING:
    from flowcei.experiment.measurement import Measurement
    from flowcei.physics.priors import GeometryPrior
    from flowcei.reconstruction.model import Reconstructor

_CHECKED, _SAMPLES = 300, 1000  # events of a check, at the most, and samples of each


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How many events reach wanted errors, under some settings.

    Attributes:
        molecule: Whose.
        prior: The law of the geometries, as a prior.
        promises: Of each wanted error and setting.

    Example:
        >>> import flowcei
        >>> flowcei.plan("ocs", ["c-s 0.02"], noise=["1%", "3%"], seed=0)
        Plan: ocs, c-s 0.02 bohr: 131 events (noise 1%), 413 events (noise 3%)
    """

    molecule: Molecule
    prior: GeometryPrior
    promises: tuple[Promise, ...]
    experiments: dict[str, Experiment]  # by noise
    seed: int = 0

    def __repr__(self) -> str:
        own = [one for one in self.promises if one.want == self.promises[0].want]
        each = ", ".join(f"{one.events:.0f} events (noise {one.noise})" for one in own)
        return f"Plan: {self.molecule.name}, {own[0].title}: {each}"

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a wanted error and setting.

        `blur` is the error of one event (median), `sd` the width of the law; `events` have to be kept, of
        `molecules` that explode. Infinite where no number of events does.
        """
        names = ("noise", "charges", "missing", "blur", "sd")
        rows = [
            {"wanted": f"{one.want.kind} {one.want.name}", "error": one.want.error, "unit": one.unit}
            | {name: getattr(one, name) for name in names}
            | {"events": one.events, "molecules": float(np.ceil(one.events / one.kept))}
            for one in self.promises
        ]
        table = pd.DataFrame(rows)
        settled = [name for name in ("charges", "missing") if len(set(table[name])) == 1]
        return table.drop(columns=[*settled, *(["molecules"] if "missing" in settled else [])])

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text; None where no number of events reaches what is wanted."""
        table = self.to_dataframe().replace({math.inf: None, math.nan: None}).to_dict("records")
        return {"molecule": self.molecule.name, "prior": self.prior.spec(), "seed": self.seed, "table": table}

    def plot(self) -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure: each wanted error against the number of events."""
        return import_module("flowcei.plot.plan").plan_figure(self)

    def check(self, model: Reconstructor, events: int = _CHECKED) -> pd.DataFrame:
        """Compare what is promised with what simulated, sampled and unfolded events reach.

        Args:
            model: Of the same ions, whose prior covers the law; its samples are made exact.
            events: Simulated of each setting, 300 or as many as it takes, where this is fewer.

        Returns:
            A row a wanted error and setting with charges of the model: the error that is promised of these
            `events`, the one that `population`, or `compare_priors`, states (`reached`), and how far what
            it finds is from the truth, in such errors (`away`).

        Raises:
            UsageError: For a model of other ions.
        """
        own = [one for one in self.promises if one.charges == charges_of(model.molecule)]
        if model.molecule.name != self.molecule.name or not own:
            raise UsageError(
                f"a check needs a model of the ions of the plan; this one is of {model.molecule!r}"
            )
        rows, fitted = [], dict[tuple[Any, ...], Population | Mixture]()
        for one in own:
            n = int(min(events, max(one.events, one.least)))
            key = (one.noise, one.missing, n, one.want if one.want.kind == "share" else None)
            if key not in fitted:
                fitted[key] = self._fitted(one, model, n)
            reached, away = _reached(one, fitted[key])
            rows.append(
                {"wanted": f"{one.want.kind} {one.want.name}", "unit": one.unit, "noise": one.noise}
                | {"missing": one.missing, "events": n, "promised": float(one.error(n))}
                | {"reached": reached, "away": away}
            )
        table = pd.DataFrame(rows)
        return table if table["missing"].any() else table.drop(columns="missing")

    def _fitted(self, one: Promise, model: Reconstructor, n: int) -> Population | Mixture:
        """What n simulated events give."""
        experiment, priors = self.experiments[one.noise], [self.prior]
        if one.want.kind == "share":
            priors.append(build_prior(self.molecule, one.want.name))
        shares = [1.0 - one.want.share, one.want.share][: len(priors)]
        counts = np.random.default_rng(self.seed).multinomial(n, shares) if len(priors) > 1 else [n]
        how: dict[str, Any] = {"experiment": experiment, "missing": one.missing}
        runs = [
            simulate(model.molecule, int(count), prior=prior, seed=self.seed + k, **how)
            for k, (count, prior) in enumerate(zip(counts, priors, strict=True))
            if count
        ]
        how = {"exact": True, "experiment": experiment, "seed": self.seed}
        samples = model.sample(Events.concatenate(runs), _SAMPLES, **how)
        if len(priors) > 1:
            return cast("Mixture", compare_priors(samples, priors, check=False))
        return cast("Population", population(samples, bootstrap=0, check=False))


def _reached(one: Promise, fitted: Population | Mixture) -> tuple[float, float]:
    """The error that a fit states, and how far what it finds is from the truth, over it."""
    if isinstance(fitted, Mixture):
        row = fitted.to_dataframe().iloc[1]
        error, found = float(row["error"]), float(row["share"])
    else:
        name = "mean" if one.want.kind == "mean" else "sd"
        scale = scale_of(one.unit)
        k = fitted.coordinates.index(named(fitted.coordinates, [one.want.name])[0])
        row = fitted.to_dataframe().iloc[k]
        error, found = (float(row[column]) / scale for column in (f"{name}_error", name))
    return error, (found - one.truth) / error


def plan(
    molecule: Molecule | str,
    want: Sequence[str],
    *,
    prior: str | dict[str, Any] | GeometryPrior | None = None,
    noise: str | Sequence[str] | None = None,
    charges: Sequence[str] = (),
    experiment: Experiment | str | Path | None = None,
    missing: int = 0,
    seed: int | None = None,
) -> Plan:
    """Say how many events reach a wanted error of a mean, a width or a share.

    The geometries of the molecules are those of a prior, which is taken for normal; all means, widths and
    correlations of its coordinates are unknown, as they are to `population`. Each event tells of them what
    its noisy momenta can, by the exact derivative of the explosion: see `flowcei.ensemble.promise`. Other
    geometries with the same momenta are not seen.

    Args:
        molecule: A `Molecule`, the name of a built-in one, or a .toml or .xyz file.
        want: Such as ``"c-s 0.02"``, the error of the mean of a bond, bohr, or of an angle, degrees;
            ``"width:c-s 0.01 angstrom"`` of its width; ``"share:stretched=0.3 0.02"`` of the share of a
            second prior, which 30 % of the events are of.
        prior: The law of the geometries: a name or table of the molecule's, a TOML file, or a prior.
        noise: One or several levels, ``"1%"`` or ``"0.5"`` (hbar / bohr); 1 % where None.
        charges: Of the ions, several: ``"2"`` for all, ``"1,2,2"``; the molecule's where none.
        experiment: Resolution, source, efficiency and accidents; `noise` stands in place of its own.
        missing: Ions that an event may lack; each number up to it is a setting.
        seed: Of the geometries.

    Returns:
        The plan: a table, a figure, and a check by simulated events.

    Raises:
        UsageError: For what is not understood, a prior without a middle, or errors that no number of events
            reaches.
        NoDensityError: For a prior without density.

    Example:
        See `Plan`.
    """
    own = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
    wants = [Want.of(text) for text in ([want] if isinstance(want, str) else want)]
    if not wants:
        raise UsageError("nothing is wanted: name an error, such as 'c-s 0.02'")
    law = build_prior(own, prior)
    levels = _experiments(noise, experiment)
    check_prior(law)
    seed = fresh_seed() if seed is None else seed
    laws, settings = Laws(own, law, seed), []
    for ions in [own.with_charges(one) for one in charges] or [own]:
        for level, stated in levels.items():
            of = stated.of(ions)
            _check_experiment(of, missing)
            settings += [Setting(ions, level, of, count, laws) for count in range(missing + 1)]
    promises = [setting.promise(one) for one in wants for setting in settings]
    _check_reached(promises)
    return Plan(own, law, tuple(promises), levels, seed)


def _experiments(
    noise: str | Sequence[str] | None, experiment: Experiment | str | Path | None
) -> dict[str, Experiment]:
    """Experiments by their level of noise."""
    levels = [noise] if isinstance(noise, str) else list(noise or ())
    if experiment is None:
        return {level: Experiment(noise=level) for level in levels or ["1%"]}
    stated = Experiment.load(experiment)
    if not levels:
        return {"as stated": stated}
    return {level: replace(stated, noise=level, detector=None) for level in levels}


def _check_experiment(own: Measurement, missing: int) -> None:
    """Raise UsageError for an experiment that no plan is made for."""
    own.check_stated()
    if own.orders is not None or own.build_up_prior is not None:
        raise UsageError("a plan takes ions that are told apart, and a build-up time that is a number")
    if missing < 0 or (missing and (own.efficiency is None or np.isinf(own.spread).any())):
        raise UsageError(
            "events that lack ions need an experiment with an efficiency, and the spread or temperature of "
            "its source"
        )


def _check_reached(promises: Sequence[Promise]) -> None:
    """Raise UsageError for a wanted error that no setting reaches."""
    for want in {one.want: None for one in promises}:
        own = [one for one in promises if one.want == want]
        if any(math.isfinite(one.events) for one in own):
            continue
        least = min(one.one for one in own)
        what = f"{want.kind} {want.name}: no number of events reaches {want.error:g}"
        if math.isinf(least):
            raise UsageError(f"{what}: the momenta do not tell it in the coordinates of the prior")
        raise UsageError(
            f"{what}; {MOST:g} events reach {least / math.sqrt(MOST):.2g} {own[0].unit}".rstrip()
        )
