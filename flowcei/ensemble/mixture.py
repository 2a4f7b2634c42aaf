"""Mixtures: which share of the events is of which law, and which law each event is of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import bisect
from scipy.special import logsumexp

from flowcei.ensemble.fitting import accident_weight, truth
from flowcei.ensemble.laws import RAYLEIGH
from flowcei.ensemble.pathways import Pathways, pathways
from flowcei.ensemble.prediction import check_ungated, compared
from flowcei.ensemble.reduction import gathered
from flowcei.ensemble.result import LEVEL, EnsembleLaw
from flowcei.ensemble.series import deviation_of
from flowcei.ensemble.uncertainty import EFFECTIVE, MonteCarlo, check_told, scored, significant
from flowcei.errors import DataError, UsageError
from flowcei.physics.priors import build_prior

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flowcei.check.run import RunCheck
    from flowcei.ensemble.coordinates import Chart
    from flowcei.ensemble.laws import NormalLaw
    from flowcei.ensemble.reduction import Ensemble, Extra, Samples
    from flowcei.ensemble.uncertainty import Information
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Numbers, Reals
    from flowcei.posterior.samples import PosteriorSamples

FEWEST = 30
"""Events, of which a law is taken."""

_BLOCK = 200_000  # samples that are looked at together
_STEPS, _ENOUGH = 10_000, 1e-10  # of the search for shares, and the change that ends it
_RESAMPLED = 200  # draws of events, for the errors of shares alone
_DRAWS, _OUTSIDE = 1000, 0.01  # of a prior, and the share of them that the prior of the samples may exclude


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(EnsembleLaw):
    """Shares of C laws among E events, and the probability of each event to be of each.

    Attributes:
        names: Of the laws: of priors, or ``normal-1``, ... in the order of their means.
        share: Of the events, (C,).
        error: Standard errors of shares by Fisher information, (C,); `bootstrap_error` those over events
            drawn with replacement.
        log_ratio: Log evidence of each law over that of the prior of the samples, of each event, (E, C):
            differences are log Bayes factors.
        probability: Of each event to be of each law, (E, C); what lacks to 1 is that of an accident.
        law: The normal laws, where these were sought.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 40, noise="1%", seed=1)
        >>> s = flowcei.load().sample(events, 100, weigh=True, seed=1)
        >>> rows = events.molecule.prior_table("equilibrium")["zmatrix"]
        >>> longer = {
        ...     "kind": "internal",
        ...     "zmatrix": [*rows[:2], rows[2] | {"length": {"normal": [3.2, 0.1]}}],
        ... }
        >>> m = flowcei.compare_priors(s, ["equilibrium", longer])
        >>> m.to_dataframe()["law"].tolist(), bool(m.share[0] > 0.5)
        (['equilibrium', 'prior-2'], True)
    """

    kind = "mixture"
    molecule: Molecule
    names: tuple[str, ...]
    share: Floats
    error: Floats
    bootstrap_error: Floats
    log_ratio: Floats
    probability: Floats
    p_true: Floats  # under the prior of the samples, (E,)
    event_id: Numbers
    samples: int  # an event
    left_out: dict[str, int]
    monte_carlo: MonteCarlo
    law: NormalLaw | None = None
    chart: Chart | None = None
    laws: list[NormalLaw] = field(default_factory=list)
    information: Information | None = None  # on the numbers of the normal laws
    check: RunCheck | None = None

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.3f}" for name, share in zip(self.names, self.share, strict=True))
        return f"Mixture of {self.molecule.name}: {shares}; {len(self.event_id)} events"

    @property
    def uncertainty(self) -> Floats:
        """The standard errors (C,) that intervals are made of: the larger ones of both."""
        return np.maximum(self.error, self.bootstrap_error)

    @property
    def events(self) -> int:  # type: ignore[override]
        """How many there are."""
        return len(self.event_id)

    @property
    def log_likelihood(self) -> float:  # type: ignore[override]
        """Of the mixture over that of the prior of the samples, of all events together."""
        return float(truth(logsumexp(self.log_ratio, axis=1, b=self.share), self.p_true)[0].sum())

    @property
    def known(self) -> Floats:
        """Standard errors (C,) that the shares would have, were the laws known."""
        log_r = logsumexp(self.log_ratio, axis=1, b=self.share, keepdims=True)
        return _known(np.exp(self.log_ratio - log_r), self.probability.sum(axis=1))[1]

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a law: share, standard error, 90 % interval, log evidence of all events under it.

        The log evidence is over that of the prior of the samples.
        """
        low, high = self.interval.T
        at_end = self._at_end  # where half of the interval is what the curvature does not tell
        error = np.where(at_end, 0.5 * (high - low) / LEVEL, self.uncertainty)
        table = {"law": self.names, "share": self.share, "error": error, "p05": low, "p95": high}
        return pd.DataFrame(table | {"log_evidence": self.log_ratio.sum(axis=0)})

    @property
    def _at_end(self) -> Bools:
        """Which shares (C,) are so near to 0 or 1 that the likelihood is no normal curve about them."""
        return LEVEL * self.known > np.minimum(self.share, 1.0 - self.share)

    @property
    def interval(self) -> Floats:
        """The 90 % intervals of the shares, (C, 2)."""
        out = np.array([self._likely(c) for c in range(len(self.share))])
        inner = ~self._at_end
        share, error = self.share[inner], self.uncertainty[inner]
        # In the logit, so that an interval stays between 0 and 1.
        step = LEVEL * error / (share * (1.0 - share))
        for column, sign in enumerate((-1.0, 1.0)):
            out[inner, column] = 1.0 / (1.0 + (1.0 - share) / share * np.exp(-sign * step))
        return out

    def _likely(self, c: int) -> tuple[float, float]:
        """Ends of share c between which the log likelihood is as near to its peak as in 90 % of a normal law.

        The other shares keep their proportions.
        """
        others = np.where(np.arange(len(self.share)) == c, 0.0, self.share.clip(1e-300))
        others /= others.sum()

        def height(share: float) -> float:
            shares = (1.0 - share) * others
            shares[c] = share
            total = truth(logsumexp(self.log_ratio, axis=1, b=shares), self.p_true)[0].sum()
            return float(max(total, -1e300))

        peak = float(self.share[c])
        least = height(peak) - 0.5 * LEVEL**2
        ends = [
            end if height(end) >= least else bisect(lambda t: height(t) - least, peak, end, xtol=1e-9)
            for end in (0.0, 1.0)
        ]
        return ends[0], ends[1]

    def components(self) -> pd.DataFrame:
        """Return a row for each coordinate of each normal law: mean and width, with bootstrap errors."""
        if self.law is None or self.chart is None:
            return pd.DataFrame()
        shown, errors = self.law.shown, self._component_errors(self.law)
        rows = []
        for c, k in np.ndindex(self.law.mean.shape):
            one = self.chart.coordinates[k]
            row: dict[str, Any] = {"law": self.names[c], "quantity": one.name, "unit": one.unit}
            for name, value, error in zip(("mean", "sd"), shown, errors, strict=True):
                row |= {name: value[c, k], f"{name}_error": error[c, k]}
            rows.append(row)
        return pd.DataFrame(rows)

    def _component_errors(self, law: NormalLaw) -> tuple[Floats, Floats]:
        """Standard errors (C, K) of means and widths: the larger ones of Fisher information and bootstrap."""
        numbers = np.zeros(2 * law.mean.size)
        if self.information is not None:
            numbers = np.sqrt(np.diagonal(self.information.covariance)[: len(numbers)])
        mean, width = np.moveaxis(numbers.reshape(len(law.mean), 2, -1), 1, 0)
        mean = np.where(law.bends, RAYLEIGH[0] * law.deviation * width, mean)
        width = law.shown[1] * width
        if len(self.laws) < 2:
            return mean, width
        each = [np.std([one.shown[k] for one in self.laws], axis=0, ddof=1) for k in (0, 1)]
        return np.maximum(mean, each[0]), np.maximum(width, each[1])

    def by_event(self) -> pd.DataFrame:
        """Return a row an event: log evidence of each law over the samples' prior, and probabilities."""
        table: dict[str, Any] = {"event": self.event_id}
        table |= {f"log_evidence_{name}": self.log_ratio[:, c] for c, name in enumerate(self.names)}
        return pd.DataFrame(
            table | {f"p_{name}": self.probability[:, c] for c, name in enumerate(self.names)}
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return shares, evidences and probabilities, and the normal laws where there are some."""
        arrays = {"share": self.share, "log_ratio": self.log_ratio, "probability": self.probability}
        laws = {} if self.law is None else {"mean": self.law.mean, "covariance": self.law.covariance}
        return arrays | laws | {"event": self.event_id}

    def facts(self) -> dict[str, Any]:
        """Return the table of normal laws, and what the number of samples does."""
        components = self.components().to_dict("records")
        return {"components": components, "monte_carlo": vars(self.monte_carlo)}

    def plot(self, kind: str = "shares", unit: str = "angstrom") -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure, ``shares`` or, of normal laws, ``unfolded``: see `flowcei.plot.population`."""
        return import_module("flowcei.plot.population").mixture_figure(self, kind, unit)


def compare_priors(
    samples: Samples | Iterable[Samples],
    priors: Sequence[str | dict[str, Any] | GeometryPrior],
    *,
    by: str | None = None,
    cross_correlation: float = 0.0,
    seed: int = 0,
    check: bool = True,
    keep_flagged: bool = False,
) -> Mixture | Pathways:
    """Say which of some priors the events are of: shares, and the probability of each event.

    Isomers, enantiomers, pathways: each is a prior of the molecule, and all must lie within that of the
    samples. Evidences are means of prior over prior of the samples, over the weighted samples of each event.

    Args:
        samples: Posterior samples, exact or weighed, or files of them.
        priors: Names of the molecule's, TOML files of one, tables, or priors, two or more, with a density.
        by: Name of a column of the events, such as a delay: shares at each of its values, or in 20 ranges of
            them, and of five or more shares that change smoothly.
        cross_correlation: As of `population`: the smooth shares are those at true values.
        seed: Of the events that are drawn with replacement, and of the prediction.
        check: Whether to compare the run with what the priors, by their shares, predict.
        keep_flagged: Whether to take flagged events too.

    Returns:
        Shares and probabilities; along a column `Pathways`.

    Raises:
        DataError: For samples that cannot be pooled, too few events or samples, or a prior that reaches
            beyond that of the samples.
        NoDensityError: For a prior without density, or samples that cannot be weighed.
        UsageError: For fewer than two priors, two that are the same, or an unknown one; or for events that
            passed a gate on the KER.

    Example:
        See `Mixture`.
    """
    if len(priors) < 2:
        raise UsageError("name two priors or more, to be compared")
    width = deviation_of(cross_correlation, by)
    names, made = list[str](), list["GeometryPrior"]()

    def ratios(molecule: Molecule, prior: GeometryPrior) -> Extra:
        made.extend(build_prior(molecule, one) for one in priors)
        names.extend(_names(priors, made))
        for name, one in zip(names, made, strict=True):
            _check_within(name, one, prior, molecule)
        return partial(_log_ratios, made, prior)

    ensemble = gathered(samples, None, ratios, by=by, keep_flagged=keep_flagged)
    check_ungated(ensemble)

    def shares(some: Ensemble, *_: object) -> Mixture:
        fitted = mixed(some, tuple(names), some.log_weight, lambda rows: some.extra[rows].astype(float), seed)
        draw = partial(_drawn, made, fitted.share)
        run = compared(some, draw, seed, causes=by is None) if check else None
        return replace(fitted, check=run)

    return shares(ensemble) if by is None else pathways(ensemble, by, shares, width)


def _drawn(priors: list[GeometryPrior], share: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Draw n geometries (n, N, 3), bohr, of priors with shares (C,)."""
    counts = rng.multinomial(n, share / share.sum())
    return np.concatenate([one.sample(k, rng) for one, k in zip(priors, counts, strict=True) if k])


def _names(given: Sequence[str | dict[str, Any] | GeometryPrior], built: list[GeometryPrior]) -> list[str]:
    """What each prior is called; UsageError for two that are the same."""
    names = [Path(one).stem if isinstance(one, str) else f"prior-{k + 1}" for k, one in enumerate(given)]
    specs = [json.dumps(one.spec(), sort_keys=True) for one in built]
    for k, spec in enumerate(specs):
        if spec in specs[:k]:
            raise UsageError(
                f"{names[specs.index(spec)]} and {names[k]} are the same prior: nothing tells them apart"
            )
    return names


def _check_within(name: str, one: GeometryPrior, prior: GeometryPrior, molecule: Molecule) -> None:
    """Raise DataError where a prior reaches beyond that of the samples."""
    draws = one.sample(_DRAWS, np.random.default_rng(0))
    outside = float(np.mean(~prior.plausible(draws, molecule.identical)))
    if outside > _OUTSIDE:
        what = f"{outside:.0%} of the prior {name} lies where that of the samples has no geometries"
        raise DataError(f"{what}: sample under one that covers all (flowcei train --prior)")


def _log_ratios(built: list[GeometryPrior], prior: GeometryPrior, samples: PosteriorSamples) -> Floats:
    """Log of each prior over that of the samples, (E, n, C)."""
    x = samples.positions.reshape(-1, *samples.positions.shape[2:]).astype(np.float64)
    each = [one.log_prob_unlabelled(x, samples.molecule.identical) for one in (prior, *built)]
    there = np.isfinite(each[0])  # samples without a weight may lie where the prior has no geometry
    out = np.stack(
        [np.where(there, one, -np.inf) - np.where(there, each[0], 0.0) for one in each[1:]], axis=1
    )
    return out.reshape(*samples.positions.shape[:2], -1)


def shares_of(log_ratio: Floats, p_true: Floats, count: Floats) -> Floats:
    """Shares (C,) of greatest likelihood of events (E, C) that count so many times (E,)."""
    share = np.full(log_ratio.shape[1], 1.0 / log_ratio.shape[1])
    ratio = np.exp(log_ratio - log_ratio.max(axis=1, keepdims=True))
    rest = accident_weight(p_true, log_ratio.max(axis=1))
    for _ in range(_STEPS):
        joint = p_true[:, None] * ratio * share
        member = joint / (joint.sum(axis=1) + rest)[:, None]
        new = count @ member
        new /= new.sum()
        if np.abs(new - share).max() < _ENOUGH:
            break
        share = new
    return np.asarray(new)


def _known(over: Floats, member: Floats) -> tuple[Floats, Floats]:
    """Covariance (C - 1, C - 1) and errors (C,) of shares of laws that are known.

    Laws are likelier than the mixture by factors (E, C), and events true with a probability (E,).
    """
    scores = member[:, None] * (over[:, :-1] - over[:, -1:])
    covariance = np.asarray(np.linalg.pinv(scores.T @ scores, hermitian=True), dtype=np.float64)
    return covariance, np.sqrt(np.append(np.diagonal(covariance), covariance.sum()))


def mixed(
    ensemble: Ensemble, names: tuple[str, ...], base: Reals, log_each: Callable[[slice], Floats], seed: int
) -> Mixture:
    """Shares of C laws: base (E, n) plus `log_each` of rows of events (e, n, C) are their log weights.

    Raises:
        DataError: For too few events or samples, or events that no law holds for possible.
    """
    count, step = len(base), max(1, _BLOCK // base.shape[1])
    if count < FEWEST:
        raise DataError(f"{count} events are too few for shares: {FEWEST} are needed")
    rows = [slice(first, first + step) for first in range(0, count, step)]
    ratios = [logsumexp(base[some].astype(float)[:, :, None] + log_each(some), axis=1) for some in rows]
    log_ratio, true = np.concatenate(ratios), ensemble.p_true
    if lost := int((~np.isfinite(log_ratio.max(axis=1))).sum()):
        what = f"{lost} of {count} events have no sample that any of the laws holds for possible"
        raise DataError(f"{what}: sample with a larger -n, or name a law that covers them")
    share = shares_of(log_ratio, true, np.ones(count))
    log_r = logsumexp(log_ratio, axis=1, b=share)
    member = truth(log_r, true)[1]
    over = np.exp(log_ratio - log_r[:, None])
    covariance, error = _known(over, member)
    noise, bias, few = np.zeros_like(covariance), np.zeros(len(share) - 1), 0.0
    for some in rows:
        log_law = log_each(some)
        density = logsumexp(log_law, axis=2, b=share)
        weight = np.exp(base[some] + density - log_r[some, None])
        few += float(member[some] @ (ensemble.distinct < EFFECTIVE * (weight**2).sum(axis=1)))
        ratio = np.exp(log_law - np.where(np.isfinite(density), density, 0.0)[:, :, None])
        slope = ratio[:, :, :-1] - ratio[:, :, -1:]  # of the log density, by each share beside the last
        event, place = significant(weight)
        own_slope, own_weight = slope[event, place], weight[event, place]
        _, *more = scored(own_slope, own_weight, event, member[some], ensemble.distinct)
        noise, bias = noise + more[0], bias + more[1]
    check_told(few, count, float(error.max()))
    sums = MonteCarlo.of(covariance, noise, bias, base.shape[1])
    sums.check()
    rng = np.random.default_rng(seed)
    times = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(_RESAMPLED)]
    spread = np.std([shares_of(log_ratio, true, t.astype(float)) for t in times], axis=0)
    own = ensemble.molecule, names, share, error, spread, log_ratio, member[:, None] * over * share, true
    return Mixture(*own, ensemble.event_id, base.shape[1], ensemble.left_out, sums)
