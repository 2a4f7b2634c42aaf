"""Absurd events: what no experiment measures, but a wrong unit, column or label makes of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from flowcei.errors import UsageError
from flowcei.events.container import Events
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import followed_momenta
from flowcei.physics.priors import build_prior
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED
from flowcei.posterior.samples import PosteriorSamples

_NAMES = ("ocs", "h2o", "co2", "ch2o", "c2h2", "ch4")


def absurd_samples(seed: int, events: int = 20, n: int = 6) -> PosteriorSamples:
    """Return samples of absurd geometries, charges, momenta, noise and prior, with made-up densities."""
    rng = np.random.default_rng(seed)
    molecule = Molecule.load(str(rng.choice(_NAMES)))
    molecule = replace(molecule, charges=10.0 ** rng.uniform(-1.0, 1.7, len(molecule)), name="absurd")
    x = rng.standard_normal((events, n, len(molecule), 3)) * 10.0 ** rng.uniform(-3, 3, (events, 1, 1, 1))
    for row, kind in zip(x, rng.integers(6, size=events), strict=True):
        if kind == 0:  # nearly on a line
            row[:] = row * [1.0, 10.0 ** rng.uniform(-20, -1), 0.0]
        elif kind in (1, 2):  # two ions in one place, or next to it
            row[:, 1] = row[:, 0] + (kind - 1) * 1e-9
        elif kind == 3:
            row[:] = 0.0
        elif kind == 4:
            row[:] = row * 10.0 ** rng.uniform(-40, 30)
    p = _momenta(rng, x[:, 0], molecule)
    sigma = _noise(rng, p)
    spec = build_prior(molecule).spec()
    if rng.random() < 0.5:
        ball = {"kind": "ball", "radius": 10.0 ** rng.uniform(-1, 3), "minimal_separation": 0.0}
        with suppress(UsageError):
            spec = build_prior(molecule, ball).spec()
    origin = {"prior": spec, "noise_relative": bool(rng.random() < 0.5)}
    density = 100.0 * rng.standard_normal((events, n))
    ids = np.arange(events)
    return PosteriorSamples(molecule, p, x.astype(np.float32), density, ids, sigma, origin=origin)


def absurd_events(seed: int, molecule: Molecule, count: int = 20) -> Events:
    """Return events with absurd momenta, among those that `Events` takes."""
    rng = np.random.default_rng([seed, 1])
    x = rng.standard_normal((count, len(molecule), 3)) * 10.0 ** rng.uniform(-3, 3, (count, 1, 1))
    p = _momenta(rng, x, molecule)
    with np.errstate(over="ignore"):
        squares = ((p - p.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    taken = (squares > 0) & np.isfinite(squares)
    taken[0], p[0] = True, np.linspace(1.0, 2.0, p[0].size).reshape(p[0].shape)
    p = p[taken]
    return Events(molecule, p, sigma=_noise(rng, p))


def answer(samples: PosteriorSamples) -> None:
    """Ask everything of samples, and check what holds of any answer."""
    refinement, modes = samples.refine(keep_flagged=True), samples.modes(keep_flagged=True)
    assert set(np.unique(refinement.status)) <= {CONVERGED, STALLED, OUTSIDE}
    assert not np.isnan(refinement.error).any()
    total = np.bincount(modes.event, modes.probability, minlength=len(samples))
    assert ((np.abs(total - 1.0) < 1e-9) | (total == 0.0)).all()
    assert (modes.count()[~samples.answered] == 0).all()
    modes.to_dataframe()
    if samples.answered.any():
        spread = samples.spread(keep_flagged=True)
        spread.overall()
        spread.covariance_in_words()
    samples.mean(keep_flagged=True)
    assert samples.floor().shape == (len(samples), len(samples.molecule))


def _momenta(rng: np.random.Generator, x: np.ndarray, molecule: Molecule) -> np.ndarray:
    """Return what these geometries (E, N, 3) explode to, and worse."""
    p = np.nan_to_num(followed_momenta(x, molecule.masses, molecule.charges, accuracy=1e-6))
    p *= 10.0 ** rng.uniform(-6, 6, len(p))[:, None, None]
    for row, kind in zip(p, rng.integers(9, size=len(p)), strict=True):
        if kind == 0:  # on a line
            row[:, 1:] = 0.0
        elif kind == 1:  # one ion at rest
            row[rng.integers(len(row))] = 0.0
        elif kind == 2:  # all alike
            row[:] = row[0]
        elif kind == 3:  # a huge sum
            row[:] = row + 1e3 * np.abs(row).max()
        elif kind == 4:
            row[:] = 0.0
        elif kind == 5:  # larger ones are refused by `Events`
            row[:] = rng.standard_normal(row.shape) * 10.0 ** rng.uniform(-140, 140)
        elif kind == 6:
            row[:] = row * rng.uniform(0.0, 2.0, row.shape)
    return p


def _noise(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rms = np.sqrt((p**2).mean(axis=(1, 2)))
    sigma = np.where(np.isfinite(rms), rms, 1.0) * 10.0 ** rng.uniform(-12, 6, len(p))
    sigma[rng.random(len(p)) < 0.1] = 0.0
    return sigma
