"""Models side by side on the same events, with null models and the information floor beside them."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from flowcei.errors import DataError, FlaggedWarning
from flowcei.evaluation.floor import information_floor
from flowcei.evaluation.metrics import METRICS, STILL, internal_errors, score, summarise
from flowcei.evaluation.nulls import NULL_MODELS
from flowcei.events.container import events_of
from flowcei.experiment.detector import Noise
from flowcei.experiment.likelihood import centred_momenta
from flowcei.frame.recoil import RecoilFrame
from flowcei.physics.explosion import followed_momenta
from flowcei.posterior.flags import combined, counted
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.reconstruction.training_data import split_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.models.interface import Latent
    from flowcei.reconstruction.model import Reconstructor

FLOOR = "floor"
"""The row of the information floor."""

_MIN_EVENTS = 10
_SIMULATED_EVENTS = 500  # of which samples are simulated again, at the most
_SIMULATED_SAMPLES = 20
_FLOOR_DRAWS = 20
_SAMPLES = 200_000  # of null models that are judged at a time
_BLOCK = 4096  # events whose density is asked for at a time
_DRAWS = 64  # latents of a bound, where the density is not exact


def compare(
    models: dict[str, Reconstructor],
    events: Events,
    *,
    n: int = 100,
    noise: Noise | str | None = None,
    latent: Latent = "prior",
    seed: int = 0,
    resamples: int = 500,
    keep_flagged: bool = False,
) -> pd.DataFrame:
    """Score models and null models on events whose positions are known.

    Args:
        models: Name in the table -> model.
        events: With positions; those that a model may have seen in training are for the
            caller to leave out, with `unseen`.
        n: Samples an event.
        noise: As for `Reconstructor.sample`.
        latent: As for `Reconstructor.sample`; densities are of latents from the prior.
        seed: Of samples, null models and intervals.
        resamples: Of the bootstrap over events that gives the intervals.
        keep_flagged: Whether to score events that `trusted` leaves out, of which a
            `FlaggedWarning` is given.

    Returns:
        A row per model, then the null models, then `floor` where the noise is known. For each
        of `METRICS` a column; with its 95 % interval beside it in `name_low` and `name_high`,
        but for those of the run itself. NaN where a row has no such number.

    Raises:
        DataError: For events without positions, or too few, or flagged all of them.
        UsageError: For a model of another molecule.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 50, noise="1%", seed=3)
        >>> table = compare({"bundled": flowcei.load()}, events, n=20)
        >>> list(table.index)
        ['bundled', 'mean', 'marginal', 'floor']
    """
    for model in models.values():
        events_of(events, model.molecule)
    if not keep_flagged:
        events = warned(models.values(), events, noise)
    if events.positions is None:
        msg = "the data have momenta only; a comparison needs the true positions"
        raise DataError(msg)
    if len(events) < _MIN_EVENTS:
        msg = f"{len(events)} events are too few to compare on; {_MIN_EVENTS} at the least"
        raise DataError(msg)
    judge = _Judge.of(events, events.positions)
    rows: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        scores, rate = _sampled(model, judge, n, noise, latent, seed)
        scores |= _densities(model, judge, noise, seed)
        rows[name] = summarise(scores, resamples=resamples, seed=seed) | _run(model) | {"sampling_rate": rate}
    for name, answer in NULL_MODELS.items():
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        scores = judge.scores_of_turned(answer(judge.turned, n, rng))
        rows[name] = summarise(scores, resamples=resamples, seed=seed)
    floor = _floor(judge, noise, resamples, seed)
    if floor is not None:
        rows[FLOOR] = floor
    return pd.DataFrame.from_dict(rows, orient="index", columns=_columns()).rename_axis("model")


def unseen(model: Reconstructor, events: Events) -> Events:
    """Return the events a model did not see in training.

    A model trained on a file remembers a fingerprint of it and how it was split: of that
    file only the test rows are returned, of any other events all.
    """
    data = model.card.get("data")
    if not data or data["digest"] != events.digest():
        return events
    return events[np.sort(split_rows(len(events), data["split_seed"])[2])]


def trusted(
    models: Iterable[Reconstructor], events: Events, noise: Noise | str | None = None
) -> tuple[Events, str]:
    """Leave out events whose momenta one of the models would warn of.

    Flags that need samples do not count: to leave out what a model cannot explain would flatter it.

    Returns:
        The other events, and a line that says how many are flagged and why, empty where none is.

    Raises:
        UsageError: For a model of another molecule.
        DataError: Where no event is left.

    Example:
        >>> import flowcei
        >>> odd = flowcei.simulate("ocs", 3, noise="1%", seed=1)
        >>> odd.momenta[1] *= 2.0
        >>> chosen, line = trusted([flowcei.load()], odd)
        >>> len(chosen), line
        (2, '1 of 3 events are flagged (ker 1)')
    """
    flags = np.zeros(len(events), dtype=np.uint16)
    for model in models:
        flags |= combined(**model.unlike_training(events, noise))
    if not flags.any():
        return events, ""
    if flags.all():
        raise DataError(f"{counted(flags)}: none is left; check units, molecule and model")
    return events[flags == 0], counted(flags)


def warned(models: Iterable[Reconstructor], events: Events, noise: Noise | str | None) -> Events:
    """Return `trusted` events, with a `FlaggedWarning` where some are left out."""
    chosen, line = trusted(models, events, noise)
    if line:
        warnings.warn(f"{line} and left out; keep_flagged=True keeps them", FlaggedWarning, stacklevel=3)
    return chosen


def as_record(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table of `compare` as nested plain numbers, for JSON.

    Returns:
        `metrics`: unit and meaning of each; `models`: name -> metric -> its value, low and
        high. What is not known, or not finite, is None.

    Example:
        >>> table = pd.DataFrame({"crps": [0.1], "crps_low": [0.05], "crps_high": [0.2]}, index=["m"])
        >>> as_record(table)["models"]
        {'m': {'crps': {'value': 0.1, 'low': 0.05, 'high': 0.2}}}
    """
    models: dict[str, dict[str, dict[str, float | None]]] = {}
    known = [name for name in METRICS if name in table]
    for model, row in table.iterrows():
        models[str(model)] = {
            name: {
                key: _plain(row[name + suffix])
                for key, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
                if name + suffix in table
            }
            for name in known
        }
    about = {name: {"unit": METRICS[name].unit, "text": METRICS[name].text} for name in known}
    return {"metrics": about, "models": models}


