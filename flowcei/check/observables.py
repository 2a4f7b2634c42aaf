"""What of an event can be compared with a prediction: numbers of its momenta alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from flowcei.experiment.detector import NOISE_FLOOR, rms_component
from flowcei.experiment.likelihood import centred_momenta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.molecules.molecule import Molecule

MOST_EVENTS = 20_000
"""Events of a run that are compared: with more, differences too small to matter become significant."""

_ALL_PAIRS = 10  # ions: of larger molecules only angles between bonded ions are compared
_DITHER = 1e-4  # noise-free rigid molecules differ by rounding alone, which is no difference


@dataclass(frozen=True, eq=False)
class Observables:
    """Numbers of B events.

    Attributes:
        shapes: Name -> (B,) for ``log KER`` (hartree), ``share of c`` (of the KER) and
            ``cos(c, o)`` of the angle between two momenta; like ions are sorted by momentum.
        total: Sum of the momenta, (B, 3), hbar / bohr.
        sigma: Noise of a momentum component that is stated, (B,), hbar / bohr.
        axis_share: Share of the KER along each lab axis, (B, 3).
        least: Noise of a momentum component that rounding may have, (B,), hbar / bohr.
    """

    shapes: dict[str, NDArray[np.float64]]
    total: NDArray[np.float64]
    sigma: NDArray[np.float64]
    axis_share: NDArray[np.float64]
    least: NDArray[np.float64]

    @property
    def log_ker(self) -> NDArray[np.float64]:
        """Log of the KER in hartree, (B,)."""
        return self.shapes["log KER"]


def observables_of(
    molecule: Molecule, momenta: NDArray[np.float64], sigma: NDArray[np.float64]
) -> Observables:
    """Return the observables of events.

    Args:
        molecule: Its masses, labels and identical ions.
        momenta: (B, N, 3), hbar / bohr.
        sigma: Stated noise of a momentum component, (B,), hbar / bohr.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("co2", 5, seed=1)
        >>> list(observables_of(e.molecule, e.momenta, e.sigma).shapes)[:4]
        ['log KER', 'share of c', 'share of o1', 'share of o2']
    """
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


class Thinning:
    """Keeps events from the whole length of a stream, at most `most`, without knowing its length.

    Every k-th event is kept; k doubles when there are too many.

    Example:
        >>> import flowcei
        >>> thinning = Thinning(4)
        >>> for _ in thinning.watch([flowcei.simulate("ocs", 10, seed=1)]):
        ...     pass
        >>> len(thinning.events()), thinning.count
        (3, 10)
    """

    def __init__(self, most: int = MOST_EVENTS) -> None:
        self.count = 0
        self._most, self._step = most, 1
        self._parts: list[Events] = []

    def watch(self, chunks: Iterable[Events]) -> Iterator[Events]:
        """Yield chunks as they come, and keep some of their events."""
        for chunk in chunks:
            self._keep(chunk)
            yield chunk

    def _keep(self, chunk: Events) -> None:
        first = -self.count % self._step
        self.count += len(chunk)
        if first < len(chunk):
            # A copy: a view would keep the whole chunk in memory.
            self._parts.append(chunk[np.arange(first, len(chunk), self._step)])
        while sum(map(len, self._parts)) > self._most:
            self._step *= 2
            self._parts = [type(chunk).concatenate(self._parts)[::2]]

    def events(self) -> Events | None:
        """Return the events that were kept, None where there was none."""
        return type(self._parts[0]).concatenate(self._parts) if self._parts else None
