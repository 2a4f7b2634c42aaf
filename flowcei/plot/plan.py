"""Plot of a plan: each wanted error against the number of events."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from flowcei.plot.style import colour, grid, plain, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flowcei.ensemble.plan import Plan
    from flowcei.ensemble.wants import Promise

_STYLES = "-", "--", ":", "-."
_BEYOND = 10.0  # times the events that a wanted error takes, at either end


@styled
def plan_figure(plan: Plan) -> Figure:
    """Draw the errors of a plan, a panel a wanted one, a line a setting: dots where they reach it."""
    wants = list(dict.fromkeys(one.want for one in plan.promises))
    title = f"{plain(plan.molecule.name)}: standard errors against events; dots: what is wanted"
    figure, panels = grid(len(wants), (3.4, 2.9), (0.3, 0.7), title=title, least=6.0)
    for axes, want in zip(panels, wants, strict=True):
        own = [one for one in plan.promises if one.want == want]
        reached = [one.events for one in own if math.isfinite(one.events)]
        events = np.geomspace(min(reached) / _BEYOND, max(reached) * _BEYOND, 50).clip(1.0)
        noises = list(dict.fromkeys(one.noise for one in own))
        others = list(dict.fromkeys((one.charges, one.missing) for one in own))
        for one in own:
            shade = colour(noises.index(one.noise))
            style = _STYLES[others.index((one.charges, one.missing)) % len(_STYLES)]
            axes.plot(events, one.error(events), style, label=_setting(one, len(others) > 1), color=shade)
            if math.isfinite(one.events):
                axes.plot(one.events, one.error(one.events), "o", ms=4, color=shade)
        axes.axhline(want.error, color="0.6", lw=0.8)
        unit = f" ({own[0].unit})" if own[0].unit else ""
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="events",
            ylabel=f"error of {want.kind} {plain(want.name)}{unit}",
        )
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower left", ncols=4, fontsize=8)
    return figure


def _setting(one: Promise, several: bool) -> str:  # noqa: FBT001
    words = f"noise {one.noise}"
    return f"{words}, charges {one.charges}, up to {one.missing} lost" if several else words
