"""Clocks of functions and commands, and how a table says on what machine it was measured."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}  # an environment
REPEATS = 5
LEAST_SECONDS = 1.0  # a shared machine stalls now and then, and short calls see little else


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the least time of some calls, after one to warm up; of more where they are short."""
    work()
    times: list[float] = []
    while len(times) < repeats or sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@torch.no_grad()
def cpu_rates(works: Sequence[Callable[[], object]], rows: int) -> list[float]:
    """Return rows a second of CPU time, the least of calls that take turns, after one to warm up."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(REPEATS + 1):
        for work, took in zip(works, times, strict=True):
            begun = time.process_time()
            work()
            if turn:
                took.append(time.process_time() - begun)
    return [rows / min(took) for took in times]


def wall(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls, as a clock shows them: what a device does costs no CPU time."""
    work()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def flow(*words: str) -> None:
    """Run a command of flowcei."""
    subprocess.run([sys.executable, "-m", "flowcei", *words], check=True, capture_output=True)


def script(name: str, *words: object) -> None:
    """Run another script of this folder, which prints what it measures."""
    print(f"\nbin/{name} {' '.join(map(str, words))}", flush=True)
    path = Path(__file__).resolve().parents[1] / name
    subprocess.run([sys.executable, str(path), *map(str, words)], check=True)


def machine() -> str:
    """Return what this was measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        table = {name.strip(): value.strip() for name, _, value in lines}
        flags = table.get("flags", "")
        vector = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
        family = f"family {table.get('cpu family')} model {table.get('model')}"
        model = f"{table.get('model name', model)} ({family}), {vector}"
    packages = []
    for name in ("flowcei", "torch", "FrEIA", "numba", "numpy", "scipy", "PyCESim"):
        with contextlib.suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    cores = f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}"
    return f"{model}, {cores}\nPython {platform.python_version()}, {', '.join(packages)}"


def show(name: str, value: float, unit: str) -> None:
    """Print a row as soon as it is known."""
    print(f"{name:76s} {value:10.4g} {unit}", flush=True)


def rusage(words: Sequence[str], **environment: str) -> tuple[float, float, float]:
    """Run a command with one thread; return seconds of CPU and of wall clock, and its peak in GiB."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "flowcei", "-q", *words],
        env=os.environ | ONE_THREAD | environment,
        stdout=subprocess.DEVNULL,
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"flowcei {' '.join(words)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 2**20
