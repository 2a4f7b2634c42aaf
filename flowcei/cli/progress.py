"""How far something long has come: a bar on a terminal, else a line a minute."""

from __future__ import annotations

import io
import math
import sys
import time
from typing import Any, Self

from tqdm import tqdm

from flowcei.cli.streams import is_quiet, note

_LINE = "{percentage:.0f} % of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"
_RUN_UP = 1.0  # seconds in which work of an earlier run may be counted: no rate is taken from them


class _Notes(io.TextIOBase):
    """Where tqdm writes to if stderr is no terminal."""

    def write(self, text: str) -> int:
        if text.strip():
            note(text.strip())
        return len(text)


class Progress:
    """Progress over `total`; off a terminal a line every so many seconds."""

    def __init__(self, total: int, unit: str, *, done: int = 0, every: float = 60.0) -> None:
        how: dict[str, Any] = {"unit_scale": True, "leave": False}
        if not sys.stderr.isatty():
            how = {"file": _Notes(), "bar_format": _LINE, "leave": False, "smoothing": 1.0}
            how |= {"miniters": 1, "mininterval": every, "maxinterval": math.inf, "delay": every}
        self._bar = tqdm(total=total, initial=done, unit=f" {unit}", disable=is_quiet(), **how)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, count: int, text: str = "") -> None:
        """Count some more; `text` stands beside them."""
        if time.monotonic() - self._start < _RUN_UP and not self._bar.disable:
            self._bar.initial += count
            self._bar.last_print_n += count
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(count)

    def lengthen(self, total: int) -> None:
        """There is more to do than was thought."""
        self._bar.total = total

    def note(self, text: str) -> None:
        """Say something above the bar."""
        self._bar.clear()
        note(text)
