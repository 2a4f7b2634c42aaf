"""Posteriors that are known exactly: normal lengths and a normal bend of OCS, with normal noise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from flowcei import Molecule, PosteriorSamples
from flowcei.physics.priors.base import random_orientation

OCS = Molecule.load("ocs")
PRIOR_MEAN, PRIOR_SD, PRIOR_BEND = np.array([2.19, 2.95]), np.array([0.15, 0.18]), 8.5  # of ocs.toml


@dataclass(frozen=True)
class Linear:
    """A truth, and the noise that its lengths (bohr) and bends (degrees) are measured with."""

    mean: np.ndarray = field(default_factory=lambda: np.array([2.25, 3.3]))
    covariance: np.ndarray = field(default_factory=lambda: np.array([[0.0064, 0.004], [0.004, 0.01]]))
    bend: float = 6.0
    noise: np.ndarray = field(default_factory=lambda: np.array([0.05, 0.08]))
    bend_noise: float = 3.0

    def measured(self, events: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Measured lengths (E, 2) and bends as vectors (E, 2)."""
        lengths = rng.multivariate_normal(self.mean, self.covariance, events)
        bends = self.bend * rng.standard_normal((events, 2))
        noise = self.noise * rng.standard_normal(lengths.shape)
        return lengths + noise, bends + self.bend_noise * rng.standard_normal(bends.shape)

    def geometries(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws of the truth (count, N, 3), bohr."""
        quiet = replace(self, noise=np.zeros(2), bend_noise=0.0).measured(count, rng)
        x = samples_of(quiet[0][:, None], np.linalg.norm(quiet[1], axis=1)[:, None]).positions[:, 0]
        return random_orientation(x.astype(np.float64), rng)

    def samples(
        self, measured: tuple[np.ndarray, np.ndarray], n: int, rng: np.random.Generator
    ) -> PosteriorSamples:
        """Draws of the exact posterior under the prior of ocs.toml."""
        lengths, bends = measured
        width = 1.0 / (1.0 / PRIOR_SD**2 + 1.0 / self.noise**2)
        centre = width * (PRIOR_MEAN / PRIOR_SD**2 + lengths / self.noise**2)
        z = centre[:, None] + np.sqrt(width) * rng.standard_normal((len(lengths), n, 2))
        narrow = 1.0 / (1.0 / PRIOR_BEND**2 + 1.0 / self.bend_noise**2)
        vector = (narrow / self.bend_noise**2 * bends)[:, None] + np.sqrt(narrow) * rng.standard_normal(
            (len(lengths), n, 2)
        )
        return samples_of(z, np.linalg.norm(vector, axis=2))

    def oracle(self, measured: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """The most likely mean, covariance and bend, in closed form."""
        lengths, bends = measured
        covariance = np.cov(lengths.T, bias=True) - np.diag(self.noise**2)
        return lengths.mean(axis=0), covariance, float(np.sqrt((bends**2).mean() - self.bend_noise**2))


def samples_of(z: np.ndarray, bend: np.ndarray) -> PosteriorSamples:
    """Exact samples with lengths z (E, n, 2), bohr, and bends (E, n), degrees; momenta mean nothing."""
    x = np.zeros((*z.shape[:2], 3, 3))
    x[..., 1, 0], angle = -z[..., 0], np.radians(bend)
    x[..., 2, 0], x[..., 2, 1] = z[..., 1] * np.cos(angle), z[..., 1] * np.sin(angle)
    events = len(z)
    momenta = np.tile(OCS.equilibrium[None], (events, 1, 1)) * 50.0
    return PosteriorSamples(
        OCS,
        momenta,
        x,
        None,
        np.arange(events),
        np.full(events, 0.1),
        {"prior": OCS.prior_table("equilibrium"), "noise_relative": True},
        columns={"r_hat": np.ones(events)},
    )


def with_origin(samples: PosteriorSamples, **entries: object) -> PosteriorSamples:
    """The same samples, of another origin."""
    return replace(samples, origin=samples.origin | entries)
