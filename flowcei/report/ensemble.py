"""The section of the page on the ensemble: its law, shares of pathways, and geometries against the delay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowcei.ensemble.population import Population, population
from flowcei.ensemble.series import Series
from flowcei.errors import FlowceiError
from flowcei.plot.movie import movie_frames
from flowcei.report.sections import Picture, Section, Table
from flowcei.units import ANGSTROM

if TYPE_CHECKING:
    from typing import Any

    from flowcei.report.sections import Material

DELAY = "delay"
"""Column of the events along which the page shows laws."""

_FRAMES = 20
_BOOTSTRAP = 10
_COLUMNS = "mean", "mean_error", "sd", "sd_p05", "sd_p95"


def ensemble_section(material: Material) -> Section:
    """The law that the geometries of all events follow, along the delay where there is one."""
    by = DELAY if DELAY in material.trusted.columns else None
    how: dict[str, Any] = {"by": by, "check": False, "keep_flagged": True}
    title = "The ensemble"
    try:
        law = population(material.trusted, bootstrap=_BOOTSTRAP, **how)
    except FlowceiError as error:
        return Section("ensemble", title, (f"No law of all events together: {error}.",))
    described = f"The normal law of {law.events:,} events, without the blur of each and the pull of the prior"
    words = (f"{described}: flowcei population makes it, with tables and a comparison with the run.",)
    shares, pictures = _shares(material, how)
    if isinstance(law, Series):
        figure = law.plot("series")
        seen = f"Means and widths along the {law.by}", f"Mean geometry along the {law.by}"
        frames = () if law.smooth is None else movie_frames(law, "angstrom", _FRAMES)
        slider = tuple(Picture.of_png(png, f"{law.by} = {time:.4g}") for time, png in frames)
        why = (f"No smooth law, and no moving picture: {law.refused}.",) if law.refused else ()
        own = (Picture.of(figure, seen[0]), *pictures)
        return Section(
            "ensemble", title, (*words, *why, *shares), pictures=own, frames=slider, framed=seen[1]
        )
    own = (Picture.of(law.plot("unfolded"), "Unfolded law beside the pooled samples"), *pictures)
    tables = (_table(law),) if isinstance(law, Population) else ()
    return Section("ensemble", title, (*words, *shares), tables=tables, pictures=own)


def _shares(material: Material, how: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Picture, ...]]:
    """What is said and shown of two normal laws."""
    try:
        law = population(material.trusted, law="mixture", bootstrap=_BOOTSTRAP, **how)
    except FlowceiError as error:
        return (f"No shares of two pathways or isomers: {error}.",), ()
    return (), (Picture.of(law.plot("shares"), "Shares of two normal laws"),)


def _table(law: Population) -> Table:
    """Means and widths, lengths in angstrom."""
    rows = []
    for row in law.to_dataframe().to_dict("records"):
        length = row["unit"] == "bohr"
        numbers = [float(row[name]) / (ANGSTROM if length else 1.0) for name in _COLUMNS]
        rows.append((row["quantity"], "angstrom" if length else row["unit"], *numbers))
    columns = ("quantity", "unit", "mean", "error", "width (sd)", "width, 5 %", "width, 95 %")
    return Table(columns, rows, "The normal law of all events")
