"""Models side by side on the same events, with null models and the information floor beside them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.agreement import moving_prior
from flowcei.errors import DataError, FlaggedWarning, UsageError
from flowcei.evaluation.floor import information_floor
from flowcei.evaluation.scores import SCORES, STILL, Answers, Score, TestSet, evaluate
from flowcei.evaluation.scoring import gathered_scores, scored_blocks
from flowcei.events.container import events_of
from flowcei.events.extracolumns import ACCIDENT
from flowcei.experiment.detector import Noise
from flowcei.experiment.experiment import stated_experiment
from flowcei.physics.explosion import potential_energy
from flowcei.posterior.flags import combined, counted
from flowcei.reconstruction.defaults import split_rows
from flowcei.reconstruction.limits import unlike_training
from flowcei.reconstruction.sampling import SamplingRequest

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.events.container import Events
    from flowcei.experiment.experiment import Experiment
    from flowcei.models.options import Latent
    from flowcei.posterior.arrays import Floats
    from flowcei.reconstruction.model import Reconstructor
    from flowcei.workers.order import Each

FLOOR = "floor"  # row of the information floor
NULL_MODELS = ("mean", "marginal")  # rows that answer without looking at the momenta

_MIN_EVENTS = 10
_FLOOR_DRAWS = 20
_BLOCK = 4096  # events whose density is asked for at a time
_DRAWS = 64  # latents of a bound, where the density is not exact


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Scores of models, null models and the information floor on the same events.

    Attributes:
        table: A row per model, then the null models, then `floor` where the noise is known. A column for
            each of `scores`, with its 95 % interval beside it in `name_low` and `name_high`, but for those
            of the run itself. NaN where a row has no such number.
        events: Number of events.
        scores: What the columns are.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 50, noise="1%", seed=3)
        >>> flowcei.compare({"bundled": flowcei.load()}, events, n=20)
        Comparison: bundled, mean, marginal, floor on 50 events; best crps: bundled
    """

    table: pd.DataFrame
    events: int = 0
    scores: tuple[Score, ...] = SCORES

    def __repr__(self) -> str:
        best = f"; best crps: {self.best('crps')}" if "crps" in self.table else ""
        return f"{type(self).__name__}: {', '.join(self.table.index)} on {self.events} events{best}"

    def _repr_html_(self) -> str:
        names = [s.name for s in self.scores if s.block and s.name in self.table]
        html: str = self.table[names].T.to_html(float_format="{:.3g}".format, na_rep="", border=0)
        return html

    def best(self, name: str) -> str:
        """Return the row with the best value of a score; the floor, which is no model, does not count."""
        better = next(score.better for score in self.scores if score.name == name)
        values = self.table[name].drop(index=FLOOR, errors="ignore")
        if isinstance(better, int | float):
            values = (values - better).abs()
        return str(values.idxmax() if better == "larger" else values.idxmin())

    def to_dataframe(self) -> pd.DataFrame:
        """Return the table, a copy."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return `metrics`, unit and meaning of each score, and `models`, name -> score -> value, low, high.

        Plain numbers for JSON; what is not known, or not finite, is None.
        """
        about = {s.name: {"unit": s.unit, "text": s.text} for s in self.scores if s.name in self.table}
        ends = {"value": "", "low": "_low", "high": "_high"}

        def numbers(row: pd.Series, name: str) -> dict[str, float | None]:
            there = {key: float(row[name + end]) for key, end in ends.items() if name + end in row}
            return {key: value if math.isfinite(value) else None for key, value in there.items()}

        models = {str(model): {n: numbers(row, n) for n in about} for model, row in self.table.iterrows()}
        return {"metrics": about, "models": models}


