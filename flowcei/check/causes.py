"""Why a run is not what was predicted: what would explain it, tried on the data, best first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.observables import observables_of
from flowcei.check.prediction import predict, predicted_momenta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.comparison import Comparison
    from flowcei.check.observables import Observables
    from flowcei.check.prediction import RunNoise
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior

LEVEL = 0.003
"""The chance, over all comparisons, that a run which is what was predicted is called another."""

PREDICTED = 10_000
"""Events of a prediction."""


_LARGE, _FEWEST = 10.0, 500  # ions from which fewer events are predicted, and how many at least
_ERRORS = ("units", "order", "charges", "molecule")  # every answer is wrong
FAR = 1.25
"""Factor of the momenta, beyond which lengths are wrong by half."""


@dataclass(frozen=True)
class Cause:
    """What may make a run another than the predicted one.

    Attributes:
        kind: ``drift``, ``noise``, ``axis``, ``directions``, ``scale``, ``units``, ``order``,
            ``charges``, ``isotopes``, ``molecule``, ``build-up`` or ``prior``.
        what: In words: the cause with its size, a semicolon, details.
        p_value: Of the comparisons that are left with this cause taken into account, together.
        fits: Whether it explains all of them; else it comes nearest.
        todo: What to do.
        values: The numbers of `what`.
    """

    kind: str
    what: str
    p_value: float
    fits: bool
    todo: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def brief(self) -> str:
        """The cause with its size, without details."""
        return self.what.partition("; ")[0]

    @property
    def severity(self) -> str:
        """``error`` where every answer would be wrong, ``note`` where none is, else ``warning``."""
        if self.kind in ("directions", "drift"):
            return "note"
        far = self.kind == "scale" and abs(np.log(self.values["factor"])) > np.log(FAR)
        return "error" if self.kind in _ERRORS or far else "warning"

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text."""
        return asdict(self) | {"severity": self.severity}


@dataclass(frozen=True, eq=False)
class Run:
    """Events of a run, and what they are believed to be."""

    molecule: Molecule
    prior: GeometryPrior
    momenta: NDArray[np.float64]  # (B, N, 3), hbar / bohr
    noise: RunNoise
    sigma: NDArray[np.float64]  # stated noise of each event, (B,), hbar / bohr
    seed: int  # of the predictions

    def rng(self) -> np.random.Generator:
        """Return a random stream of its own: not that of events simulated with the same seed."""
        return np.random.default_rng((0x72756E, self.seed))

    def free(self, n: int = PREDICTED) -> NDArray[np.float64]:
        """Return noise-free momenta of the prior, (n or fewer, N, 3), hbar / bohr."""
        # An explosion of N ions costs N^2: a tenth of a second for 10, not minutes for 100.
        fewer = max(_FEWEST, int(n * min(1.0, (_LARGE / len(self.molecule)) ** 2)))
        return predicted_momenta(self.molecule, self.prior, min(n, fewer), self.rng())

    def predicted(self, free: NDArray[np.float64]) -> Observables:
        """Return the observables of noise-free momenta as the run would have measured them."""
        return predict(self.molecule, free, self.noise, self.rng())

    def observables(self) -> Observables:
        """Return those of the run itself."""
        return observables_of(self.molecule, self.momenta, self.sigma)


@dataclass(frozen=True)
class Trial:
    """How well the shapes of a run agree with a prediction."""

    p_value: float  # smallest of the comparisons, corrected for their number
    rank: float  # mean log p, and that of the means together: ranks those that fit
    distance: float  # mean Kolmogorov-Smirnov distance: ranks those that do not
    farthest: float  # largest distance of an energy share

    @classmethod
    def of(cls, comparisons: list[Comparison]) -> Trial:
        """Sum up comparisons of shapes."""
        log_p = np.log(np.maximum([c.p_value for c in comparisons], 1e-300))
        shares = [c.distance for c in comparisons if c.observable.startswith("share")]
        return cls(
            smallest(comparisons),
            float(log_p.mean() + log_p[-1]),
            float(np.nanmean([c.distance for c in comparisons])),
            max(shares, default=0.0),
        )


def smallest(comparisons: list[Comparison]) -> float:
    """Return the smallest p-value of several comparisons, corrected for their number (Bonferroni)."""
    return min(1.0, len(comparisons) * min((c.p_value for c in comparisons), default=1.0))
