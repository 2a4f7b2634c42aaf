"""Where the time of commands goes, and how it grows with events, samples and atoms."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import flowcei
from benchmarks.timing import ONE_THREAD, rusage

_WATCH = Path(__file__).with_name("watch.py")


def stages(quick: bool) -> None:  # noqa: FBT001
    """CPU time of every command with one thread, and its share in each room of flowcei.

    A thread of the command looks every 5 ms where it is. What NumPy, torch and compiled code do counts for
    the room that called them; what is imported, wherever, for the imports.
    """
    events, n = ("500", "20") if quick else ("20000", "100")
    given = ["--momenta", "e.h5", "-n", n, "--seed", "1", "--model", "bundled"]
    lines = [
        ["simulate", "ocs", "-n", events, "--noise", "1%", "--seed", "1", "-o", "e.h5"],
        ["check", "e.h5"],
        ["sample", *given, "-o", "plain.h5"],
        ["sample", *given, "--weigh", "-o", "s.h5"],
        ["modes", "s.h5", "-o", "modes.csv"],
        ["refine", "s.h5", "-o", "refined.h5"],
        ["spread", "s.h5", "-o", "spread"],
        ["population", "s.h5", "-o", "population"],
        ["report", "s.h5", "-o", "report.html"],
        ["calibrate", "bundled", "--data", "e.h5", "-n", n, "-o", "coverage"],
        ["train", "--events", "20000", "--epochs", "3", "--seed", "1", "-o", "run"],
    ]
    print(f"{events} events of OCS, {n} samples each; seconds of CPU, start and files included, all compiled")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for words in lines:
            for _ in range(2):  # the first compiles
                run = [sys.executable, str(_WATCH), *words, "--overwrite"]
                told = subprocess.run(
                    run, check=True, capture_output=True, cwd=folder, text=True, env=os.environ | ONE_THREAD
                )
            total, *shares = told.stderr.splitlines()[-1].split("|")
            name = " ".join(words[:1] + [word for word in words if word == "--weigh"])
            print(f"{name:16s} {float(total):7.1f} s   {', '.join(shares)}", flush=True)


def growth(quick: bool) -> None:  # noqa: FBT001
    """CPU time and memory of commands as events, samples and atoms become more."""
    few = 10 if quick else 1
    cases = [("ocs", events // few, 100) for events in (1_000, 10_000, 100_000)]
    cases += [("ocs", 10_000 // few, n) for n in (10, 1_000)]
    cases += [(name, 10_000 // few, 100) for name in ("ch2o", "ch4", "acetone")]
    print("one thread, start and files included; models but that of OCS trained for a moment")
    print(
        f"{'molecule':9s} {'atoms':>5s} {'events':>8s} {'samples':>8s} {'command':16s} {'CPU (s)':>8s}    GiB"
    )
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = {word: str(Path(folder) / word) for word in ("e.h5", "s.h5", "m.csv", "spread", "p")}
        for molecule, events, n in cases:
            atoms, model = len(flowcei.Molecule.load(molecule)), "bundled"
            if molecule != "ocs":
                model = str(Path(folder) / molecule)
                rusage(["train", "--molecule", molecule, "--events", "2000", "--epochs", "2", "-o", model])
            given = ["--momenta", path["e.h5"], "-n", str(n), "--model", model]
            lines = [
                ["simulate", molecule, "-n", str(events), "--noise", "1%", "-o", path["e.h5"]],
                ["sample", *given, "--weigh", "-o", path["s.h5"]],
                ["modes", path["s.h5"], "-o", path["m.csv"]],
                ["spread", path["s.h5"], "-o", path["spread"]],
            ]
            for words in lines:
                cpu, _, peak = rusage([*words, "--overwrite"])
                row = f"{molecule:9s} {atoms:5d} {events:8d} {n:8d} {words[0]:16s} {cpu:8.1f} {peak:6.2f}"
                print(row, flush=True)