def _plain(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _columns() -> list[str]:
    names = []
    for name, metric in METRICS.items():
        names += [name] if metric.block == "run" else [name, f"{name}_low", f"{name}_high"]
    return names


@dataclass(frozen=True, eq=False)
class _Judge:
    """The truth of a test set, in the frames that scores need.

    Attributes:
        events: Their momenta, (E, N, 3), and noise.
        truth: Positions in the frame of the momenta, (E, N, 3), bohr, centre of mass 0.
        rotation: To the recoil frame, (E, 3, 3).
        order: Which ion of the truth has each label there, (E, N): see `flowcei.posterior.labels`.
        simulated: Which events are simulated again, (E,).
    """

    events: Events
    truth: NDArray[np.float64]
    rotation: NDArray[np.float64]
    order: NDArray[np.intp]
    simulated: NDArray[np.bool_]

    @classmethod
    def of(cls, events: Events, positions: NDArray[np.float64]) -> _Judge:
        molecule, count = events.molecule, len(events)
        p = torch.from_numpy(np.ascontiguousarray(events.momenta, dtype=np.float64))
        framed = RecoilFrame.of(molecule, p, reflect=False).enter(p, torch.ones(count, dtype=p.dtype))
        simulated = np.zeros(count, dtype=np.bool_)
        simulated[np.linspace(0, count - 1, min(count, _SIMULATED_EVENTS)).astype(int)] = True
        return cls(
            events,
            positions - (molecule.masses / molecule.masses.sum() @ positions)[:, None],
            framed.rotation.numpy(),
            label_by_geometry(molecule, events.momenta, positions[:, None])[:, 0],
            simulated,
        )

    @cached_property
    def turned(self) -> NDArray[np.float64]:
        """The truth in the recoil frame, (E, N, 3), bohr."""
        return self._turn(slice(None), self.truth[:, None])[:, 0]

    @cached_property
    def deviation(self) -> NDArray[np.float64]:
        """Of each coordinate of it over the events, (N, 3), bohr."""
        return self.turned.std(axis=0)

    def _turn(self, rows: slice, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return positions (e, n, N, 3) in the recoil frame, identical ions labelled by the geometry.

        As `in_recoil_frame` does, but with the frame of all events: that of a few might span
        other ions. Labels are by the bond list: priors of several models would label one truth
        in several ways.
        """
        order = label_by_geometry(self.events.molecule, self.events.momenta[rows], x)
        return relabel(x.astype(np.float64), order) @ np.swapaxes(self.rotation[rows], 1, 2)[:, None]

    def scores(
        self, rows: slice, drawn: NDArray[np.floating], turned: NDArray[np.floating] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Score samples (e, n, N, 3), in the frame of the momenta, of some events.

        `turned` has them in the recoil frame where that, with its labels, is what was answered.
        """
        molecule, momenta = self.events.molecule, self.events.momenta[rows]
        truth = self.turned[rows]
        turned = self._turn(rows, drawn) if turned is None else turned
        scores = score(truth, turned, deviation=self.deviation)
        scores |= internal_errors(molecule, truth, turned)
        k = min(drawn.shape[1], _SIMULATED_SAMPLES)
        for name, answers in (("momenta", drawn[:, :k]), ("momenta_truth", self.truth[rows][:, None])):
            scores[name] = np.full(answers.shape[:2], np.nan)
            chosen = self.simulated[rows]
            scores[name][chosen] = self._momentum_errors(answers[chosen], momenta[chosen])
        return scores

    def scores_of_turned(self, turned: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
        """Score samples (E, n, N, 3) that are in the recoil frame, like ions labelled as in `turned`."""
        parts = []
        step = max(1, _SAMPLES // turned.shape[1])
        for first in range(0, len(turned), step):
            rows = slice(first, first + step)
            lab = np.empty_like(turned[rows])
            back = turned[rows] @ self.rotation[rows, None]
            np.put_along_axis(lab, self.order[rows, :, None][:, None], back, axis=2)
            # The mean of many geometries is none: labels chosen by its bonds would be those of other ions.
            parts.append(self.scores(rows, lab, turned[rows]))
        return _joined(parts)

    def _momentum_errors(
        self, positions: NDArray[np.floating], momenta: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return |p(x) - p| / |p| in % (e, k); infinite where x cannot be simulated.

        p are centred: simulated momenta always are, so the measured sum, which is noise that no
        geometry can follow, would count against every sample.
        """
        molecule = self.events.molecule
        momenta = centred_momenta(momenta, molecule.masses)
        flat = positions.reshape(-1, len(molecule), 3).astype(np.float64)
        p = followed_momenta(flat, molecule.masses, molecule.charges)
        away = np.linalg.norm(p.reshape(positions.shape) - momenta[:, None], axis=(2, 3))
        error = 100.0 * away / np.linalg.norm(momenta, axis=(1, 2))[:, None]
        return np.where(np.isnan(error), np.inf, error)


def _sampled(
    model: Reconstructor,
    judge: _Judge,
    n: int,
    noise: Noise | str | None,
    latent: Latent,
    seed: int,
) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Return the scores of a model's samples, and how many it drew in a second."""
    parts: list[dict[str, NDArray[np.float64]]] = []
    n = 1 if model.network.is_point else n  # the same answer again is no sample
    raw, masses = not model.frame.invariant, judge.events.molecule.masses
    stream = model.stream(judge.events, n, noise=noise, latent=latent, seed=seed)
    first, seconds = 0, 0.0
    while first < len(judge.events):
        began = time.perf_counter()
        drawn = next(stream)
        seconds += time.perf_counter() - began
        rows = slice(first, first + len(drawn))
        x = drawn.positions
        if raw:  # no momentum tells where the origin was
            x = x - (masses / masses.sum() @ x)[:, :, None]
        scores = judge.scores(rows, x)
        for values in scores.values():  # an event without samples has no score
            values[~drawn.answered] = np.nan
        parts.append(scores)
        first += len(drawn)
    return _joined(parts), first * n / seconds


def _joined(parts: list[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _densities(
    model: Reconstructor, judge: _Judge, noise: Noise | str | None, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Return the negative log density at the truth, or a bound on it, (E,), where there is one."""
    found: list[NDArray[np.float64]] = []
    exact = model.network.has_density
    known = judge.truth if model.frame.invariant else judge.events.positions
    if known is None or not (exact or hasattr(model.network, "iwae_bound")):
        return {}
    for first in range(0, len(judge.events), _BLOCK):
        part = judge.events[first : first + _BLOCK]
        x = known[first : first + _BLOCK, None]
        found.append(-model.log_prob(x, part, noise=noise, draws=_DRAWS, seed=seed + first)[:, 0])
    return {"nll" if exact else "nll_bound": np.concatenate(found)}


def _run(model: Reconstructor) -> dict[str, float]:
    trained = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    return {
        "parameters": float(model.card.get("parameters", trained)),
        "training_rate": float(model.card.get("rows_per_second", math.nan)),
    }


def _floor(judge: _Judge, noise: Noise | str | None, resamples: int, seed: int) -> dict[str, float] | None:
    """Return what an efficient estimate would score; None where the noise is not known."""
    level = None if noise is None else Noise.parse(noise)
    sigma = judge.events.sigma if level is None else level.sigma(judge.events.momenta)
    if sigma is None or not (sigma > 0).all():
        return None
    floor = information_floor(judge.events.molecule, judge.turned, sigma)
    scale = judge.deviation
    moving = scale > STILL
    standard = floor.variance[:, moving] / scale[moving] ** 2
    absolute = math.sqrt(2.0 / math.pi)
    expected = {
        "mse_mean": floor.mse,
        "mae_mean": absolute * np.sqrt(floor.variance).mean(axis=(1, 2)),
        "std_mse_mean": standard.mean(axis=1),
        "std_mae_mean": absolute * np.sqrt(standard).mean(axis=1),
        "atom": floor.atom_error,
    }
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    drawn = np.linalg.norm(floor.draw(_FLOOR_DRAWS, rng), axis=-1).reshape(len(sigma), -1)
    # Means are of expected errors, exactly; quantiles of errors need errors.
    rows = [summarise(s, resamples=resamples, seed=seed) for s in (expected, {"atom": drawn})]
    return rows[0] | {k: v for k, v in rows[1].items() if not k.startswith("atom_error_mean")}
