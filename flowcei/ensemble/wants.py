"""Errors that are wanted of a law, and what events of one setting promise of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.ensemble.coordinates import FittedChart, ModesChart, chart_of, named
from flowcei.ensemble.mixture import FEWEST
from flowcei.ensemble.population import fewest
from flowcei.ensemble.promise import Coordinates, measured, share_error
from flowcei.errors import NoDensityError, UsageError
from flowcei.physics.explosion import centre_of_mass, followed_momenta
from flowcei.physics.priors import build_prior
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from flowcei.ensemble.coordinates import Chart
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats

_DRAWS = 400  # geometries over which information is averaged
_KNOWN = 4000  # geometries that say how wide a prior is
_WIDEST, _FLATTEST = 0.25, -0.9  # deviation of a length over its mean, excess kurtosis: of what has a middle
_WANT = re.compile(
    r"(?:(?P<kind>mean|width):)?(?P<name>[^\s:]+)\s+(?P<error>\S+)(?:\s+(?P<unit>\S+))?"
    r"|share:(?P<prior>[^\s=]+)(?:=(?P<share>\S+))?\s+(?P<of_share>\S+)"
)
MOST = 1e9
"""Events that no run has."""


@dataclass(frozen=True)
class Want:
    """An error that is wanted, of a mean, a width or a share."""

    kind: str  # mean, width or share
    name: str  # of a coordinate, or of a prior
    error: float  # as it was typed
    unit: str = ""  # bohr, angstrom, deg or sd; of a share none
    share: float = 0.5  # of the events of that prior

    @classmethod
    def of(cls, text: str) -> Want:
        """Return what a text asks for; UsageError where it is not understood."""
        match = _WANT.fullmatch(text.strip())
        try:
            error = float(match["error"] or match["of_share"]) if match else math.nan
            share = float(match["share"] or 0.5) if match else math.nan
        except ValueError:
            match = None
        if match is None or math.isnan(error + share):
            forms = "'c-s 0.02' (bohr), 'width:c-s 0.01 angstrom', 'share:PRIOR=0.3 0.02'"
            raise UsageError(f"wanted is {text[:60]!r}; it must be such as {forms}")
        if not 0.0 < error < math.inf:
            raise UsageError(f"wanted is {text[:60]!r}: an error is above 0")
        if not 0.0 < share < 1.0:
            raise UsageError(f"wanted is {text[:60]!r}: a share lies between 0 and 1")
        if match["prior"]:
            return cls("share", match["prior"], error, share=share)
        return cls(match["kind"] or "mean", match["name"], error, match["unit"] or "")


@dataclass(frozen=True)
class Promise:
    """What events under one setting promise of one wanted error."""

    want: Want
    unit: str
    noise: str
    charges: str
    missing: int  # ions that an event may lack, at the most
    blur: float  # of one event, median; NaN of a share
    truth: float  # what is sought: mean or width of the law, or share
    sd: float  # of the law; NaN of a share
    one: float  # error by one event: of n over sqrt(n); infinite where nothing is told
    least: int  # events that a law takes at the least
    kept: float  # chance of a molecule to make an event that is kept
    accidents: float  # share of these events

    @property
    def title(self) -> str:
        """What is wanted, in words."""
        of = "" if self.want.kind == "mean" else f"{self.want.kind} of "
        return f"{of}{self.want.name} {self.want.error:g} {self.unit}".rstrip()

    @property
    def events(self) -> float:
        """How many events it takes; infinite where no number does."""
        wanted = max(float(self.least), (self.one / self.want.error) ** 2) / (1.0 - self.accidents)
        return float(math.ceil(wanted)) if wanted <= MOST else math.inf

    def error(self, events: Floats | float) -> Any:  # noqa: ANN401 (an array of a number of an array)
        """Error by so many events."""
        return self.one / np.sqrt((1.0 - self.accidents) * np.asarray(events))


@dataclass(frozen=True, eq=False)
class Law:
    """Draws of a prior, and their coordinates."""

    chart: Chart
    frame: Coordinates
    x: Floats  # bohr, (M, N, 3)
    z: Floats  # (M, K)
    angle: Floats  # directions of bends, radians, (M, K)

    @classmethod
    def of(cls, chart: Chart, frame: Coordinates | None, x: Floats, z: Floats, seed: int) -> Law:
        """Those of draws with coordinates, in a frame, or in their own."""
        angle = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi, z.shape)
        return cls(chart, frame or Coordinates.of(chart, z), x, z, angle)

    @property
    def normal(self) -> tuple[Floats, Floats]:
        """Mean and covariance of all draws."""
        return self.frame.law(self.points)

    @property
    def points(self) -> Floats:
        """In the frame, (M, D)."""
        return self.frame.points(self.z, self.angle)


@dataclass(eq=False)
class Laws:
    """The laws that wanted errors are of."""

    molecule: Molecule
    prior: GeometryPrior
    seed: int
    _made: dict[str, Law] = field(default_factory=dict)

    def of(self, want: Want) -> Law:
        """That of the coordinates `population` takes; where it has none of a name, of bonds and angles."""
        law = self._cached("", lambda: chart_of(self.molecule, self.prior))
        bonds = isinstance(law.chart, ModesChart) and not want.name.startswith("mode-")
        if bonds and want.kind != "share":
            return self._cached("bonds", lambda: FittedChart(self.molecule, self.prior))
        return law

    def second(self, want: Want) -> Law:
        """That of the second prior of a share, in the same coordinates."""
        if want.name not in self._made:
            first, prior = self.of(want), build_prior(self.molecule, want.name)
            check_prior(prior)
            x = chart_of(self.molecule, prior).drawn(_KNOWN, np.random.default_rng(self.seed))[0]
            z = first.chart.values(x)
            for k in range(z.shape[1]):
                _check_middle(first.chart, z[:, k], k)
            self._made[want.name] = Law.of(first.chart, first.frame, x, z, self.seed)
        return self._made[want.name]

    def _cached(self, name: str, make: Callable[[], Chart]) -> Law:
        if name not in self._made:
            chart = make()
            x, z = chart.drawn(_KNOWN, np.random.default_rng(self.seed))
            self._made[name] = Law.of(chart, None, x, z, self.seed)
        return self._made[name]


@dataclass(eq=False)
class Setting:
    """Ions, resolution and losses: what an event tells."""

    ions: Molecule
    level: str
    of: Measurement
    missing: int
    laws: Laws
    _told: dict[int, tuple[Floats, Floats]] = field(default_factory=dict)

    def promise(self, want: Want) -> Promise:
        """What it promises of a wanted error."""
        kept, accidents = self.of.kept(self.missing)
        facts: dict[str, Any] = {
            "noise": self.level,
            "charges": charges_of(self.ions),
            "missing": self.missing,
        }
        facts |= {"kept": kept, "accidents": accidents}
        law = self.laws.of(want)
        if want.kind == "share":
            both = law, self.laws.second(want)
            points, told = zip(*(self.told(one) for one in both), strict=True)
            rng = np.random.default_rng(self.laws.seed)
            one = share_error([each.normal for each in both], points, told, want.share, rng)
            return Promise(
                want, "", **facts, blur=math.nan, truth=want.share, sd=math.nan, one=one, least=FEWEST
            )
        coordinates = law.chart.coordinates
        k = coordinates.index(named(coordinates, [want.name])[0])
        _check_middle(law.chart, law.z[:, k], k)
        unit = _unit(want, coordinates[k].unit)
        scale = scale_of(unit)
        z = 180.0 - law.z[:, k] if law.chart.bends[k] else law.z[:, k]
        sd, mean = float(z.std()) / scale, float(z.mean()) / scale
        information, width = self.told(law)[1], want.kind == "width"
        one = float(law.frame.errors(information, law.normal[1])[width][k]) / scale
        blur = float(np.median(law.frame.blur(information, k))) / scale
        least, truth = fewest(len(coordinates)), sd if width else mean
        return Promise(want, unit, **facts, blur=blur, truth=truth, sd=sd, one=one, least=least)

    def told(self, law: Law) -> tuple[Floats, Floats]:
        """Some points (E, D) of a law, and the information (E, D, D) of an event of each."""
        if id(law) not in self._told:
            ions, x = (self.ions.masses, self.ions.charges), law.x[:_DRAWS]
            x = x - centre_of_mass(x, ions[0])
            exact = followed_momenta(x, *ions, forward=self.of.forward).astype(np.float64)
            lost = self.of.lost(len(x), self.missing, np.random.default_rng(self.laws.seed))
            whitening = self.of.whitening(np.nan_to_num(exact, nan=1.0), lost)
            of_z = measured(law.chart, self.ions, x, whitening, self.of.forward, law.x)
            usable = np.isfinite(of_z).all(axis=(1, 2)) & np.isfinite(exact).all(axis=(1, 2))
            own = law.frame.information(of_z[usable], law.angle[:_DRAWS][usable])
            self._told[id(law)] = law.points[:_DRAWS][usable], own
        return self._told[id(law)]


def scale_of(unit: str) -> float:
    """The size of a unit in what coordinates are in."""
    return length_in_bohr(unit) if unit == "angstrom" else 1.0


def _unit(want: Want, own: str) -> str:
    """The unit of a wanted error of a coordinate with a unit; UsageError for another."""
    allowed = ("bohr", "angstrom") if own == "bohr" else (own,)
    unit = want.unit or own
    if unit not in allowed:
        raise UsageError(f"{want.name} is in {' or '.join(allowed)}; the wanted error is in {unit[:20]!r}")
    return unit


def charges_of(molecule: Molecule) -> str:
    """Charges as they are typed."""
    values = [f"{q:g}" for q in molecule.charges]
    return values[0] if len(set(values)) == 1 else ",".join(values)


def check_prior(prior: GeometryPrior) -> None:
    """Raise an error for a prior that events cannot be sampled under."""
    if not prior.has_density:
        raise NoDensityError(
            f"a prior of kind {prior.kind!r} has no density: no samples could be weighed by it"
        )
    if prior.motion:
        raise UsageError("a plan takes atoms at rest: leave the motion out of the prior")


def _check_middle(chart: Chart, z: Floats, k: int) -> None:
    """Raise UsageError for a coordinate, with draws (M,), that has no middle."""
    one, mean, sd = chart.coordinates[k], z.mean(), z.std()
    flat = float((((z - mean) / sd) ** 4).mean()) - 3.0 < _FLATTEST
    if not one.bend and (flat or (one.unit == "bohr" and sd > _WIDEST * mean)):
        spread = f"{one.name} is {mean:.3g} +/- {sd:.2g} {one.unit} there, without a middle"
        raise UsageError(f"the prior says nothing of the law: {spread}; name a prior near a geometry")
