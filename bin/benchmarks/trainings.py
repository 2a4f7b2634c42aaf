"""Trainings: epochs and steps, several processes, devices."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

import flowcei
from benchmarks.timing import seconds, show, wall
from flowcei.models.registry import build_model
from flowcei.training.steps import Steps

if TYPE_CHECKING:
    from flowcei.training.schedule import EpochRecord


def training(quick: bool) -> None:  # noqa: FBT001
    """Training and sampling of the default cinn, and what its posteriors are worth."""
    epochs, events = (3, 2_000) if quick else (10, 100_000)
    records: list[EpochRecord] = []
    start = time.perf_counter()
    model = flowcei.train(
        "cinn",
        schedule=flowcei.Schedule(epochs=epochs),
        events_per_epoch=events,
        seed=1,
        on_epoch=records.append,
    )
    whole = time.perf_counter() - start
    rates = sorted(r.rows_per_second for r in records[1:])  # the first compiles
    name = f"default cinn, {epochs} x {events} fresh events"
    show(f"training, {name}, median epoch", rates[len(rates) // 2], "events/s")
    show("  slowest epoch", rates[0], "events/s")
    show("  fastest epoch", rates[-1], "events/s")
    show("  all of it", whole, "s")
    made = flowcei.simulate("ocs", 200 if quick else 4_000, noise="1%", seed=99)
    took = seconds(lambda: model.sample(made, 100, seed=1), 3)
    show(f"sampling, default cinn, {len(made)} x 100", 100 * len(made) / took, "samples/s")
    drawn = model.sample(made, 200, seed=1)
    off = np.linalg.norm(drawn.mean() - np.asarray(made.positions), axis=-1)
    show(f"error per atom of the posterior mean, noise 1 %, {len(made)} unseen events", off.mean(), "bohr")
    covered = chart_coverage(model, made, drawn)
    for level, share in covered.items():
        show(f"coverage of {level} %: chart coordinate with the least", 100 * share.min(), "%")
        show(f"coverage of {level} %: chart coordinate with the most", 100 * share.max(), "%")


def chart_coverage(
    model: flowcei.Reconstructor, events: flowcei.Events, drawn: flowcei.PosteriorSamples
) -> dict[int, np.ndarray]:
    """Return how often each chart coordinate lies in its central 50 and 90 % of the samples."""
    sigma = model.sigma(events, None)
    framed = model.frame.enter(events.momenta, sigma)
    truth = model.frame.to_chart(np.asarray(events.positions)[:, None], framed)[:, 0]
    samples = model.frame.to_chart(drawn.positions.astype(np.float64), framed)
    covered = {}
    for level in (50, 90):
        low, high = np.percentile(samples, (50 - level / 2, 50 + level / 2), axis=1)
        covered[level] = ((truth >= low) & (truth <= high)).mean(axis=0)
    return covered


def steps(quick: bool) -> None:  # noqa: FBT001
    """CPU time of steps of a training, by the compiled kernels and by torch, in turn."""
    splines: dict[str, Any] = {"couplings": 4, "coupling": "spline", "hidden": 128, "bins": 4}
    cases: list[tuple[str, int, dict[str, Any]]]
    cases = [("8 GLOW, 64 units", 5, {}), ("8 GLOW, 32 units", 23, {"hidden": 32})]
    cases += [("4 splines, 128 units", 18, splines)]
    print(f"{'couplings':24s} {'rows a step':>12s} {'torch':>8s} {'kernels':>8s}   ratio (us a row, medians)")
    for name, told, options in cases:
        for rows in (256, 1024):
            x, c = torch.randn(rows, 6), torch.randn(rows, told)
            models = [build_model("cinn", 6, told, options) for _ in range(2)]
            takes = [Steps(model, flowcei.Schedule(), torch.device("cpu")) for model in models]
            times: list[list[float]] = [[], []]
            for _ in range(10 if quick else 60):
                for k, (model, own) in enumerate(zip(models, takes, strict=True)):
                    model.train(k == 1)  # out of training torch does all
                    begun = time.process_time()
                    own.differentiate(x, c, stop=False)
                    own.move(3e-3, 0.9)
                    times[k].append((time.process_time() - begun) / rows * 1e6)
            slow, fast = (float(np.median(t[2:])) for t in times)
            print(f"{name:24s} {rows:12d} {slow:8.1f} {fast:8.1f} {slow / fast:7.2f}", flush=True)


def ranks(quick: bool) -> None:  # noqa: FBT001
    """Training by one process and by two of one thread each, in turn; on an idle machine."""
    epochs, turns = (2, 1) if quick else (6, 2)
    cases = {"default": [], "steps of 1024": ["--prior", "equilibrium", "--noise", "1%", "--batch", "1024"]}
    for name, options in cases.items():
        words = [*options, "--events", "4000" if quick else "60000", "--epochs", str(epochs), "--seed", "1"]
        rates: dict[int, list[float]] = {1: [], 2: []}
        losses: dict[int, float] = {}
        for _turn in range(turns):
            for count in rates:
                with tempfile.TemporaryDirectory() as folder:
                    run = Path(folder) / "run"
                    start = [
                        "torch.distributed.run",
                        "--nproc-per-node",
                        str(count),
                        "--master-port",
                        "29517",
                    ]
                    start += ["-m", "flowcei", "train", *words, "-o", str(run)]
                    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
                    subprocess.run([sys.executable, "-m", *start], check=True, capture_output=True, env=quiet)
                    table = pd.read_csv(run / "metrics.csv")
                rates[count] += list(table["rows_per_second"][1:])
                losses[count] = float(table["validation_loss"].min())
        one, two = (float(np.median(rates[count])) for count in (1, 2))
        show(f"{name}: one process, median epoch", one, "events/s")
        show("    two, of one thread each", two, "events/s")
        show("    ratio", two / one, "")
        show("    validation loss of two less that of one", losses[2] - losses[1], "nats")


def devices(quick: bool) -> None:  # noqa: FBT001
    """Training and sampling on the processor and on a CUDA device, where there is one, in turn."""
    near: dict[str, Any] = {"prior": "equilibrium", "noise": "1%"}
    cases: list[tuple[str, int, dict[str, Any]]] = [("equilibrium, 1 %, 64 units", 1024, near)]
    cases += [
        ("the same, larger steps", 8192, near),
        ("default", 256, {}),
        ("broad", 256, {"prior": "broad"}),
    ]
    events = flowcei.simulate("ocs", 100 if quick else 2000, noise="1%", seed=9)
    for name, batch, words in cases:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            records: list[EpochRecord] = []
            model = flowcei.train(
                "cinn",
                device=device,
                schedule=flowcei.Schedule(2 if quick else 4, batch),
                events_per_epoch=(10 if quick else 200) * batch,
                seed=1,
                on_epoch=records.append,
                **words,
            )
            rate = float(np.median([record.rows_per_second for record in records[1:]]))
            show(f"{device}: {name}, {batch} a step", rate, "events/s")
            show("    validation loss", min(record.validation_loss for record in records), "nats")
            if words is near:
                took = wall(partial(model.sample, events, 1000, seed=1))
                show("    with 1,000 samples an event", 1000 * len(events) / took, "samples/s")
