"""One row of figures for each molecule: flow, weighted and exact answers side by side, and the floor."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import flowcei
from flowcei.physics.explosion import centre_of_mass
from flowcei.posterior.exact import R_HAT
from flowcei.posterior.refinement import CONVERGED
from oracles.chains import long_chains
from oracles.distances import c2st
from oracles.reference import ProposalRules, reference_posterior

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.posterior.samples import PosteriorSamples

_LEVELS = np.arange(1, 10) / 10.0
_CHAINS, _BURN, _KEPT, _THIN = 1000, 400, 4, 50
_TIMED, _MOST_TIMED = 15.0, 300  # seconds, and events
_BALL = ProposalRules(samples=100_000, rounds=6, round_samples=10_000)


@dataclass(frozen=True)
class Sizes:
    """How many events, and of how many samples.

    Attributes:
        covered: Events whose coverage is measured, with 100 samples each.
        compared: Events that are compared with long chains, with 1,000 samples each.
        classified: Of these, events that a classifier compares.
    """

    covered: int = 1000
    compared: int = 20
    classified: int = 5


def measured(model: flowcei.Reconstructor, noise: str, seed: int, sizes: Sizes) -> dict[str, object]:
    """Return the figures of a model by the words that head their columns."""
    molecule, prior = model.molecule, model.training.prior
    make = partial(flowcei.simulate, molecule, noise=noise, prior=prior)
    row: dict[str, object] = {"molecule": molecule.name, "ions": len(molecule)}
    row["flow: efficiency"] = " / ".join(f"{share:.3g}" for share in model.training.judgement["efficiency"])
    events = make(sizes.covered, seed=seed)
    truth = centred(events)
    answers: dict[str, PosteriorSamples] = {}
    drawn = model.sample(events, 100, noise=noise, seed=1)
    answers["flow"], answers["weighted"] = drawn, drawn.weigh()
    answers["exact"] = model.sample(events, 100, noise=noise, seed=2, exact=True)
    for name, samples in answers.items():
        row[f"{name}: coverage off by"] = f"{100.0 * coverage_error(samples, truth):.1f}"
        off = np.linalg.norm(samples.mean(keep_flagged=True) - truth, axis=2)
        row[f"{name}: error per atom"] = f"{off.mean():.4f}"
    row["floor"] = f"{np.median(answers['exact'].floor()[np.isfinite(answers['exact'].floor())]):.4f}"
    row["not mixed"] = f"{100.0 * float((answers['exact'].columns[R_HAT] > 1.02).mean()):.1f} %"
    few = make(sizes.compared, seed=seed + 1)
    rough = model.sample(few, 1000, noise=noise, seed=3).weigh()
    begun = time.process_time()
    exact = model.sample(few, 1000, noise=noise, seed=4, exact=True)
    # As many as take a while, all at once: what a call costs by itself is shared by a few dozen events.
    count = int(np.clip(_TIMED * len(few) / (time.process_time() - begun), 10, _MOST_TIMED))
    timed = make(count, seed=seed + 2)
    begun = time.process_time()
    model.sample(timed, 1000, noise=noise, seed=4, exact=True)
    row["exact: events a second of CPU"] = f"{count / (time.process_time() - begun):.1f} ({count} events)"
    reference = reference_chains(rough)
    middle, deviation = reference.mean(axis=1), reference.std(axis=1)
    plain = replace(rough, weights=None)
    for name, samples in {"flow": plain, "weighted": rough, "exact": exact}.items():
        mean = relative(samples.mean(keep_flagged=True)[:, None])[:, 0]
        away = np.abs(mean - middle) / deviation
        row[f"{name}: mean off by (sd)"] = f"{np.median(away):.3f} / {np.quantile(away, 0.95):.3f}"
    points = relative(exact.positions.astype(np.float64))
    scores = [
        c2st(
            ((points[k] - middle[k]) / deviation[k]),
            ((reference[k, :_CHAINS] - middle[k]) / deviation[k]),
            seed=k,
        )
        for k in range(sizes.classified)
    ]
    row["exact: C2ST"] = f"{np.mean(scores):.3f} +- {np.std(scores) / np.sqrt(len(scores)):.3f}"
    return row


def mode_shares_off(
    model: flowcei.Reconstructor, noise: str, seed: int, events: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return total variations (e,) of shares of modes in 1,000 exact samples from those of a reference.

    And of two halves of its 3,000 draws, which chance alone makes. Modes are all that searches from 1,000
    geometries find; a sample is of the nearest. Events of which they find none are left out.
    """
    drawn = flowcei.simulate(model.molecule, events, prior=model.training.prior, noise=noise, seed=seed)
    exact = model.sample(drawn, 1000, noise=noise, seed=2, exact=True)
    rough = model.sample(drawn, 2, noise=noise, seed=1)
    given = rough.prior, rough.likelihood, model.molecule
    reference = reference_posterior(*given, n=3000, seed=1, starts=1000, threads=1, rules=_BALL)
    off, chance = [], []
    for k in range(events):
        mine = reference.modes.of(k)
        exact_ones = mine[reference.modes.status[mine] == CONVERGED]
        # Noise can carry momenta to where no geometry has them exactly: the nearest ones stand for it.
        centres = reference.modes.positions[exact_ones if len(exact_ones) else mine]
        if not len(centres):
            continue  # nothing to have shares of

        def shares(x: NDArray[np.floating], centres: NDArray[np.float64] = centres) -> NDArray[np.float64]:
            square = ((x[:, None] - centres) ** 2).sum(axis=(2, 3))
            return np.bincount(square.argmin(axis=1), minlength=len(centres)) / len(x)

        right = reference.positions[k]
        off.append(0.5 * np.abs(shares(exact.positions[k]) - shares(right)).sum())
        chance.append(0.5 * np.abs(shares(right[::2]) - shares(right[1::2])).sum())
    return np.array(off), np.array(chance)


