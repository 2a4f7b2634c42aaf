"""How the charges of ions build up in time: what an experiment states, in femtoseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        return ",".join(f"{repr(time).removesuffix('.0')}fs" for time in self.times)

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
