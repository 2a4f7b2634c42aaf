"""How the charges of ions build up in time: what an experiment states, in femtoseconds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError

Floats = NDArray[np.float64]

LONGEST = 1e6  # fs: ions a nanosecond apart in time have not exploded, they have drifted away
_TIME = re.compile(r"\s*([-+]?(?:[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?|nan|inf))\s*fs\s*")


@dataclass(frozen=True)
class BuildUp:
    """Charges that appear while the ions already fly, q_i(t) = Q_i (1 - exp(-t / tau_i)).

    Attributes:
        times: Build-up times tau, fs: one for all ions, or one for each. 0 is at once.

    Raises:
        UsageError: For no time, and for times that are negative, not finite or above 1e6 fs.

    Example:
        >>> BuildUp.parse("5fs, 10fs, 10fs")
        BuildUp(times=(5.0, 10.0, 10.0))
        >>> str(BuildUp((10.0,)))
        '10fs'
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the times."""
        if not self.times:
            raise UsageError("a build-up needs one time in fs, or one for each ion")
        for time in self.times:
            if not 0.0 <= time <= LONGEST:
                raise UsageError(f"a build-up time is {time:g} fs; it must be 0 to {LONGEST:g} fs")

    @classmethod
    def parse(cls, given: object) -> BuildUp:
        """Return the build-up of ``"10fs"`` or ``"5fs,10fs,10fs"``, of numbers in fs, or as it is."""
        if isinstance(given, BuildUp):
            return given
        if not isinstance(given, str):
            return cls._of(given if isinstance(given, list | tuple) else [given])
        found = [_TIME.fullmatch(part) for part in given.split(",")]
        if not all(found):
            ways = "10fs or, one an ion, 5fs,10fs,10fs"
            raise UsageError(f"build-up {given[:60]!r} is not understood: write {ways}")
        return cls(tuple(float(match[1]) for match in found if match))

    @classmethod
    def _of(cls, times: Sequence[object]) -> BuildUp:
        if wrong := [time for time in times if type(time) not in (int, float)]:
            raise UsageError(f"build-up times are numbers in fs; got {str(wrong[0])[:40]!r}")
        return cls(tuple(float(str(time)) for time in times))

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return ",".join(map(_text, self.times))

    def of_ions(self, n: int) -> tuple[float, ...]:
        """Return the times; UsageError unless there is one, or one for each of `n` ions."""
        if len(self.times) not in (1, n):
            raise UsageError(f"{len(self.times)} build-up times for {n} ions; give one, or one for each ion")
        return self.times

    @property
    def is_zero(self) -> bool:
        """Whether all charges are there at once."""
        return not any(self.times)

    def to_dict(self) -> dict[str, list[float]]:
        """Return what `from_dict` reads, for TOML and JSON."""
        return {"times_fs": list(self.times)}

    @classmethod
    def from_dict(cls, table: Mapping[str, object]) -> BuildUp:
        """Return the build-up of such a table; UsageError for anything else."""
        times = table.get("times_fs")
        if set(table) != {"times_fs"} or not isinstance(times, list):
            raise UsageError(f"a build-up is {{times_fs = [10.0]}}, in fs; got {str(dict(table))[:80]}")
        return cls._of(times)


@dataclass(frozen=True)
class BuildUpPrior:
    """A build-up time of all ions that is known to some degree, fs: even from low to high, or normal above 0.

    Raises:
        UsageError: For times that are negative, not finite or above 1e6 fs, or an empty range.

    Example:
        >>> BuildUpPrior.parse("0..15fs")
        BuildUpPrior(low=0.0, high=15.0, deviation=None)
        >>> BuildUpPrior.from_dict({"mean": "5fs", "deviation": "1fs"}).quantile([0.5]).round(3).tolist()
        [5.0]
    """

    low: float  # or the mean of the normal law
    high: float = LONGEST
    deviation: float | None = None

    def __post_init__(self) -> None:
        """Check the times."""
        BuildUp((self.low, self.high))
        if self.deviation is not None and not 0.0 < self.deviation <= LONGEST:
            raise UsageError(f"the deviation of a build-up time is {self.deviation:g} fs; it must be above 0")
        if not self.low < self.high:
            raise UsageError(f"build-up times from {self.low:g} to {self.high:g} fs are no range")

    @classmethod
    def parse(cls, text: str | BuildUpPrior) -> BuildUpPrior:
        """Return the range ``"0..15fs"``, or a prior as it is."""
        if isinstance(text, BuildUpPrior):
            return text
        low, dots, high = text.partition("..")
        if not dots:
            raise UsageError(f"build-up {text[:60]!r} is no range: write 0..15fs")
        low = low if low.strip().endswith("fs") else f"{low}fs"
        return cls(_one(low), _one(high))

    @classmethod
    def to_train_for(cls, text: str | BuildUpPrior) -> BuildUpPrior:
        """Return a range that begins at 0; UsageError for others."""
        times = cls.parse(text)
        if times.low > 0.0 or times.deviation is not None:
            wrong = f"build-up times to train for are a range from 0, such as 0..15fs; got {times}"
            raise UsageError(f"{wrong}: where nobody states a time, charges are there at once")
        return times

    @classmethod
    def from_dict(cls, table: Mapping[str, object]) -> BuildUpPrior:
        """Return the prior of a table of low and high, or of mean and deviation; UsageError for others."""
        if set(table) == {"low", "high"}:
            return cls(_one(table["low"]), _one(table["high"]))
        if set(table) == {"mean", "deviation"}:
            return cls(_one(table["mean"]), deviation=_one(table["deviation"]))
        raise UsageError(
            'a build-up that is not known exactly is { low = "2fs", high = "8fs" } or { mean = "5fs", '
            f'deviation = "1fs" }}; got {str(dict(table))[:80]}'
        )

    def to_dict(self) -> dict[str, str]:
        """Return the table that `from_dict` reads."""
        if self.deviation is None:
            return {"low": _text(self.low), "high": _text(self.high)}
        return {"mean": _text(self.low), "deviation": _text(self.deviation)}

    def __str__(self) -> str:
        """Return the range as `parse` reads it, or mean and deviation."""
        if self.deviation is None:
            return f"{_text(self.low).removesuffix('fs')}..{_text(self.high)}"
        return f"{_text(self.low).removesuffix('fs')}+-{_text(self.deviation)}"

    def quantile(self, chance: Sequence[float] | Floats) -> Floats:
        """Times below which a share of the law is, fs."""
        u = np.asarray(chance, dtype=np.float64)
        if self.deviation is None:
            return np.asarray(self.low + (self.high - self.low) * u)
        from scipy.special import ndtri

        below = self._below
        return np.maximum(self.low + self.deviation * ndtri(below + (1.0 - below) * u), 0.0)

    def draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> Floats:
        """Times, fs."""
        return self.quantile(rng.random(shape))

    def log_prob(self, times: Floats) -> Floats:
        """Log density, 1 / fs; -inf where there is none."""
        if self.deviation is None:
            inside, value = (times >= self.low) & (times <= self.high), -math.log(self.high - self.low)
            return np.where(inside, value, -np.inf)
        size = math.sqrt(2.0 * math.pi) * self.deviation * (1.0 - self._below)
        out = -0.5 * ((times - self.low) / self.deviation) ** 2 - math.log(size)
        return np.where(times >= 0.0, out, -np.inf)

    @property
    def _below(self) -> float:
        """Share of the normal law below 0, which is left out."""
        return 0.5 * math.erfc(self.low / (math.sqrt(2.0) * (self.deviation or 1.0)))

    @property
    def mean(self) -> BuildUp:
        """Its mean, as if that were known."""
        return BuildUp((0.5 * (self.low + self.high) if self.deviation is None else self.low,))

    @property
    def width(self) -> float:
        """A scale of the law, fs: its deviation, or that of an even one."""
        return self.deviation or (self.high - self.low) / math.sqrt(12.0)


def build_up_of(given: object) -> BuildUp | BuildUpPrior:
    """The build-up that is stated, or the prior of a table of one."""
    return BuildUpPrior.from_dict(given) if isinstance(given, dict) else BuildUp.parse(given)


def _one(given: object) -> float:
    """The one time of ``"10fs"`` or 10.0, fs."""
    times = BuildUp.parse(given).times
    if len(times) != 1:
        raise UsageError(f"{str(given)[:60]!r} is not one build-up time: only one for all ions has a prior")
    return times[0]


def _text(time: float) -> str:
    return f"{repr(time).removesuffix('.0')}fs"
