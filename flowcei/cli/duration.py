"""Time spans on the command line."""

from __future__ import annotations

import re

import click

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType):
    """A time span: 90, 90s, 45m, 2h, 1.5d; in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, above 0."""
        matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([smhd]?)", str(value).strip())
        seconds = float(matched[1]) * _SECONDS[matched[2]] if matched else 0.0
        if seconds <= 0.0:
            self.fail(f"{value!r} is no time span; write 90s, 45m, 2h or 1.5d", param, ctx)
        return seconds
