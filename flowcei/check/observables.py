"""What of an event can be compared with a prediction: numbers of its momenta alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.experiment.likelihood import centred_momenta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule

MOST_EVENTS = 20_000
"""Events of a run that are compared: with more, differences too small to matter become significant."""

_ALL_PAIRS = 10  # ions: of larger molecules only angles between bonded ions are compared
_DITHER = 1e-4  # noise-free rigid molecules differ by rounding alone, which is no difference


@dataclass(frozen=True, eq=False)
class Observables:
    """Numbers of B events."""

    # log KER (hartree), share of c (of the KER), cos(c, o) -> (B,); like ions are sorted by momentum
    shapes: dict[str, NDArray[np.float64]]
    total: NDArray[np.float64]  # sum of the momenta, (B, 3), hbar / bohr
    sigma: NDArray[np.float64]  # stated noise of a component, (B,), hbar / bohr
    axis_share: NDArray[np.float64]  # share of the KER along each lab axis, (B, 3)
    least: NDArray[np.float64]  # noise that rounding may have, (B,), hbar / bohr

    @property
    def log_ker(self) -> NDArray[np.float64]:
        """Log of the KER in hartree, (B,)."""
        return self.shapes["log KER"]


def observables_of(
    molecule: Molecule, momenta: NDArray[np.float64], sigma: NDArray[np.float64]
) -> Observables:
    """Return the observables of momenta (B, N, 3) with stated noise sigma (B,), hbar / bohr."""
    n, labels = len(molecule), molecule.labels
    p = _sorted(centred_momenta(momenta, molecule.masses), molecule.identical)
    energy = p**2 / (2.0 * molecule.masses[:, None])
    ker = energy.sum(axis=(1, 2))
    shapes = {"log KER": np.log(ker)}
    if n > 2:  # two ions share the energy by their masses, back to back
        share = energy.sum(axis=2) / ker[:, None]
        shapes |= {f"share of {label}": share[:, k] for k, label in enumerate(labels)}
        size = np.maximum(np.linalg.norm(p, axis=2), 1e-300)
        for i, j in combinations(range(n), 2) if n <= _ALL_PAIRS else molecule.bonds:
            cosine = np.einsum("bx,bx->b", p[:, i], p[:, j]) / (size[:, i] * size[:, j])
            shapes[f"cos({labels[i]}, {labels[j]})"] = cosine
    rng = np.random.default_rng(len(p))
    shapes = {name: values + _DITHER * rng.random(len(p)) for name, values in shapes.items()}
    least = NOISE_FLOOR * rms_component(momenta)
    axis_share = energy.sum(axis=1) / ker[:, None]
    return Observables(shapes, momenta.sum(axis=1), np.maximum(sigma, least), axis_share, least)


def _sorted(p: NDArray[np.float64], identical: tuple[tuple[int, ...], ...]) -> NDArray[np.float64]:
    """Return momenta with identical ions in the order of falling size: labels of a file are arbitrary."""
    p = p.copy()
    for group in map(list, identical):
        order = np.argsort(-np.linalg.norm(p[:, group], axis=2), axis=1, kind="stable")
        p[:, group] = np.take_along_axis(p[:, group], order[:, :, None], axis=1)
    return p
