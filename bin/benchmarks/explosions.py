"""The simulator: rates, errors against DOP853, and other simulators beside it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
from scipy.integrate import solve_ivp

import flowcei
from benchmarks.timing import cpu_rates, seconds
from flowcei.physics.explosion import setting_for
from flowcei.physics.priors import BallPrior, build_prior
from flowcei.units import DALTON

SECOND = 1.0 / 2.4188843265857e-17  # in atomic units
METRE = 1.0 / 5.29177210903e-11

# Acetone, C3OH6, bohr: bonds of 2.3 to 2.9 bohr; a molecule of ten ions, no more is meant.
ACETONE = 1.8897261 * np.array(
    [[0, 0, 0], [1.285, -0.79, 0], [-1.285, -0.79, 0], [0, 1.22, 0]]
    + [[2.15, -0.15, 0], [-2.15, -0.15, 0]]
    + [[x, -1.44, z] for x in (1.32, -1.32) for z in (0.88, -0.88)]
)
ACETONE_MASSES = np.array([12.011] * 3 + [15.999] + [1.008] * 6) * DALTON


def cases(quick: bool) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray, int]]:  # noqa: FBT001
    """Return name, geometries, masses, charges and number of reference solutions."""
    share = 20 if quick else 1
    rng = np.random.default_rng(0)
    ocs, ch4 = flowcei.Molecule.load("ocs"), flowcei.Molecule.load("ch4")
    ten = np.array([12.011] * 4 + [1.008] * 4 + [15.999, 35.45]) * DALTON
    moved = ACETONE + 0.15 * rng.normal(size=(100_000 // share, 10, 3))
    return [
        (
            "OCS equilibrium",
            build_prior(ocs, None).sample(1_000_000 // share, rng),
            ocs.masses,
            ocs.charges,
            40,
        ),
        ("OCS broad", build_prior(ocs, "broad").sample(1_000_000 // share, rng), ocs.masses, ocs.charges, 40),
        (
            "CH4 equilibrium",
            build_prior(ch4, None).sample(500_000 // share, rng),
            ch4.masses,
            ch4.charges,
            20,
        ),
        ("acetone, 0.15", moved, ACETONE_MASSES, np.ones(10), 6),
        ("N = 10, ball", BallPrior(10, 5.0, 0.5).sample(100_000 // share, rng), ten, np.ones(10), 6),
    ]


def peers(m: np.ndarray, q: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return other simulators, of one geometry (N, 3) at a time."""
    peers = {
        "SciPy RK45, rtol 1e-8, t 1e10": partial(scipy_momenta, m=m, q=q, method="RK45", rtol=1e-8),
        "SciPy DOP853, rtol 1e-13, tail": partial(oracle.momenta, masses=m, charges=q),
    }
    return peers | ({"PyCESim, t 1 ns": partial(pycesim_momenta, m=m, q=q)} if find_spec("PyCESim") else {})


def each(integrate: Callable[[np.ndarray], np.ndarray], geometries: np.ndarray) -> np.ndarray:
    """Return momenta of geometries, one after the other."""
    return np.array([integrate(geometry) for geometry in geometries])


