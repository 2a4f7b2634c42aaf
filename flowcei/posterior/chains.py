"""Equally weighted draws from any posterior density: adapted proposals, then Markov chains that forget them.

1. Some points of the proposal are weighed. Where hardly any counts, modes are searched for, from these and
   from anywhere. A mixture of t distributions, in coordinates bent as they are, is fitted to points chosen by
   a power of the weights, drawn from, weighed in turn, and so on until the power is 1 and most draws count
   (adaptive importance sampling, O. Cappe et al., Stat. Comput. 18, 447 (2008), tempered).
2. Where few of the mixture's draws, chosen by weight, would repeat one another, that is all: they are
   independent, and cost less than those of a flow. Else draws of proposal and mixture are weighed together
   (balance heuristic: E. Veach and L. J. Guibas, SIGGRAPH 1995, 419).
3. Where these repeat one another too, the mixture is fitted again and again to thousands of points.
4. What remains is left to Markov chains (`flowcei.posterior.moves`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.adaptation import CHAIN_RULES, Adaptation, ChainRules
from flowcei.posterior.answers import Answers
from flowcei.posterior.resampling import Cloud, Draws, store

if TYPE_CHECKING:
    from flowcei.posterior.adaptation import Local, LogDensity
    from flowcei.posterior.answers import Draw
    from flowcei.posterior.arrays import Floats
    from flowcei.posterior.moves import Symmetry


@dataclass(frozen=True)
class Proposal:
    """A flow, or whatever else gives points.

    Attributes:
        start: Points of E events, (E, P, D).
        log_density: Its log density there, (E, P); None where it has none, or none is known.
        density: The same, of other points.
        draw: Gives more points.
    """

    start: Floats
    log_density: Floats | None = None
    density: LogDensity | None = None
    draw: Draw | None = None


def run_chains(
    log_posterior: LogDensity,
    proposal: Proposal,
    n: int,
    rng: np.random.Generator,
    *,
    budget: int,
    symmetry: Symmetry | None = None,
    local: Local | None = None,
    worth: Floats | None = None,
    rules: ChainRules = CHAIN_RULES,
) -> Draws:
    """Draw n points of each of E posteriors.

    Args:
        log_posterior: The density to draw from.
        proposal: Where to begin.
        n: Draws of each event.
        rng: Of all that is drawn.
        budget: Points of an event whose density may be asked for.
        symmetry: Moves to try beside the others.
        local: Finds the modes of events whose proposal does not lead to a good one.
        worth: Log density, (E,), that the highest point of an event must have for chains to be tried.
        rules: When all is good enough.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> begin = Proposal(rng.normal(size=(1, 400, 2)))
        >>> normal = lambda points, rows: -0.5 * ((points - 1.0) ** 2).sum(axis=2) / 0.01
        >>> draws = run_chains(normal, begin, 400, rng, budget=40_000)
        >>> draws.points[0].mean(axis=0).round(1).tolist(), draws.points[0].std(axis=0).round(1).tolist()
        ([1.0, 1.0], [0.1, 0.1])
    """
    start = proposal.start
    flow = Cloud.of(start, log_posterior(start, np.arange(len(start))), proposal.log_density)
    out = Draws.none(flow, n)
    rows = np.flatnonzero(np.isfinite(flow.height).any(axis=1))
    if not len(rows):
        return out
    adapted = Adaptation(log_posterior, flow[rows], rows, rng, rules)
    adapted.run(local, budget)
    for count, several in product(adapted.mixtures, (False, True)):
        chosen = np.flatnonzero((adapted.count == count) & (adapted.several == several))
        if len(chosen):
            mixture, drawn = adapted.mixtures[count][chosen], adapted.drawn[chosen]
            each = Answers(
                log_posterior, rows[chosen], mixture, drawn, n, budget, rng, rules, several=several
            )
            own = flow[rows[chosen]]
            pool = each.by_mixture(adapted.best[chosen], None if proposal.log_density is None else own)
            if proposal.log_density is not None and proposal.density is not None:
                pool = each.by_both(pool, own, proposal.density, proposal.draw)
            if worth is not None:
                clouds = own, adapted.base[chosen], adapted.best[chosen]
                top = np.max([cloud.height.max(axis=1) for cloud in clouds], axis=0)
                pool = each.given_up(pool, top < worth[rows[chosen]])
            # Of one mode, without a flow's density, nothing shows what draws leave out along a bend.
            if proposal.density is not None or several:
                pool = each.by_refits(pool)
            each.by_chains(pool, symmetry)
            store(out, rows[chosen], each.out)
    return out
