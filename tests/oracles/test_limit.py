"""Importance sampling by adapted kernels, against reference posteriors of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import flowcei
from oracles.limit import Bank

DATA = Path(__file__).parents[1] / "data"


class _OfAnySource(Bank):
    """The likelihood of centred momenta, which the reference has: the source is not known."""

    def log_likelihood(
        self, p: np.ndarray, measured: np.ndarray, there: list[int], level: float
    ) -> np.ndarray:
        shares = self.molecule.masses / self.molecule.masses.sum()
        centre = np.eye(len(shares)) - shares[:, None]
        sigma = level * np.sqrt((p**2).mean(axis=(1, 2)))
        r = centre @ (p - measured)
        square = np.einsum("mia,ij,mja->m", r, np.linalg.pinv(centre @ centre.T), r)
        return -0.5 * square / sigma**2 - 3 * (len(there) - 1) * np.log(sigma)


def test_adapted_kernels_find_the_reference_posterior() -> None:
    """Means and spreads of CH2O."""
    exact = flowcei.read_samples(DATA / "reference-ch2o.h5")[:3]
    rng = np.random.default_rng(0)
    bank = _OfAnySource(exact.molecule, exact.known_prior(), 5_000, rng)
    shares = exact.molecule.masses / exact.molecule.masses.sum()
    for momenta, sigma, x in zip(exact.momenta, exact.sigma, exact.positions.astype(float), strict=True):
        level = float(sigma / np.sqrt((momenta**2).mean()))
        mean, spread, effective = bank.posterior(momenta, [0, 1, 2, 3], level, 6000)
        centred = x - np.einsum("i,nij->nj", shares, x)[:, None]
        true = np.sqrt(((centred - centred.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
        assert effective > 500
        assert np.abs(mean - centred.mean(axis=0)).max() < 0.2 * true.max()
        np.testing.assert_allclose(np.sqrt(spread), true, rtol=0.12)
