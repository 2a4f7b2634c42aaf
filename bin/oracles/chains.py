"""Long chains: a random walk that knows nothing of flows, mixtures or weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_CHUNK = 10  # steps between two looks at the covariance, while it is adapted


def long_chains(
    log_density: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    start: NDArray[np.float64],
    *,
    burn: int,
    kept: int,
    thin: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return states of Metropolis' random walk, C chains of each of E densities.

    While it burns in, steps have the covariance of the chains of an event; then they have that of its end
    (H. Haario et al., Bernoulli 7, 223 (2001), with chains for a history).

    Args:
        log_density: Of points (E, C, D), (E, C).
        start: (E, C, D), of which none lies where the density is 0.
        burn: Steps that are thrown away.
        kept: States of a chain that are returned.
        thin: Steps between two of them.
        seed: Of all steps.

    Returns:
        (E, C * kept, D).

    Example:
        >>> x = np.random.default_rng(0).uniform(1.0, 2.0, (1, 50, 2))
        >>> out = long_chains(lambda x: -0.5 * (x**2).sum(axis=2), x, burn=400, kept=40, thin=20, seed=1)
        >>> np.allclose(out.mean(axis=1), 0.0, atol=0.2), np.allclose(out.std(axis=1), 1.0, atol=0.15)
        (True, True)
    """
    rng, x = np.random.default_rng(seed), start.copy()
    e, c, d = x.shape
    height, out = log_density(x), []
    factor = np.zeros((e, d, d))
    for step in range(burn + kept * thin):
        if step % _CHUNK == 0 and step <= burn:
            apart = x - x.mean(axis=1, keepdims=True)
            covariance = np.swapaxes(apart, 1, 2) @ apart / c
            size = np.einsum("edd->e", covariance)[:, None, None] / d
            factor = np.linalg.cholesky(covariance + 1e-8 * size * np.eye(d))
        scale = 2.38 / np.sqrt(d) * np.exp(rng.normal(-0.3, 0.6, (e, c, 1)))
        new = x + scale * (rng.standard_normal(x.shape) @ np.swapaxes(factor, 1, 2))
        higher = log_density(new)
        moved = np.log(rng.random((e, c))) < higher - height
        x, height = np.where(moved[..., None], new, x), np.where(moved, higher, height)
        if step >= burn and (step - burn) % thin == thin - 1:
            out.append(x)
    return np.concatenate(out, axis=1)
