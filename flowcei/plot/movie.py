"""An animated picture of the mean geometry along a column, with the ellipsoids of its law."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import UsageError
from flowcei.physics.explosion import centre_of_mass
from flowcei.physics.priors.orders import nearest_rotations
from flowcei.plot.style import colour, new_figure, plain, styled
from flowcei.units import length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

    from flowcei.ensemble.series import Series
    from flowcei.posterior.arrays import Floats

_SECONDS = 6.0
_DRAWS = 500  # of the law at each frame
_DPI = 80


def movie_gif(series: Series, unit: str = "angstrom", frames: int = 30) -> bytes:
    """Return a GIF of the smooth law along a column: its frames, one after the other.

    Raises:
        UsageError: Where there is no smooth law.
    """
    from PIL import Image  # comes with matplotlib

    each = [Image.open(io.BytesIO(png)) for _, png in movie_frames(series, unit, frames)]
    pictures = [one.convert("P", palette=Image.Palette.ADAPTIVE) for one in each]
    out = io.BytesIO()
    pause = int(1000.0 * _SECONDS / frames)
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], loop=0, duration=pause)
    return out.getvalue()


@styled
def movie_frames(series: Series, unit: str = "angstrom", frames: int = 30) -> list[tuple[float, bytes]]:
    """Return PNG of the smooth law at values of a column: mean positions, and ellipses of one deviation.

    Each draw of the law is turned onto the mean before it; the picture shows the plane in which the first
    mean is widest.

    Raises:
        UsageError: Where there is no smooth law.
    """
    if series.smooth is None:
        raise UsageError(f"no smooth law along {series.by} to be shown: {series.refused}")
    times = np.linspace(series.values.min(), series.values.max(), frames)
    shown = [
        (mean / length_in_bohr(unit), root / length_in_bohr(unit)) for mean, root in _frames(series, times)
    ]
    reach = np.abs(np.concatenate([mean for mean, _ in shown])).max(axis=0) + 4.0 * max(
        float(root.max()) for _, root in shown
    )
    reach[1] = np.clip(reach[1], 0.35 * reach[0], reach[0])
    figure = new_figure(5.6, 5.6 * float(reach[1] / reach[0]) + 0.9)
    axes = figure.add_subplot()
    pictures = []
    for time, frame in zip(times, shown, strict=True):
        for artist in (*axes.lines, *axes.patches, *axes.texts):
            artist.remove()
        _draw(axes, series, *frame)
        axes.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), aspect="equal")
        axes.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})")
        axes.set_title(
            f"{plain(series.molecule.name)}, {plain(series.by)} = {time:.0f}; ellipses: 1 deviation"
        )
        file = io.BytesIO()
        figure.savefig(file, dpi=_DPI, format="png")
        figure.set_layout_engine("none")  # that of the first frame stays
        pictures.append((float(time), file.getvalue()))
    return pictures


def _frames(series: Series, times: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Mean positions (N, 2), and roots (N, 2, 2) of their covariances, in a plane, bohr, at each time."""
    chart, masses, smooth = series.laws[0].chart, series.molecule.masses, series.smooth
    mean = series.molecule.equilibrium - centre_of_mass(series.molecule.equilibrium[None], masses)[0]
    axes = None
    for time in times:
        if smooth is None:
            return
        x = chart.geometries(smooth.law(float(time)), _DRAWS, np.random.default_rng(0))
        x = x - centre_of_mass(x, masses)
        for _ in range(3):  # the mean that draws are turned onto is theirs
            x = x @ nearest_rotations(np.swapaxes(x, 1, 2) @ mean)
            mean = x.mean(axis=0)
        axes = np.linalg.svd(mean)[2][:2] if axes is None else axes
        flat = (x - mean) @ axes.T
        covariance = np.einsum("bna,bnc->nac", flat, flat) / len(x)
        values, vectors = np.linalg.eigh(covariance)
        yield mean @ axes.T, vectors * np.sqrt(values.clip(0.0))[:, None]


def _draw(axes: Axes, series: Series, mean: Floats, root: Floats) -> None:
    """Draw atoms as ellipses, and bonds."""
    from matplotlib.patches import Ellipse

    kinds = sorted(set(series.molecule.symbols))
    for i, j in series.molecule.bonds:
        axes.plot(*mean[[i, j]].T, color="0.6", lw=2, zorder=1)
    for k, (at, own) in enumerate(zip(mean, root, strict=True)):
        width, height = (2.0 * float(np.linalg.norm(side)) for side in own.T)
        turn = float(np.degrees(np.arctan2(own[1, 0], own[0, 0])))
        own_colour = colour(kinds.index(series.molecule.symbols[k]))
        axes.add_patch(
            Ellipse((at[0], at[1]), width, height, angle=turn, color=own_colour, alpha=0.5, zorder=2)
        )
        axes.plot(*at, "o", ms=3, color=own_colour, zorder=3)
        axes.annotate(
            plain(series.molecule.labels[k]), at, (0, 10), textcoords="offset points", ha="center", fontsize=9
        )