def errors(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the mean and the largest |dp| / |p| of events."""
    off = np.linalg.norm(found - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
    return float(off.mean()), float(off.max())


def simulator(quick: bool) -> None:  # noqa: FBT001
    """Explosions a second on one thread and two, errors against DOP853, others beside it."""
    print(f"{'engine':34s} {'geometries':16s} {'1 thread':>9s} {'2 threads':>9s}", end=" ")
    print(f"{'x RK45':>8s} {'error: mean':>11s} {'max':>8s}      (events/s; |dp|/|p|)")
    for name, x, m, q, known in cases(quick):
        count = max(3, known // (8 if quick else 1))
        truth = np.array([oracle.momenta(g, m, q) for g in x[:count]])
        rates: dict[str, float] = {}
        rows: list[tuple[str, float, float, float, float]] = []
        few = x[: min(count, 5)]
        for engine, integrate in peers(m, q).items():
            rates[engine] = len(few) / seconds(partial(each, integrate, few), 1)
            rows.append((engine, rates[engine], np.nan, *errors(each(integrate, few), truth[: len(few)])))
        for accuracy in (1e-4, 1e-5, 3e-6, 1e-6, 3e-8, 1e-8, 1e-9, 1e-10):
            run = partial(flowcei.asymptotic_momenta, masses=m, charges=q, accuracy=accuracy)
            kind = "f32" if setting_for(accuracy).dtype is np.float32 else "f64"
            one, two = (len(x) / seconds(partial(run, x, threads=t)) for t in (1, 2))
            off = errors(run(x[:count]), truth)
            rows.append((f"flowcei, accuracy {accuracy:g} ({kind})", one, two, *off))
        few = x[: len(x) // 10]
        one, two = (
            len(few) / seconds(partial(flowcei.momenta_jacobian, few, m, q, threads=t)) for t in (1, 2)
        )
        rows.append(("flowcei, Jacobian, 1e-9 (f64)", one, two, *jacobian_errors(x[:count], m, q)))
        base = rates["SciPy RK45, rtol 1e-8, t 1e10"]
        for engine, one, two, mean, worst in rows:
            print(
                f"{engine:34s} {name:16s} {one:9.3g} {two:9.3g} {one / base:8.2g} {mean:11.1e} {worst:8.1e}",
                flush=True,
            )
    print(f"\ncold start, a process that simulates OCS:\n{cold_start()}")


def jacobian_errors(x: np.ndarray, m: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """Return the mean and the largest relative error against central differences."""
    n, h = len(m), 1e-3
    found, expected = flowcei.momenta_jacobian(x, m, q), np.empty((len(x), 3 * n, 3 * n))
    for k in range(3 * n):
        step = h * np.eye(3 * n)[k].reshape(n, 3)
        at = [flowcei.asymptotic_momenta(x + t * step, m, q, accuracy=1e-10) for t in (2, 1, -1, -2)]
        slope = (8 * (at[1] - at[2]) - (at[0] - at[3])) / (12 * h)
        expected[:, :, k] = slope.reshape(len(x), -1)
    return errors(found, expected)


def scipy_momenta(g: np.ndarray, m: np.ndarray, q: np.ndarray, method: str, rtol: float) -> np.ndarray:
    """Return momenta (N, 3) at t = 1e10 by an integrator of SciPy in plain time."""
    n = len(m)

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        r = state[: 3 * n].reshape(n, 3)
        gap = r[:, None] - r[None]
        distance = np.linalg.norm(gap, axis=-1) + np.eye(n)
        force = ((q[:, None] * q / distance**3)[..., None] * gap).sum(axis=1)
        return np.concatenate([state[3 * n :], (force / m[:, None]).ravel()])

    start = np.concatenate([g.ravel(), np.zeros(3 * n)])
    end = solve_ivp(slope, (0, 1e10), start, method=method, rtol=rtol, atol=1e-10).y[3 * n :, -1]
    return m[:, None] * end.reshape(n, 3)


def pycesim_momenta(g: np.ndarray, m: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return momenta (N, 3) at 1 ns by PyCESim, which works in SI units."""
    from PyCESim.PyCESim import CESim, e, u

    start = SimpleNamespace(
        samp_y0_list=[np.concatenate([g.ravel() / METRE, np.zeros(g.size)])],
        samp_charges_list=[q * e],
        samp_masses_list=[m / DALTON * u],
        samp_channel_list=[],
    )
    run = CESim(start)
    run.set_timebins(np.linspace(0.0, 1e-9, 3))
    run.run_sims(make_df=False)
    return m[:, None] * run.output_list[0][:, :3] * METRE / SECOND


def engine(program: str, quick: bool) -> None:  # noqa: FBT001
    """`coulomb_generate_dataset` of github.com/nathan-albin/coulomb-explosion, and ours on its geometries."""
    count = 20_000 if quick else 400_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "explosions.bin"
        line = [program, "--out", str(path), "--sims", str(count)]
        # The energy is below its start at once: what it takes to draw geometries and to write.
        idle = min(cpu_seconds([*line, "--pe-stop", "1"]) for _ in range(3))
        took = min(cpu_seconds(line) for _ in range(3)) - idle
        about = json.loads(Path(f"{path}.meta.json").read_text())
        ions = about["n_atoms"], 3
        fields = [("x", "<f4", ions), ("p", "<f4", ions), ("steps", "<u4"), ("converged", "u1")]
        events = np.fromfile(path, fields)
    x, m, q = events["x"].astype(float), np.array(about["masses_amu"]) * DALTON, np.array(about["charges"])
    few = slice(20 if quick else 400)
    truth = np.array([oracle.momenta(g, m, q) for g in x[few]])
    theirs = f"{Path(program).name}, rtol {about['rtol']:g}", count / took, *errors(events["p"][few], truth)
    print(f"{''.join(about['symbols'])}, CPU time of one thread of {count} events; |dp|/|p| of {len(truth)}")
    print(f"{'engine':44s} {'events/s':>9s} {'ratio':>6s} {'error: mean':>11s} {'max':>8s}")
    rows = [theirs]
    for accuracy in (1e-4, 1e-5, 3e-6):
        run = partial(flowcei.asymptotic_momenta, masses=m, charges=q, accuracy=accuracy, threads=1)
        (rate,) = cpu_rates([partial(run, x)], count)
        rows.append((f"flowcei, accuracy {accuracy:g}", rate, *errors(run(x[few]), truth)))
    for name, rate, mean, worst in rows:
        print(f"{name:44s} {rate:9.3g} {rate / theirs[1]:6.2f} {mean:11.1e} {worst:8.1e}")


def cpu_seconds(line: list[str]) -> float:
    """Run a program; return its seconds of CPU."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, capture_output=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime


def cold_start() -> str:
    """Return the times of a first process, which compiles, and of a second."""
    lines = []
    for n in (3, 5, 10):
        code = (
            f"import numpy, flowcei; n = {n}; x = numpy.random.default_rng(0).normal(size=(4, n, 3));"
            "flowcei.asymptotic_momenta(x, numpy.ones(n), numpy.ones(n), accuracy=1e-5)"
        )
        with tempfile.TemporaryDirectory() as folder:
            times = []
            for _ in range(2):
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-c", code],
                    check=True,
                    env=os.environ | {"FLOWCEI_CACHE_DIR": folder},
                    capture_output=True,
                )
                times.append(time.perf_counter() - began)
        lines.append(f"  N = {n:2d}: {times[0]:.1f} s, from the cache {times[1]:.2f} s")
    return "\n".join(lines)
