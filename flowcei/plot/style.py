"""How every picture looks: one palette, safe for the colour-blind, one grid of panels, one way to save."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from flowcei.storage.creation import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""M. Okabe and K. Ito, Color Universal Design (2008)."""

_DPI = 160
_MAX_POINTS = 3000
_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@contextmanager
def _style() -> Iterator[None]:
    # mpl.rc_context would also undo what a notebook sets when pyplot is first imported: to show figures.
    before = {name: mpl.rcParams[name] for name in _STYLE}
    mpl.rcParams.update(_STYLE)
    try:
        yield
    finally:
        mpl.rcParams.update(before)


styled = _style()
"""Decorates what draws a figure in the house style."""


def colour(k: int) -> str:
    """Return the colour of the k-th atom or curve; they repeat."""
    return COLOURS[k % len(COLOURS)]


def new_axes(axes: Axes | None) -> Axes:
    """Return the axes that are given, or of a new figure: of pyplot in a notebook or where it is used."""
    if axes is not None:
        return axes
    if (pyplot := _notebook_pyplot() or sys.modules.get("matplotlib.pyplot")) is None:
        return new_figure(4.4, 3.4).subplots()
    with _style():
        return cast("Axes", pyplot.figure(figsize=(4.4, 3.4), layout="constrained").subplots())


def _notebook_pyplot() -> ModuleType | None:
    """The module in a notebook, where it shows its figures below the cell; elsewhere None."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return import_module("matplotlib.pyplot") if hasattr(shell, "kernel") else None


def plain(text: str) -> str:
    """Return text from elsewhere, such as the name of a file, none of it taken for mathematics."""
    return "".join(sign if sign.isprintable() else "?" for sign in text).replace("$", r"\$")


@styled
def new_figure(width: float, height: float, gap: float = 0.02, title: str = "") -> Figure:
    """Return an empty figure of a size in inches, in no window and no global state."""
    if (pyplot := _notebook_pyplot()) is not None:  # teaches the notebook to show figures that are returned
        pyplot.close(pyplot.figure())
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=gap))
    if title:
        figure.suptitle(title, fontsize=9, x=0.02, ha="left")
    return figure


@styled
def grid(
    count: int,
    panel: tuple[float, float],
    margin: tuple[float, float],
    *,
    title: str,
    columns: int = 3,
    least: float = 0.0,
    gap: float = 0.02,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels of a size in inches, row by row, `least` wide for its title."""
    columns = min(columns, count)
    rows = -(-count // columns)
    width = max(panel[0] * columns + margin[0], least)
    figure = new_figure(width, panel[1] * rows + margin[1], gap, title)
    return figure, [figure.add_subplot(rows, columns, k + 1) for k in range(count)]


def dots(axes: Axes, points: NDArray[Any], k: int, size: float, alpha: float = 0.35) -> None:
    """Draw points (n, 2) in the k-th colour, not more of them than can be told apart."""
    some = points[:: max(1, len(points) // _MAX_POINTS)]
    axes.plot(*some.T, ".", ms=size, alpha=alpha, mew=0, color=colour(k))


@styled
def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    file = BytesIO()
    figure.savefig(file, dpi=_DPI, format="png")
    return file.getvalue()


@styled
def save(figure: Figure, path: Path, *, overwrite: bool = False) -> None:
    """Write a figure in the format that the ending of its path names, the same bytes for the same figure."""
    kind = path.suffix[1:].lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with atomic_write(path, overwrite=overwrite) as file:
        figure.savefig(file, dpi=_DPI, format=kind, metadata=undated)
