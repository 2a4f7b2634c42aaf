"""Samples of ensembles of OCS that are known exactly, for `bin/measure-population`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from linear import OCS, Linear, samples_of, with_origin

import flowcei

WIDEST = 40.0  # degrees
FLAT = {
    "kind": "internal",
    "zmatrix": [
        {"atom": "c"},
        {"atom": "o", "from": "c", "length": {"uniform": [1.5, 3.2]}},
        {
            "atom": "s",
            "from": "c",
            "length": {"uniform": [1.8, 7.0]},
            "angle_to": "o",
            "angle": {"bend": WIDEST},
        },
    ],
}


def measured(
    molecule: flowcei.Molecule, x: np.ndarray, level: float, rng: np.random.Generator
) -> flowcei.Events:
    """Events of geometries, with noise of a level over the rms component."""
    ions = molecule.masses, molecule.charges
    p = np.asarray(flowcei.asymptotic_momenta(x, *ions, accuracy=1e-6), np.float64)
    rms = np.sqrt((p**2).mean(axis=(1, 2)))[:, None, None]
    return flowcei.Events(molecule, p + level * rms * rng.standard_normal(p.shape))


def linear(truth: Linear, events: int, count: int, rng: np.random.Generator) -> flowcei.PosteriorSamples:
    """Samples of events of a truth, with momenta of geometries of it and 1 % of noise."""
    momenta = measured(OCS, truth.geometries(events, rng), 0.01, rng).momenta
    return replace(truth.samples(truth.measured(events, rng), count, rng), momenta=momenta)


def told(
    truth: Linear, mean: np.ndarray, count: int, rng: np.random.Generator, near: np.ndarray | None = None
) -> flowcei.PosteriorSamples:
    """Samples under `FLAT` of events with a mean r(CS) (E,) each; noise of it as of OCS at 1 %.

    Noise is that about `near`, (E,), which the true delay must not be seen from: a law takes it for known.
    """
    n, near = len(mean), mean if near is None else near
    noise = np.stack([np.full(n, truth.noise[0]), 0.11 + 0.063 * (near - 2.95)], axis=1)
    lengths, bends = replace(truth, noise=np.zeros(2)).measured(n, rng)
    y = lengths + noise * rng.standard_normal((n, 2)) + np.stack([np.zeros(n), mean - truth.mean[1]], axis=1)
    z = y[:, None] + noise[:, None] * rng.standard_normal((n, count, 2))
    narrow = 1.0 / (1.0 / WIDEST**2 + 1.0 / truth.bend_noise**2)
    own = (narrow / truth.bend_noise**2 * bends)[:, None] + np.sqrt(narrow) * rng.standard_normal(
        (n, count, 2)
    )
    return with_origin(samples_of(z, np.linalg.norm(own, axis=2)), prior=FLAT)


def two_laws(events: int, count: int, rng: np.random.Generator) -> flowcei.PosteriorSamples:
    """Samples of 30 % of events with r(CS) = 4.0 bohr, more bent, and of others with 2.95."""
    blocks = []
    for r_cs, bend, share in ((2.95, 6.0, 0.7), (4.0, 12.0, 0.3)):
        truth, n = Linear(np.array([2.25, r_cs]), np.diag([0.0064, 0.01]), bend), round(share * events)
        momenta = measured(OCS, truth.geometries(n, rng), 0.01, rng).momenta
        blocks.append(replace(told(truth, np.full(n, r_cs), count, rng), momenta=momenta))
    return flowcei.PosteriorSamples.concatenate(blocks)


def along(delays: np.ndarray, each: int, count: int, rng: np.random.Generator) -> flowcei.PosteriorSamples:
    """Samples of as many events at each delay, over which r(CS) grows, with the prior of the molecule."""
    blocks = []
    for delay in delays:
        one = linear(Linear(mean=np.array([2.25, 2.95 + 0.0025 * delay])), each, count, rng)
        blocks.append(replace(one, columns=one.columns | {"delay": np.full(each, delay)}))
    return flowcei.PosteriorSamples.concatenate(blocks)
