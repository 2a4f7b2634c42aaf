"""Whole commands: files, memory, processes that share the work or are killed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import flowcei
from benchmarks.timing import flow, seconds, show


def streaming(quick: bool) -> None:  # noqa: FBT001
    """Events a second from prior to file, and the memory that takes."""
    count = 200_000 if quick else 10_000_000
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        line = ["simulate", "ocs", "-n", str(count), "--noise", "1%", "--seed", "1"]
        flow(*line, "-o", str(Path(folder) / "warm-up.h5"), "-n", "10000")
        began = time.perf_counter()
        flow(*line, "-o", str(Path(folder) / "ocs.h5"))
        took = time.perf_counter() - began
        size = (Path(folder) / "ocs.h5").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    show(f"flowcei simulate ocs -n {count} -o ocs.h5, all of it", count / took, "events/s")
    show("its file", size / 1e6, "MB")
    show("its peak memory", peak, "GiB")


def _reading(events: flowcei.Events, path: Path) -> None:
    """Reading a file of events whole, and in parts."""
    flowcei.write_events(events, path)
    size = path.stat().st_size / 2**20
    took = seconds(partial(flowcei.read_events, path))
    show(f"reading {len(events)} OCS events with positions, {size:.0f} MiB {path.suffix}", took, "s")
    code = (
        "import sys; from pathlib import Path; from flowcei.events.source import open_events; "
        "all(len(part) for part in open_events(Path(sys.argv[1])).chunks()); "
        # Not of `resource`: that counts the process which started this one.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    show("    the same in parts, peak memory of the process", float(run.stdout) / 2**10, "MiB")


def files(quick: bool) -> None:  # noqa: FBT001
    """Reading events, whole and in parts, and sampling into a file beside the model's own rate."""
    many, some, n = (20_000, 2_000, 100) if quick else (1_000_000, 100_000, 100)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        events = flowcei.simulate("ocs", many, noise="1%", seed=1)
        for ending in ("csv", "h5"):
            _reading(events, folder / f"events.{ending}")
        few = events[:some]
        model = flowcei.load()
        _, condition = model.enter(few.momenta, model.sigma(few, None))
        generator = np.random.default_rng(1)
        step = max(1, 200_000 // n)

        def own() -> None:
            for first in range(0, len(few), step):
                model.sampler.draw(condition[first : first + step], n, latent="prior", generator=generator)

        # As long as the command below, so that what else the machine does counts for both.
        start = time.perf_counter()
        own()
        rate = len(few) * n / (time.perf_counter() - start)
        show(f"samples with density of the bundled model alone, {n} an event", rate, "samples/s")
        flowcei.write_events(events[:some], folder / "some.h5")
        words = ("sample", "--momenta", str(folder / "some.h5"), "-n", str(n), "--model", "bundled")
        start = time.perf_counter()
        flow(*words, "--seed", "1", "-o", str(folder / "samples.h5"))
        took = time.perf_counter() - start
        show(f"flowcei sample -n {n} of {some} events to .h5, start included", some * n / took, "samples/s")
        show("    of the model's own rate", 100 * some * n / took / rate, "%")


def workers(quick: bool) -> None:  # noqa: FBT001
    """Whole commands with two workers beside one process, and with workers that are killed; same bytes?"""
    events, n, deaths = ("2000", "20", 2) if quick else ("100000", "100", 20)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        flow("simulate", "ocs", "-n", events, "--noise", "1%", "--seed", "1", "-o", str(folder / "e.h5"))
        given = str(folder / "e.h5")
        sample = ["sample", "--momenta", given, "-n", n, "--weigh", "--seed", "1", "--model", "bundled"]
        jobs = {
            "sample": ([*sample, "-o"], "s.h5", "s.h5"),
            "modes": (["modes", str(folder / "one thread-s.h5"), "-o"], "m.csv", "m.csv"),
            "calibrate": (["calibrate", "bundled", "--data", given, "-n", "50", "-o"], "c", "c/coverage.csv"),
        }
        one = {"OMP_NUM_THREADS": "1"}
        ways = {"one thread": ([], one), "one process": ([], {}), "--workers 2": (["--workers", "2"], {})}
        print(
            f"{'s of wall clock, starts included':34s} {'  '.join(ways):>40s}   ratio to the first two, bytes"
        )
        for job, (words, output, result) in jobs.items():
            times = []
            for way, (more, env) in ways.items():
                began = time.perf_counter()
                line = [*words, str(folder / f"{way}-{output}"), "--overwrite", *more]
                command = [sys.executable, "-m", "flowcei", *line]
                subprocess.run(command, check=True, capture_output=True, env=os.environ | env)
                times.append(time.perf_counter() - began)
            made = {(folder / f"{way}-{result}").read_bytes() for way in ways}
            same = "equal" if len(made) == 1 else "DIFFERENT"
            told = "  ".join(f"{took:11.1f}" for took in times)
            print(f"{job:30s} {told:>40s}   {times[0] / times[2]:.2f} {times[1] / times[2]:.2f} {same}")
        count = 0
        while count < deaths:
            line = [*sample, "-o", str(folder / "k.h5"), "--overwrite", "--workers", "2"]
            count += killed([sys.executable, "-m", "flowcei", *line], deaths - count)
        equal = (folder / "k.h5").read_bytes() == (folder / "one thread-s.h5").read_bytes()
        print(f"sample with {count} workers killed: {'equal bytes' if equal else 'DIFFERENT BYTES'}")


def killed(command: list[str], most: int) -> int:
    """Run a command, kill its workers one by one while it works, and return how many there were."""
    rng, count = np.random.default_rng(most), 0
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(rng.uniform(5.0, 10.0))  # seconds; a worker takes some to start
            with contextlib.suppress(OSError):  # it ended meanwhile
                workers = [worker for first in children(process.pid) for worker in children(first)]
                if workers and count < most:
                    os.kill(int(rng.choice(workers)), signal.SIGKILL)
                    count += 1
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return count


def children(process: int) -> list[int]:
    """Return the processes that one has started."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(k) for task in tasks for k in (task / "children").read_text().split()]


def commands(quick: bool) -> None:  # noqa: FBT001
    """Start of the command line, and the demo: time and peak memory."""
    show("flowcei --help", seconds(lambda: flow("--help"), 3), "s")
    if quick:
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        flow("demo", "-o", str(Path(folder) / "demo"))
        show("flowcei demo", time.perf_counter() - start, "s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    show("largest peak memory of all commands so far", peak, "GiB")