def compare(
    models: Mapping[str, Reconstructor],
    events: Events,
    *,
    n: int = 100,
    noise: Noise | str | None = None,
    latent: Latent = "prior",
    seed: int = 0,
    resamples: int = 500,
    keep_flagged: bool = False,
    scores: Sequence[Score] = SCORES,
    experiment: Experiment | None = None,
    each: Each = map,
) -> Comparison:
    """Score models and null models on events whose positions are known.

    Args:
        models: Name in the table -> model.
        events: With positions; those that a model may have seen in training are for the
            caller to leave out, with `flowcei.evaluation.comparison.unseen`.
        n: Samples an event.
        noise: As for `Reconstructor.sample`.
        latent: As for `Reconstructor.sample`; densities are of latents from the prior.
        seed: Of samples, null models and intervals.
        resamples: Of the bootstrap over events that gives the intervals.
        keep_flagged: Whether to score events that a model flags, of which a `FlaggedWarning` is given.
        scores: What is scored; `flowcei.evaluation.scores.SCORES` and scores of your own.
        experiment: Of the events; where None, the one that simulated events state. It brings momenta to
            their true scale, without its drift; floor and re-simulation are of its covariance and build-up.
            Models answer as they are, told the rms noise.
        each: What maps a function over blocks: see `flowcei.workers.order.each_of`; other than `map` needs
            scores of your own to be functions that can be imported by name.

    Raises:
        DataError: For events without positions, or too few, or flagged all of them.
        UsageError: For a model of another molecule, no score, or a name that two scores have; for a noise
            beside an experiment.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 50, noise="1%", seed=3)
        >>> list(flowcei.compare({"bundled": flowcei.load()}, events, n=20).to_dataframe().index)
        ['bundled', 'mean', 'marginal', 'floor']
    """
    names = [score.name for score in scores]
    if len(set(names)) < len(names) or not any(score.of for score in scores):
        raise UsageError(
            f"scores are {', '.join(names)}; expected one of samples or more, and each name once"
        )
    for model in models.values():
        events_of(events, model.molecule)
    own = experiment_of(events, experiment, noise)
    events = events if keep_flagged else warned(models.values(), events, noise, own)
    if own is not None:
        events, own = own.rightly_assigned(events), own.told_apart()
    test = TestSet.of(events, true_positions(events, _MIN_EVENTS, "to compare on"), own)
    values = {}
    for name, model in models.items():
        count = 1 if model.sampler.is_point else n  # the same answer again is no sample
        request = SamplingRequest(count, seed, noise, latent)
        values[name] = gathered_scores(model, scored_blocks(model, events, request, test, scores, each))
        values[name] |= _densities(model, events, test, noise, seed)
    for name in NULL_MODELS:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        answer = Answers(test, null_samples(name, test.recoil, n, rng), in_recoil_frame=True)
        values[name] = evaluate(scores, answer)
    if floor := floor_scores(events, test, noise, seed, own):
        values[FLOOR] = floor
    rows = {name: summarise(v, scores, resamples=resamples, seed=seed) for name, v in values.items()}
    columns = [column for score in scores for column in score.columns]
    import pandas as pd

    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("model")
    return Comparison(table, len(events), tuple(scores))


def true_positions(events: Events, fewest: int, purpose: str) -> Floats:
    """Return positions (E, N, 3), bohr; DataError without any, or with fewer events than a purpose needs."""
    if events.positions is None:
        raise DataError(f"the data have momenta only; the true positions are needed {purpose}")
    if len(events) < fewest:
        raise DataError(f"{len(events)} events are too few {purpose}; {fewest} at the least")
    return events.positions


def unseen(model: Reconstructor, events: Events) -> Events:
    """Return the events a model did not see in training: the test rows of its own file, all of any other."""
    data = model.training.data
    if data is None or data.digest != events.digest():
        return events
    return events[np.sort(split_rows(len(events), data.split_seed)[2])]


def experiment_of(events: Events, stated: Experiment | None, noise: Noise | str | None) -> Experiment | None:
    """The experiment of events: the stated one, which says the noise, or that of simulated events."""
    if stated is not None and noise is not None:
        raise UsageError("the experiment states its noise; leave the other out")
    return stated_experiment(events.origin) if stated is None else stated


def trusted(
    models: Iterable[Reconstructor],
    events: Events,
    noise: Noise | str | None = None,
    experiment: Experiment | None = None,
) -> tuple[Events, str]:
    """Return the events whose momenta no model flags, and a line that counts the others, empty for none.

    Of simulated events without accidents, whose positions are of none of their ions; and none whose ions
    are at one place, which has no momenta.
    """
    # Flags that need samples do not count: to leave out what a model cannot explain would flatter it.
    flags = np.zeros(len(events), dtype=np.uint16)
    seen = events if experiment is None else experiment.rightly_assigned(events)
    for model in models:
        flags |= combined(**unlike_training(model, seen, noise, experiment))
    mixed = events.columns.get(ACCIDENT, np.zeros(len(events))) == 1
    lines = [counted(flags)] if flags.any() else []
    lines += [f"{mixed.sum()} of {len(mixed)} events are accidents"] if mixed.any() else []
    with np.errstate(divide="ignore"):
        x, charges = events.positions, events.molecule.charges
        joined = np.zeros(len(events), bool) if x is None else ~np.isfinite(potential_energy(x, charges))
    lines += [f"{joined.sum()} of {len(joined)} events have ions at one place"] if joined.any() else []
    left = (flags == 0) & ~mixed & ~joined
    if not left.any():
        raise DataError(f"{'; '.join(lines)}: none is left; check units, molecule and model")
    return (events[left] if lines else events), "; ".join(lines)


def warned(
    models: Iterable[Reconstructor],
    events: Events,
    noise: Noise | str | None,
    experiment: Experiment | None = None,
) -> Events:
    """Return `trusted` events, with a `FlaggedWarning` where some are left out."""
    chosen, line = trusted(models, events, noise, experiment)
    if line:
        warnings.warn(f"{line} and left out; keep_flagged=True keeps them", FlaggedWarning, stacklevel=3)
    return chosen