def relative(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positions (e, n, N, 3) relative to the first ion, (e, n, 3N - 3)."""
    return (x[:, :, 1:] - x[:, :, :1]).reshape(*x.shape[:2], -1)


def centred(events: flowcei.Events) -> NDArray[np.float64]:
    """Return true positions, centre of mass 0, (E, N, 3), bohr."""
    if events.positions is None:
        raise SystemExit("events without positions")
    return events.positions - centre_of_mass(events.positions, events.molecule.masses)


def coverage_error(samples: PosteriorSamples, truth: NDArray[np.float64]) -> float:
    """Return the largest difference of coverage from 10 to 90 % of bonds and angles, all of them together."""
    from flowcei.posterior.spread import quantities

    names, values = quantities(samples.molecule, samples.labelled())
    mine = [k for k, name in enumerate(names) if name.kind != "atom"]
    true = quantities(samples.molecule, samples.labelled(truth[:, None]))[1]
    n = values.shape[1]
    weights = np.full(values.shape[:2], 1.0 / n) if samples.weights is None else samples.weights.normalised
    below = np.einsum("en,enk->ek", weights, values[..., mine] < true[..., mine])
    # The truth is one of n + 1: its rank is uniform, where 49 of 101 ranks lie within the central half.
    below = (n * below + np.random.default_rng(0).random(below.shape)) / (n + 1)
    inside = np.abs(2.0 * below - 1.0)
    return float(np.abs([(inside < level).mean() - level for level in _LEVELS]).max())


def reference_chains(samples: PosteriorSamples) -> NDArray[np.float64]:
    """Return states (E, n, 3N - 3) of long chains that begin at samples; the first 1,000 of as many chains.

    Of fewer chains that give more states each, states that follow one another are alike, which a classifier
    notices: for methanol it told 20 chains of 50 states from 1,000 independent ones with 0.532.
    """
    rng = np.random.default_rng(1)
    weights = samples.weigh().weights if samples.weights is None else samples.weights
    if weights is None:
        raise SystemExit("the model has no density")
    chosen = [rng.choice(w.size, _CHAINS, p=w) for w in weights.normalised]
    start = np.take_along_axis(
        relative(samples.positions.astype(np.float64)), np.stack(chosen)[..., None], axis=1
    )

    def log_density(y: NDArray[np.float64]) -> NDArray[np.float64]:
        x = np.pad(y, ((0, 0), (0, 0), (3, 0))).reshape(*y.shape[:2], -1, 3)
        out = samples.log_posterior(x - centre_of_mass(x, samples.molecule.masses))
        return np.where(np.isnan(out), -np.inf, out)

    return long_chains(log_density, start, burn=_BURN, kept=_KEPT, thin=_THIN, seed=1)
