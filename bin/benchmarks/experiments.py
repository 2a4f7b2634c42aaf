"""Real experiments: charges that build up, the cost of a covariance, coverage, what a run tells."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import oracle

import flowcei
from benchmarks.explosions import errors
from benchmarks.timing import cpu_rates, script, seconds, show
from flowcei.physics.explosion import setting_for
from flowcei.physics.priors import build_prior
from flowcei.units import FEMTOSECOND


def experiment(quick: bool) -> None:  # noqa: FBT001
    """Real experiments: charges that build up, the cost of a covariance, coverage, what a run tells."""
    build_ups(quick)
    model, own = flowcei.load(), flowcei.Experiment(noise=["4%", "0.5%", "0.5%"], temperature=300)
    events = flowcei.simulate("ocs", 200 if quick else 2_000, experiment=own, seed=1)
    drawn, number = model.sample(events, 100, noise="1%", seed=1), 100 * len(events)
    stated = replace(drawn, origin=drawn.origin | {"experiment": own.to_dict()})
    rates = [number / seconds(one.weigh) for one in (drawn, stated)]
    show(f"weighing {number} samples of OCS, one level of noise", rates[0], "samples/s")
    show("    with the covariance of axes and source, of that rate", 100 * rates[1] / rates[0], "%")
    events_each, only = (20, ["--only", "2/2/0.5"]) if quick else (200, [])
    script("measure-experiment", "--events", events_each, "--samples", 100, "--seed", 40, *only)
    script("measure-missing", *(("--events", 6, "--draws", 20_000) if quick else ()))
    runs, fits, sampled = (4, 1, 0) if quick else (100, 10, 1)
    script("measure-accidents", "--runs", runs, "--fits", fits, "--sampled", sampled)


def build_ups(quick: bool) -> None:  # noqa: FBT001
    """Explosions a second of charges that build up, beside those of charges that are there at once."""
    ocs, count = flowcei.Molecule.load("ocs"), 20_000 if quick else 50_000
    x = build_prior(ocs, None).sample(count, np.random.default_rng(0))
    m, q = ocs.masses, ocs.charges
    y = x[0] - (m[:, None] * x[0]).sum(axis=0) / m.sum()
    potential = sum(q[i] * q[j] / np.linalg.norm(y[i] - y[j]) for i in range(3) for j in range(i))
    own = float(np.sqrt((m[:, None] * y**2).sum() / (2.0 * potential))) / FEMTOSECOND  # T, fs
    ratios = (1.0, 10.0) if quick else (0.01, 0.1, 1.0, 3.0, 10.0)
    print(
        "OCS, one thread: accuracy, charges, tau / T, events/s of CPU, of those at once, mean and worst error"
    )
    each = np.array([0.5, 0.7, 1.0])
    kinds = {"one time": lambda t: flowcei.Coulomb(flowcei.BuildUp((t,)))}
    kinds["a time each"] = lambda t: flowcei.Coulomb(flowcei.BuildUp(tuple(t * each)))
    kinds["charge moves"] = lambda t: flowcei.Coulomb(transfer=flowcei.ChargeTransfer(2, t))
    cases = [("at once", 0.0), *((kind, r) for kind in kinds for r in ratios)]
    for accuracy in (3e-6, 1e-8) if quick else (1e-4, 1e-5, 3e-6, 1e-6, 1e-7, 1e-8, 1e-9):
        precision = "f32" if setting_for(accuracy).dtype is np.float32 else "f64"
        fixed = partial(flowcei.asymptotic_momenta, x, m, q, accuracy=accuracy, threads=1)
        works = [partial(fixed, forward=kinds[kind](r * own)) if r else fixed for kind, r in cases]
        rates = cpu_rates(works, len(x))
        for (name, ratio), work, rate in zip(cases, works, rates, strict=True):
            truth = np.array(
                [oracle.momenta(g, m, q, **grown(name, ratio * own, each)) for g in x[: 2 if quick else 8]]
            )
            mean, worst = errors(work()[: len(truth)], truth)
            case = f"{accuracy:g} ({precision}) {name:12s} {ratio:8g} {rate:9.3g}"
            print(f"    {case} {100 * rate / rates[0]:5.0f} % {mean:9.1e} {worst:9.1e}", flush=True)


def grown(name: str, time: float, each: np.ndarray) -> dict[str, Any]:
    """Return what the oracle is told: which share of its charge each ion of OCS has at t."""
    tau = time * FEMTOSECOND
    if name == "charge moves":
        return {"share": lambda t: 1.0 + np.exp(-t / tau) * np.array([-1.0, -1.0, 2.0])}
    if name == "a time each":
        return {"share": lambda t: -np.expm1(-t / (tau * each))}
    return {"share": lambda t: -np.expm1(-t / tau)} if time else {}
