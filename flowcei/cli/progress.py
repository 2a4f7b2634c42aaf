"""How far something long has come: a bar on a terminal, else a line a minute."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from flowcei.cli.options import is_quiet, note

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY = 60.0  # seconds between lines
_RUN_UP = 1.0  # seconds in which work of an earlier run may be counted: no rate is taken from them


class Progress:
    """Tells share, rate and remaining time, on stderr; nothing under --quiet.

    Args:
        total: How many there are to do.
        unit: What they are, such as ``"events"``.
        done: How many an earlier run has done.
        clock: Returns seconds.
        terminal: Whether to draw a bar; whether stderr is a terminal where None.

    Example:
        >>> seconds = iter([0.0, 2.0])
        >>> progress = Progress(100, "events", clock=lambda: next(seconds), terminal=False)
        >>> progress.update(10)
        >>> progress.line(100.0)
        '10 % of 100 events, 0.1 events/s, 15 min left'
    """

    def __init__(
        self,
        total: int,
        unit: str,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        terminal: bool | None = None,
    ) -> None:
        self._total = total
        self._unit = unit
        self._done = done
        self._clock = clock
        self._start = clock()
        self._anchor = (self._start, done)  # the rate is that since then
        self._bar = None
        if sys.stderr.isatty() and not is_quiet() if terminal is None else terminal:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit=f" {unit}", unit_scale=True, leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int, text: str = "") -> None:
        """Count some more; `text` stands beside the bar."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(count)
            return
        now = self._clock()
        if now - self._start < _RUN_UP:
            self._anchor = (now, self._done)
        elif now - self._anchor[0] >= _EVERY:
            note(self.line(now))
            self._anchor = (now, self._done)

    def note(self, text: str) -> None:
        """Say something above the bar."""
        if self._bar is not None:
            self._bar.clear()
        note(text)

    def line(self, now: float) -> str:
        """Return share, rate and remaining time in words; the rate is that since the last line."""
        since, before = self._anchor
        rate = (self._done - before) / max(now - since, 1e-9)
        left = f", {_words((self._total - self._done) / rate)} left" if rate > 0 else ""
        share = int(100 * self._done / max(self._total, 1))
        return f"{share} % of {self._total} {self._unit}, {rate:.3g} {self._unit}/s{left}"


def _words(seconds: float) -> str:
    """Return a duration as a person would say it.

    Example:
        >>> [_words(s) for s in (20, 600, 9000, 500000)]
        ['20 s', '10 min', '2.5 h', '5.8 d']
    """
    for unit, size in (("d", 86400.0), ("h", 3600.0)):
        if seconds >= size * 2:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60.0:.0f} min" if seconds >= 120.0 else f"{seconds:.0f} s"
