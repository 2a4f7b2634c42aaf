"""What the detector adds: normal noise on every momentum component."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.physics.draws import fresh_key

if TYPE_CHECKING:
    from flowcei.storage.card import ModelCard

NOISE_FLOOR = 1e-4  # the smallest relative noise: without any, the posterior is points and has no density
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
_PATTERN = re.compile(
    rf"^\s*({_NUMBER})\s*(%?)\s*(?:\.\.\s*({_NUMBER})\s*(%?)\s*)?(?:a\.?u\.?)?\s*(/\s*axis)?\s*$"
)


@dataclass(frozen=True)
class Noise:
    """A range of standard deviations of a momentum component, log-uniform; both ends equal for one level."""

    low: float
    high: float
    relative: bool = True  # to the event's noise-free rms momentum component; else in hbar / bohr
    by_axis: bool = False  # whether each axis of the lab has a level of its own: to train a model for

    def __post_init__(self) -> None:
        """UsageError for levels that are not numbers in order."""
        if not 0.0 <= self.low <= self.high < np.inf:
            raise UsageError(f"noise must be 0 <= low <= high; got {self.low} to {self.high}")
        if self.relative and self.high > 1.0:
            too_much = f"noise of {self.high:.0%} of the momenta leaves nothing of them"
            raise UsageError(f"{too_much}; it must be 100 % or less")

    @classmethod
    def parse(cls, text: str | Noise) -> Noise:
        """Noise of ``"1%"``, ``"0.1%..5%"`` (relative), ``"0.5"`` or ``"0.1..2"`` (a.u.), or as it is.

        A range that ends in ``/axis`` is of each lab axis by itself.
        """
        if isinstance(text, Noise):
            return text
        match = _PATTERN.match(text)
        if not match or (match[3] and match[2] != match[4]):
            raise UsageError(f"noise {text!r} is not understood: write 1%, 0.1%..5% or, in a.u., 0.5")
        unit = 0.01 if match[2] else 1.0
        if match[5] and not match[3]:
            raise UsageError(f"noise {text!r}: by axis it is a range to train for, 0.1%..5%/axis")
        ends = float(match[1]) * unit, float(match[3] or match[1]) * unit
        return cls(*ends, relative=bool(match[2]), by_axis=bool(match[5]))

    @classmethod
    def of_card(cls, card: ModelCard) -> Noise:
        """Noise that the model of a file was trained for."""
        ends = card.noise
        return cls(ends.low, ends.high, relative=ends.relative, by_axis=card.frame.get("by_axis") is True)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        scale, unit = (100.0, "%") if self.relative else (1.0, "")
        ends = "..".join(f"{end * scale:.10g}{unit}" for end in dict.fromkeys((self.low, self.high)))
        return f"{ends}/axis" if self.by_axis else ends

    @property
    def is_zero(self) -> bool:
        """Whether no noise is ever added."""
        return self.high == 0.0

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Levels of `n` events, (n,); by axis (n, 3)."""
        shape = (n, 3) if self.by_axis else (n,)
        if self.low == self.high:
            return np.full(shape, self.low)
        if self.low == 0.0:
            raise UsageError("a range of noise is log-uniform and cannot start at 0")
        return np.exp(rng.uniform(np.log(self.low), np.log(self.high), shape))

    def apply(
        self, momenta: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Momenta (B, N, 3) with noise, and its stated standard deviation (B,), by axis (B, 3), hbar / bohr.

        Relative noise is stated as a share of the rms of the *noisy* momenta: the true deviation would tell
        a network the noise-free rms, which no measurement knows.
        """
        level = self.draw(len(momenta), rng)
        if self.is_zero:
            return momenta, level
        # Imported here: numba takes half a second, and noise can be named without it.
        from flowcei.experiment._noise import add_noise

        levels = level if self.by_axis else level[:, None]
        exact = np.ascontiguousarray(momenta, np.float64).reshape(-1)
        noisy, stated = np.empty_like(exact), np.empty_like(levels)
        add_noise(fresh_key(rng), levels, self.relative, exact, noisy, stated)
        return noisy.reshape(momenta.shape), stated.reshape(level.shape)

    def sigma(self, momenta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standard deviation (B,), hbar / bohr, of measured momenta (B, N, 3); UsageError for a range."""
        if self.low != self.high:
            raise UsageError(f"noise {self} is a range; one level is needed here")
        return np.full(len(momenta), self.low) * (rms_component(momenta) if self.relative else 1.0)


DEFAULT_NOISE = Noise(0.001, 0.05)  # what a model is trained for where nobody says


def rms_component(momenta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square (...,) over the 3N components of momenta (..., N, 3)."""
    count = momenta.shape[-2] * momenta.shape[-1]
    # One pass: the mean of squares over two short axes takes five times as long.
    return np.sqrt(np.einsum("...ij,...ij->...", momenta, momenta) / count)
