"""How every picture looks: one palette, safe for the colour-blind, and one way to save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from flowcei.storage.creation import atomic_write

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""M. Okabe and K. Ito, Color Universal Design (2008)."""

_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def styled() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the house style."""
    return mpl.rc_context(_STYLE)


def new_figure(width: float, height: float, gap: float = 0.02) -> Figure:
    """Return an empty figure of a size in inches, in no window and no global state."""
    with styled():
        return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=gap))


def save(figure: Figure, path: Path, *, overwrite: bool = False) -> None:
    """Write a figure as PNG."""
    with styled(), atomic_write(path, overwrite=overwrite) as file:
        figure.savefig(file, dpi=160, format="png")
