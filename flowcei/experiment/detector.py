"""What the detector adds: normal noise on every momentum component."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE_FLOOR = 1e-4
"""The smallest relative noise: without any, the posterior is points and has no density."""

_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
_PATTERN = re.compile(rf"^\s*({_NUMBER})\s*(%?)\s*(?:\.\.\s*({_NUMBER})\s*(%?)\s*)?(?:a\.?u\.?)?\s*$")


@dataclass(frozen=True)
class Noise:
    """A range of noise levels, log-uniform; both ends equal for one level.

    Attributes:
        low: Smallest standard deviation of a momentum component.
        high: Largest.
        relative: In units of the event's noise-free rms momentum component, or in atomic
            units (hbar / bohr).
    """

    low: float
    high: float
    relative: bool = True

    def __post_init__(self) -> None:
        """Refuse levels that are not numbers in order."""
        if not 0.0 <= self.low <= self.high < np.inf:
            raise UsageError(f"noise must be 0 <= low <= high; got {self.low} to {self.high}")
        if self.relative and self.high > 1.0:
            msg = f"noise of {self.high:.0%} of the momenta leaves nothing of them; it must be 100 % or less"
            raise UsageError(msg)

    @classmethod
    def parse(cls, text: str | Noise) -> Noise:
        """Read ``"1%"``, ``"0.1%..5%"`` (relative) or ``"0.5"``, ``"0.1..2"`` (a.u.); noise stays as it is.

        Raises:
            UsageError: For anything else.

        Example:
            >>> Noise.parse("0.5%..2%")
            Noise(low=0.005, high=0.02, relative=True)
        """
        if isinstance(text, Noise):
            return text
        found = _PATTERN.match(text)
        if not found or (found[3] and found[2] != found[4]):
            raise UsageError(f"noise {text!r} is not understood: write 1%, 0.1%..5% or, in a.u., 0.5")
        unit = 0.01 if found[2] else 1.0
        low = float(found[1]) * unit
        return cls(low, float(found[3]) * unit if found[3] else low, relative=bool(found[2]))

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        scale, unit = (100.0, "%") if self.relative else (1.0, "")
        ends = [self.low] if self.low == self.high else [self.low, self.high]
        return "..".join(f"{end * scale:.10g}{unit}" for end in ends)

    @property
    def is_zero(self) -> bool:
        """Whether no noise is ever added."""
        return self.high == 0.0

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the level of `n` events, (n,)."""
        if self.low == self.high:
            return np.full(n, self.low)
        if self.low == 0.0:
            raise UsageError("a range of noise is log-uniform and cannot start at 0")
        return np.exp(rng.uniform(np.log(self.low), np.log(self.high), n))

    def apply(
        self, momenta: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Add noise to noise-free momenta.

        Args:
            momenta: (B, N, 3), hbar / bohr.
            rng: Source of randomness.

        Returns:
            The noisy momenta (B, N, 3) and the standard deviation (B,) of each of their
            components as an experimenter would state it, hbar / bohr: a relative level
            refers to the rms of the *noisy* momenta there. The true one would tell a
            network the noise-free rms, which no measurement knows.
        """
        level = self.draw(len(momenta), rng)
        if self.is_zero:
            return momenta, level
        sigma = level * rms_component(momenta) if self.relative else level
        noisy = rng.standard_normal(momenta.shape)
        noisy *= sigma[:, None, None]
        noisy += momenta
        return noisy, level * rms_component(noisy) if self.relative else level

    def sigma(self, momenta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the standard deviation (B,), hbar / bohr, of measured momenta (B, N, 3).

        Raises:
            UsageError: For a range, which is not one level.
        """
        if self.low != self.high:
            raise UsageError(f"noise {self} is a range; one level is needed here")
        return np.full(len(momenta), self.low) * (rms_component(momenta) if self.relative else 1.0)


DEFAULT_NOISE = Noise(0.001, 0.05)
"""What a model is trained for where nobody says: 0.1 % to 5 %."""


def rms_component(momenta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the root mean square (...,) over the 3N components of momenta (..., N, 3).

    Example:
        >>> round(float(rms_component(np.array([[3.0, 0, 0], [-3, 0, 0]]))), 6)
        1.732051
    """
    count = momenta.shape[-2] * momenta.shape[-1]
    # One pass: the mean of squares over two short axes takes five times as long.
    return np.sqrt(np.einsum("...ij,...ij->...", momenta, momenta) / count)
