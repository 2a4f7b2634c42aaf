"""What an experiment does to momenta, as a person states it: a TOML file, or the same as arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError, UsageError
from flowcei.experiment.assignments import orders_of, parse_groups
from flowcei.experiment.detector import Noise
from flowcei.experiment.entries import (
    DETECTOR,
    by_ion,
    number,
    number_or_unknown,
    of_each_ion,
    plain,
    settled_detector,
    settled_growth,
    settled_noise,
    three,
    toml,
)
from flowcei.experiment.measurement import Measurement
from flowcei.experiment.shots import Shots, kinds_of
from flowcei.physics.build_up import BuildUp, BuildUpPrior, build_up_of
from flowcei.physics.explosion import COULOMB, Coulomb, with_times
from flowcei.physics.growth import ChargeTransfer, transfer_spec
from flowcei.physics.pair_potential import PairPotential, beside, canonical, laws_in_words
from flowcei.storage.files import read_toml
from flowcei.units import BOLTZMANN, quantity

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.forward import ForwardModel

BUILD_UP_TIME = "build_up_time"
"""Column of simulated events whose build-up has a prior: the time of each, fs."""
ASSIGNMENT = "assignment"
"""Column of simulated events whose hits were shuffled: the number of the assignment that is right, from 0."""

_FORCES = "build_up", "charge_transfer", "pair_potential"
_ONE_OF = (
    ("noise", "detector"),
    ("spread", "temperature"),
    ("build_up", "pair_potential"),
    ("charge_transfer", "pair_potential"),
)
# Effusive sources and laser ablation stay below; of OCS it is 31 hbar/bohr. Anything hotter is another unit.
_HOTTEST = 3000.0  # K
_MOST_A_SHOT = 100.0  # molecules
_SCALES = 0.5, 2.0  # of momenta: outside it is a unit that is wrong, and no calibration


@dataclass(frozen=True)
class Experiment:
    """Resolution, source and detection of an experiment: what ``experiment.toml`` holds.

    Attributes:
        noise: Standard deviation of momentum components: ``"1%"`` of the event's rms component or a number,
            hbar / bohr; for all, for x, y, z (a list of three), or for each ion (a table by labels).
        detector: Instead of `noise`, a spectrometer with a uniform field: a table of `field` (``"20 V/cm"``)
            and `length` (``"10 cm"``) of the extraction, the resolution in time and place, `sigma_t`
            (``"0.5 ns"``) and `sigma_x` (``"0.1 mm"``), and `axis`, that of the field, ``"z"`` if absent.
        drift: Mean momentum of the molecules along x, y, z, hbar / bohr; unknown where None.
        spread: Standard deviation of that momentum, for all axes or for x, y, z (``"unknown"`` for one of
            them), hbar / bohr. Where it is unknown the sum of momenta tells nothing of the geometry.
        temperature: Instead of `spread`, that of the source, K.
        efficiency: Chance that an ion is detected, for all or by label.
        accidents: Share of complete events whose ions are of different molecules; ``"unknown"`` to measure it
            on the events that are sampled. With an efficiency events that lack an ion have the share of the
            same `rate`; without one each ion of an accident is of another molecule.
        rate: Instead of `accidents`, beside the efficiency, molecules that are ionised in a shot, on average.
        momentum_scale: Measured over true momenta.
        build_up: Time in which charges appear, ``"10fs"``, or of each ion, ``"5fs,10fs,10fs"``; or what is
            known of it, a table of low and high, or of mean and deviation: each sample then has its own time.
        assignments: Groups of ions of the same mass over charge, that nobody tells apart, as O+ and S2+:
            ``[["o", "s"]]``. The likelihood is the mean of all ways to assign hits of a group to its ions.
        charge_transfer: Charge that one ion has at first and the others later: a table of `from`, the ion,
            `time`, ``"5fs"``, and perhaps `charge`, all that the others will have if absent.
        pair_potential: What stands in place of 1/r, for all pairs of ions or, by labels as ``"c-o"``, each:
            see `PairPotential.of`. In a file the name of a CSV file is that of a table.

    Raises:
        UsageError: For what contradicts itself, is incomplete, or is no experiment.

    Example:
        >>> e = Experiment(noise=["4%", "0.5%", "0.5%"], temperature=300)
        >>> Experiment.from_dict(e.to_dict()) == e
        True
        >>> import flowcei
        >>> flowcei.simulate("ocs", 100, experiment=e, seed=1).origin["experiment"]["temperature"]
        300.0
    """

    noise: Any = None
    detector: Any = None
    drift: Any = None
    spread: Any = None
    temperature: Any = None
    efficiency: Any = 1.0
    accidents: Any = 0.0
    rate: Any = None
    momentum_scale: Any = 1.0
    build_up: Any = None
    assignments: Any = None
    charge_transfer: Any = None
    pair_potential: Any = None

    def __post_init__(self) -> None:
        """Bring every entry to one form, and check it."""
        if self.rate is not None and (self.accidents != 0.0 or self.efficiency == 1.0):
            raise UsageError("rate stands in place of accidents, and beside the efficiency")
        for one, other in _ONE_OF:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise UsageError(f"{one} and {other} exclude each other; leave one out")
        if self.noise is None and self.detector is None:
            raise UsageError("an experiment states its noise, or its detector")
        form = {
            "noise": settled_noise,
            "detector": settled_detector,
            "drift": lambda drift: three(drift, lambda d: number("drift", d), "drift"),
            "spread": lambda spread: three(spread, lambda s: number_or_unknown(s, "spread", 0.0), "spread"),
            "temperature": lambda t: number("temperature (K)", t, 0.0, _HOTTEST),
            "efficiency": lambda e: by_ion(e, lambda v: number("efficiency", v, 0.0, 1.0, "low")),
            "accidents": lambda a: number_or_unknown(a, "the share of accidents", 0.0, 1.0, "high"),
            "rate": lambda r: number("rate (molecules a shot)", r, 0.0, _MOST_A_SHOT, "low"),
            "momentum_scale": lambda s: number("momentum_scale", s, *_SCALES),
            "build_up": settled_growth,
            "assignments": parse_groups,
            "charge_transfer": transfer_spec,
            "pair_potential": canonical,
        }
        for name, settle in form.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, settle(getattr(self, name)))

    @classmethod
    def load(cls, source: Experiment | str | Path) -> Experiment:
        """Return the experiment of a TOML file, or one as it is; DataError for a file that is none."""
        if isinstance(source, Experiment):
            return source
        table = read_toml(Path(source))
        if "pair_potential" in table:
            table["pair_potential"] = beside(table["pair_potential"], Path(source).parent)
        return cls.from_dict(table, source)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], path: object = None) -> Experiment:
        """Return the experiment of a table such as `to_dict` gives; DataError for a table that is none."""
        names = [entry.name for entry in fields(cls)]
        try:
            if unknown := [key for key in table if key not in names]:
                has = ", ".join(names)
                raise UsageError(f"unknown key {str(unknown[0])[:40]!r}; an experiment has {has}")
            return cls(**table)
        except UsageError as error:
            raise DataError(str(error), path=path) from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text that `from_dict` reads: what is stated, and no more."""
        stated = {entry.name: plain(getattr(self, entry.name)) for entry in fields(self)}
        return {
            entry.name: stated[entry.name] for entry in fields(self) if stated[entry.name] != entry.default
        }

    def to_toml(self) -> str:
        """Return the text of a file that `load` reads."""
        return "".join(f"{name} = {toml(value)}\n" for name, value in self.to_dict().items())

    def calibrated(self, events: Events) -> Events:
        """Return events on the true scale, without the drift, with the noise of this experiment as theirs."""
        own = self.of(events.molecule)
        momenta = own.calibrated(events.momenta)
        return replace(events, momenta=momenta, sigma=replace(own, noise=own.levels).sigma(momenta))

    def of(self, molecule: Molecule) -> Measurement:
        """What it does to the momenta of a molecule; UsageError where it is not of its ions.

        Example:
            >>> from flowcei.molecules.molecule import Molecule
            >>> Experiment(noise="1%", temperature=300).of(Molecule.load("ocs")).spread.round(1).tolist()
            [10.2, 10.2, 10.2]
        """
        chances = of_each_ion(self.efficiency, molecule, "efficiency")
        efficiency = np.array([chances[label] for label in molecule.labels])
        law = None if self.build_up is None else build_up_of(self.build_up)
        accidents, shots, spread = self.accidents, self._shots(molecule, efficiency), self._spread(molecule)
        if shots is not None:
            accidents = float(shots.share(np.zeros((1, len(molecule)), bool))[0])
        return Measurement(
            molecule.masses / molecule.masses.sum(),
            self._levels(molecule),
            relative=self.relative,
            drift=np.zeros(3) if self.drift is None else np.array(self.drift),
            spread=spread,
            accidents=accidents,
            shots=shots,
            scale=self.momentum_scale,
            forward=self.forward(molecule),
            build_up_prior=law if isinstance(law, BuildUpPrior) else None,
            efficiency=None if (efficiency == 1.0).all() else efficiency,
            orders=None if self.assignments is None else self._orders(molecule, law, spread),
        )

    def _spread(self, molecule: Molecule) -> NDArray[np.float64]:
        """Standard deviation (3,) of the momentum of molecules, infinite where it is unknown."""
        mass = float(molecule.masses.sum())
        spread = np.full(3, np.inf) if self.spread is None else np.array(self.spread)
        if self.temperature is not None:
            spread = np.full(3, math.sqrt(mass * BOLTZMANN * self.temperature))
        largest = float(spread[np.isfinite(spread)].max(initial=0.0))
        if (kelvin := largest**2 / (mass * BOLTZMANN)) > _HOTTEST * 1.001:
            what = f"a spread of {largest:g} hbar/bohr is that of {kelvin:.3g} K for {molecule.name}"
            raise UsageError(f"{what}: no source is as hot (at most {_HOTTEST:g} K)")
        return spread

    def _orders(
        self, molecule: Molecule, law: BuildUp | BuildUpPrior | None, spread: NDArray[np.float64]
    ) -> NDArray[np.intp] | None:
        """Whose hit each ion may have, (K, N)."""
        if isinstance(law, BuildUpPrior):
            raise UsageError("with assignments a build-up has one time: state it as a number")
        arrival = None
        if self.detector is not None:
            arrival = [quantity(self.detector[k], DETECTOR[k]) for k in ("field", "length", "sigma_t")]
        orders = orders_of(self.assignments, molecule, arrival)
        if orders is not None and (self.accidents or self.rate) and np.isinf(spread).any():
            raise UsageError("accidents beside assignments are told by sums: state the spread of the source")
        return orders

    def rightly_assigned(self, events: Events) -> Events:
        """Calibrated events, each hit that of its ion where simulated ones say which assignment is right."""
        own, calibrated = self.of(events.molecule), self.calibrated(events)
        if own.orders is None or ASSIGNMENT not in events.columns:
            return calibrated
        right, rows = events.columns[ASSIGNMENT].astype(int), np.arange(len(events))
        return replace(calibrated, momenta=own.assigned(calibrated.momenta)[right, rows])

    def told_apart(self) -> Experiment:
        """Return this experiment with hits that are those of their ions."""
        return replace(self, assignments=None)

    def _shots(self, molecule: Molecule, efficiency: NDArray[np.float64]) -> Shots | None:
        """What a shot gives, where accidents come of ions that are lost."""
        if self.rate is not None:
            return Shots(kinds_of(molecule.kinds), efficiency, self.rate)
        if not 0.0 < self.accidents < 1.0:
            return None
        return Shots.of_share(kinds_of(molecule.kinds), efficiency, self.accidents)

    def forward(self, molecule: Molecule) -> ForwardModel:
        """What turns geometries of a molecule into momenta; UsageError where it is not of its ions."""
        if self.pair_potential is not None:
            return PairPotential.of(self.pair_potential, molecule.labels).checked(molecule.charges)
        transfer = self.transfer(molecule)
        if self.build_up is None:
            return COULOMB if transfer is None else Coulomb(transfer=transfer)
        growth = build_up_of(self.build_up)
        growth = growth.mean if isinstance(growth, BuildUpPrior) else growth
        growth.of_ions(len(molecule))
        return Coulomb(growth, transfer)

    def transfer(self, molecule: Molecule) -> ChargeTransfer | None:
        """The charge that moves from one ion to the others, if any."""
        if self.charge_transfer is None:
            return None
        transfer = ChargeTransfer.of(self.charge_transfer, molecule.labels)
        transfer.amounts(molecule.charges)  # there is as much
        return transfer

    @property
    def forces(self) -> dict[str, Any]:
        """Its entries that make explosions other than Coulomb's at once."""
        return {name: value for name, value in self.to_dict().items() if name in _FORCES}

    def __str__(self) -> str:
        """Return its entries in words, tables of potentials by their digests."""
        stated = self.to_dict()
        if self.pair_potential is not None:
            stated["pair_potential"] = laws_in_words(self.pair_potential)
        return "; ".join(f"{name} {value}" for name, value in stated.items())

    @property
    def loses(self) -> bool:
        """Whether some ions are not detected."""
        return "efficiency" in self.to_dict()

    @property
    def relative(self) -> bool:
        """Whether its noise is a share of the rms momentum component."""
        return self.noise is not None and isinstance(next(iter(self.noise.values()))[0], str)

    def _levels(self, molecule: Molecule) -> NDArray[np.float64]:
        """Noise of each ion and axis, (N, 3): shares of the rms component, or hbar / bohr."""
        if self.noise is not None:
            levels = of_each_ion(self.noise, molecule, "noise")
            return np.array([[Noise.parse(str(level)).low for level in levels[x]] for x in molecule.labels])
        field, length, time, place = (quantity(self.detector[name], kind) for name, kind in DETECTOR.items())
        # Uniform extraction: an ion flies for t = sqrt(2 m L / (q E)), its time tells p_z = q E dt and its
        # place p_x = m x / t.
        q, m = molecule.charges, molecule.masses
        if not (q > 0).all():
            raise UsageError(f"the detector extracts positive ions; {molecule.name} has others")
        across, along = place * np.sqrt(m * q * field / (2.0 * length)), q * field * time
        out = np.repeat(across[:, None], 3, axis=1)
        out[:, "xyz".index(self.detector["axis"])] = along
        return out


def has_accidents(experiment: Mapping[str, Any]) -> bool:
    """Whether an experiment, as `Experiment.to_dict` gives it, states that some events are accidents."""
    return bool(experiment.get("accidents") or experiment.get("rate"))


def stated_experiment(origin: Mapping[str, Any]) -> Experiment | None:
    """The experiment with which events of such an origin were simulated, but for a drift that is gone."""
    table = origin.get("experiment")
    if not isinstance(table, dict):
        return None
    stated = {"build_up": origin["build_up"]} if "build_up" in origin else {}
    own = Experiment.from_dict(table | stated)
    return replace(own, drift=None) if "drift" in origin else own


def stated_forward(events: Events) -> ForwardModel:
    """The forward model with which events were simulated, Coulomb's where they say nothing.

    Where a build-up had a prior, with the time of each event.
    """
    own, origin = stated_experiment(events.origin), events.origin
    if BUILD_UP_TIME in events.columns:
        forward = COULOMB if own is None else own.forward(events.molecule)
        return with_times(forward, np.asarray(events.columns[BUILD_UP_TIME], dtype=np.float64))
    if own is not None:
        return own.forward(events.molecule)
    return Coulomb(BuildUp.parse(origin["build_up"])) if "build_up" in origin else COULOMB
