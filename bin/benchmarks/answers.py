"""What samples and modes are worth, beside exact ones."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import flowcei
from benchmarks.timing import show
from flowcei.posterior.gathering import find_modes
from flowcei.posterior.refinement import OUTSIDE
from oracles.distances import c2st, energy_distance
from oracles.reference import reference_posterior

if TYPE_CHECKING:
    from flowcei.posterior.modes import Modes
    from flowcei.training.schedule import EpochRecord

DATA = Path(__file__).resolve().parents[2] / "tests" / "data"  # reference posteriors


def posteriors(quick: bool) -> None:  # noqa: FBT001
    """How far the samples of models are from exact ones, for the events of tests/data."""
    limit, count = (3.0, 3) if quick else (40.0, 20)
    print(
        f"{count} events of OCS at 1 % noise, 500 samples of each; models trained for about {limit:g} s but"
    )
    print(
        "for the bundled flow. C2ST: share of samples that a classifier tells from exact ones, 0.5 is best;"
    )
    print("energy distance in 1e-3 bohr, 0 is best. Mean over events, its standard error, the worst event.")
    print(
        f"{'prior':12s} {'samples of':34s} {'C2ST':>14s} {'worst':>6s} {'energy distance':>18s} {'worst':>8s}"
    )
    for prior in ("equilibrium", "broad"):
        exact = flowcei.read_samples(DATA / f"reference-ocs-{prior}.h5")[:count]
        events = flowcei.Events(exact.molecule, exact.momenta, sigma=exact.sigma)
        again = reference_posterior(exact.prior, exact.likelihood, exact.molecule, n=500, seed=1, threads=1)
        judged(prior, "reference, other seed", exact, again.positions)
        cinn = trained("cinn", prior, limit)
        flows = {"cinn": cinn, "cvae": trained("cvae", prior, limit)}
        if prior == "equilibrium":
            flows = {"bundled cinn": flowcei.load()} | flows
        for name, model in flows.items():
            drawn = model.sample(events, 4_000, seed=1)
            judged(prior, name, exact, drawn.positions[:, :500])
            weighed = None if drawn.log_prob is None else drawn.weigh()
            if weighed is not None and weighed.weights is not None:
                share = 100 * np.median(weighed.weights.efficiency)
                # Every eighth: resampling leaves the order, so copies of a sample stand together.
                even = weighed.equally_weighted(seed=1).positions[:, ::8]
                judged(prior, f"{name}, weighted (ESS {share:.0f} %)", exact, even)


def trained(architecture: str, prior: str, limit: float) -> flowcei.Reconstructor:
    """Return a model of OCS that was trained for about `limit` seconds."""
    records: list[EpochRecord] = []
    epochs = 8
    kwargs: dict[str, Any] = {"molecule": "ocs", "prior": prior, "seed": 1, "on_epoch": records.append}
    flowcei.train(architecture, schedule=flowcei.Schedule(epochs=2), events_per_epoch=5_000, **kwargs)
    rows = int(0.8 * limit * records[-1].rows_per_second / epochs)
    schedule = flowcei.Schedule(epochs=epochs)
    return flowcei.train(architecture, schedule=schedule, events_per_epoch=max(rows, 2_000), **kwargs)


def judged(prior: str, name: str, exact: flowcei.PosteriorSamples, positions: np.ndarray) -> None:
    """Print how far samples (E, n, N, 3) are from exact ones."""
    clouds = [
        (x[:, :, 1:] - x[:, :, :1]).reshape(*x.shape[:2], -1).astype(np.float64)
        for x in (exact.positions, positions)
    ]
    told = np.array([c2st(a, b, seed=k) for k, (a, b) in enumerate(zip(*clouds, strict=True))])
    away = 1e3 * np.array([energy_distance(a, b) for a, b in zip(*clouds, strict=True)])
    error = [v.std(ddof=1) / np.sqrt(len(v)) for v in (told, away)]
    print(
        f"{prior:12s} {name:34s} {told.mean():6.3f} ± {error[0]:.3f} {told.max():6.3f}"
        f" {away.mean():9.2f} ± {error[1]:6.2f} {away.max():8.2f}",
        flush=True,
    )


def modes(quick: bool) -> None:  # noqa: FBT001
    """Events a second on one core, and what searches from all samples find beside."""
    count, all_searched = (20, 4) if quick else (1_000, 200)
    short: dict[str, Any] = (
        {"schedule": flowcei.Schedule(epochs=1), "events_per_epoch": 2_000} if quick else {}
    )
    for molecule, prior in (("ocs", ""), ("ocs", "broad"), ("chbrclf", ""), ("chbrclf", "ball")):
        name, few = f"{molecule} {prior}".strip(), all_searched if molecule == "ocs" else all_searched // 2
        kwargs: dict[str, Any] = {
            "molecule": molecule,
            "prior": prior or None,
            "noise": "1%",
            "seed": 1,
        } | short
        model = flowcei.train(**kwargs) if name != "ocs" else flowcei.load()
        events = flowcei.simulate(molecule, count, prior=prior or None, noise="1%", seed=19)
        drawn = model.sample(events, 1_000, noise="1%", seed=1).weigh()
        drawn[:2].modes(keep_flagged=True)  # compiles what is not compiled
        begun = time.process_time()
        found = drawn.modes(threads=1, keep_flagged=True)
        show(
            f"{name}: modes of {count} events with 1000 samples",
            count / (time.process_time() - begun),
            "events/s",
        )
        show("    searches of an event, mean", found.searches.made.mean(), "")
        show(
            "    share of the samples' weight missed on average, 95 % certain, below",
            found.missed_on_average,
            "",
        )
        some, ions = drawn[:few], events.molecule.identical
        density = partial(drawn.prior.log_prob_unlabelled, identical=ions)
        refined = some.refine(threads=1, keep_flagged=True)
        every = find_modes(refined, some.likelihood, weights=some.weights, log_prior=density)
        compare_modes(found, every)


def compare_modes(found: Modes, every: Modes) -> None:
    """Show which of the modes of all searches were found, to 0.02 bohr, and how probabilities differ."""
    hit, variation = np.zeros(len(every), dtype=bool), []
    for event in range(len(every.verdict)):
        rows, mine = every.of(event), found.of(event)
        away = np.abs(every.positions[rows][:, None] - found.positions[mine]).max(axis=(2, 3))
        hit[rows] = away.min(axis=1) < 0.02
        theirs = np.bincount(away.argmin(axis=1), every.probability[rows] * hit[rows], len(mine))
        lost = (every.probability[rows] * ~hit[rows]).sum()
        variation.append(0.5 * (np.abs(found.probability[mine] - theirs).sum() + lost))
    inside = every.status != OUTSIDE
    show(
        f"    of {len(every)} modes that 1000 searches of {len(every.verdict)} events find",
        100 * hit.mean(),
        "%",
    )
    show(f"    of the {inside.sum()} of them in the prior", 100 * hit[inside].mean(), "%")
    show("    of their probability", 100 * every.probability[hit].sum() / every.probability.sum(), "%")
    show("    total variation of probabilities, median", float(np.median(variation)), "")
    show("    95th percentile", float(np.quantile(variation, 0.95)), "")
