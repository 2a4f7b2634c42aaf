"""How every picture looks: one palette, safe for the colour-blind, and one way to save."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from flowcei.files import whole_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["COLOURS", "new_figure", "save"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""M. Okabe and K. Ito, Color Universal Design (2008)."""

_STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, in no window and no global state."""
    with mpl.rc_context(_STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path, *, overwrite: bool = False) -> None:
    """Write a figure as PNG."""
    with mpl.rc_context(_STYLE), whole_file(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, dpi=160, format="png")