def null_samples(name: str, truth: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Answer each half of the events (E, N, 3) from the other: none is answered with itself.

    With its `mean`, (E, 1, N, 3), whatever `n`, or with positions of random events of it, (E, n, N, 3).
    """
    order, middle = rng.permutation(len(truth)), len(truth) // 2
    out = np.empty((len(truth), 1 if name == "mean" else n, *truth.shape[1:]))
    for mine, other in ((order[:middle], order[middle:]), (order[middle:], order[:middle])):
        out[mine] = truth[other].mean(axis=0) if name == "mean" else truth[rng.choice(other, (len(mine), n))]
    return out


def _densities(
    model: Reconstructor, events: Events, test: TestSet, noise: Noise | str | None, seed: int
) -> dict[str, Floats]:
    """Return the negative log density at the truth, or a bound on it, (E,), where there is one."""
    exact = model.sampler.has_density
    truth = test.lab if model.frame.invariant else events.positions
    if truth is None or not (exact or hasattr(model.network, "iwae_bound")):
        return {}
    densities = [
        model.log_prob(
            truth[k : k + _BLOCK, None], events[k : k + _BLOCK], noise=noise, draws=_DRAWS, seed=seed + k
        )
        for k in range(0, len(truth), _BLOCK)
    ]
    return {"nll" if exact else "nll_bound": -np.concatenate(densities)[:, 0]}


def floor_scores(
    events: Events,
    test: TestSet,
    noise: Noise | str | None,
    seed: int,
    experiment: Experiment | None = None,
) -> dict[str, Floats] | None:
    """Return what an efficient estimate would score, (E, ...); None where noise is not known."""
    prior = moving_prior(events)
    motion = None if prior is None else prior.spec()
    if experiment is not None:
        lab = information_floor(events.molecule, test.lab, experiment=experiment, motion=motion)
    else:
        sigma = events.sigma if noise is None else Noise.parse(noise).sigma(events.momenta)
        if sigma is None or not (sigma > 0).all():
            return None
        forward = test.forward
        lab = information_floor(events.molecule, test.lab, sigma, forward=forward, motion=motion)
    floor = lab.turned(test.rotation, test.order)
    moving = test.deviation > STILL
    standard = floor.variance[:, moving] / test.deviation[moving] ** 2
    absolute = math.sqrt(2.0 / math.pi)  # of a normal number
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    drawn = np.linalg.norm(floor.draw(_FLOOR_DRAWS, rng), axis=-1).reshape(len(events), -1)
    return {
        "mse_mean": floor.mse,
        "mae_mean": absolute * np.sqrt(floor.variance).mean(axis=(1, 2)),
        "std_mse_mean": standard.mean(axis=1),
        "std_mae_mean": absolute * np.sqrt(standard).mean(axis=1),
        # Means are of expected errors, exactly; quantiles of errors need errors.
        "atom_error_mean": floor.atom_error,
        "atom_error_median": drawn,
        "atom_error_p95": drawn,
    }


def summarise(
    values: Mapping[str, Floats], scores: Sequence[Score] = SCORES, *, resamples: int = 500, seed: int = 0
) -> dict[str, float]:
    """Return each score with `name_low` and `name_high`, its 95 % interval by the bootstrap over events.

    Values are (E,) or (E, k), NaN where there is none. Events are what is drawn, with all of their atoms,
    and the draws are the same for every model of a comparison.
    """
    statistics = {s.name: _statistic(values[s.name], s.quantile) for s in scores if s.name in values}
    count = len(next(iter(values.values())))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples))
    spread = np.array([[of(weight.astype(np.float64)) for of in statistics.values()] for weight in drawn])
    row: dict[str, float] = {}
    for (name, of), ends in zip(statistics.items(), spread.T, strict=True):
        some = ends[~np.isnan(ends)]
        # No interpolation: between infinities there is none.
        low, high = np.quantile(some, (0.025, 0.975), method="nearest") if len(some) else (np.nan, np.nan)
        row |= {name: of(np.ones(count)), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _statistic(values: Floats, level: float | None) -> Callable[[Floats], float]:
    """Return a quantile, or the mean, of values (E, ...) as a function of the weights of events (E,).

    NaN does not count; a mean is infinite with an infinity.
    """
    flat = values.reshape(len(values), -1)
    if level is None:
        finite, infinite = np.isfinite(flat), np.isinf(flat).any(axis=1)
        total, count = np.where(finite, flat, 0.0).sum(axis=1), finite.sum(axis=1)

        def mean(weight: Floats) -> float:
            if weight[infinite].any():
                return math.inf
            counted = weight @ count
            return float(weight @ total / counted) if counted > 0 else math.nan

        return mean
    order = np.argsort(flat, axis=None)[: np.count_nonzero(~np.isnan(flat))]  # NaN comes last
    ordered, event = flat.ravel()[order], order // flat.shape[1]

    def quantile(weight: Floats) -> float:
        below = np.cumsum(weight[event])
        if not len(below) or not below[-1]:
            return math.nan
        return float(ordered[np.searchsorted(below, level * below[-1])])

    return quantile
