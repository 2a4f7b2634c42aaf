"""The page: one HTML file that needs nothing else, no network and no server."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from flowcei import __version__
from flowcei.report.embedded import search_data, viewer_data
from flowcei.report.ensemble import ensemble_section
from flowcei.report.experiment import experiment_section
from flowcei.report.sections import (
    Material,
    check_section,
    data_section,
    events_section,
    geometry_section,
    model_section,
    momenta_section,
    provenance_section,
)

if TYPE_CHECKING:
    from markupsafe import Markup

SECTIONS = (
    data_section,
    experiment_section,
    check_section,
    momenta_section,
    geometry_section,
    ensemble_section,
    events_section,
    model_section,
    provenance_section,
)
"""The sections in the order of the page, each a function of `Material`; None says nothing."""


def page(material: Material) -> str:
    """Return the page of some posterior samples as HTML; all text from files is escaped.

    Example:
        >>> import flowcei
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 20, noise="1%", seed=1), 20, seed=1)
        >>> page(Material(s, "events.csv")).startswith("<!DOCTYPE html>")
        True
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "cell": lambda cell: f"{cell:.4g}" if isinstance(cell, float) else str(cell),
        "embedded": _embedded,
    }
    folder = files("flowcei.report")
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    sections = [section for make in SECTIONS if (section := make(material)) is not None]
    return template.render(
        title=f"{material.samples.molecule.name}: {material.source}",
        version=__version__,
        sections=sections,
        cards=viewer_data(material),
        search=search_data(material),
        script=_script((folder / "page.js").read_text("utf-8")),
        viewer=_script((files("flowcei") / "assets" / "3Dmol-min.js").read_text("utf-8")),
        licence=(files("flowcei") / "assets" / "3Dmol-LICENSE.txt").read_text("utf-8"),
    )


def _embedded(value: object) -> Markup:
    """JSON that no text in it can end: `</script>` in a name stays a name."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))  # noqa: S704


def _script(text: str) -> Markup:
    """Our own script as it is; one that would end early is a fault of ours."""
    from markupsafe import Markup

    if "</script" in text.lower():
        raise ValueError("a script that ends its own element")
    return Markup(text)  # noqa: S704
