"""Events that lack an ion: each sample of the model is of another momentum that it may have had."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.errors import UsageError
from flowcei.experiment.missing import completed, lost_ions
from flowcei.posterior.samples import PosteriorSamples

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.events.container import Events
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Floats, Rows
    from flowcei.reconstruction.sampling import SamplingRequest

    Draw = Callable[[Events, Floats, np.random.Generator], PosteriorSamples]
    """A sample of a model for each of some events with their noise."""


def known_source(request: SamplingRequest, molecule: Molecule) -> Measurement:
    """The experiment of events that lack an ion; UsageError where they cannot be answered."""
    own = None if request.experiment is None else request.experiment.of(molecule)
    if own is None or not request.exact or np.isinf(own.spread).any():
        raise UsageError(
            "events that lack an ion need exact samples (--exact) of an experiment whose source is known on "
            "all axes (spread or temperature)"
        )
    return own


def by_completeness(
    events: Events,
    request: SamplingRequest,
    answer: Callable[[Events, Floats | None], PosteriorSamples],
) -> PosteriorSamples:
    """Samples of events, by `answer` for the complete ones and for those that lack an ion.

    It is also given the standard deviations (E, N, 3) of lost momenta, 0 of others; None where all are there.
    """
    lost = lost_ions(events.columns, len(events.molecule))
    if lost is None:
        return answer(events, None)
    own = known_source(request, events.molecule)
    events = replace(events, momenta=completed(events.momenta, lost))
    width = own.width(events.momenta)[:, None] * lost[..., None]
    kinds = [rows for k in (False, True) if len(rows := np.flatnonzero(lost.any(axis=1) == k))]
    parts = [answer(events[rows], width[rows] if width[rows].any() else None) for rows in kinds]
    return PosteriorSamples.concatenate(parts)[np.argsort(np.concatenate(kinds))]


def drawn(
    draw: Draw, events: Events, width: Floats, sigma: Floats, rng: np.random.Generator, rows: Rows, n: int
) -> PosteriorSamples:
    """Return n samples of some of the events, without a density: that of lost momenta is not known."""
    several = np.repeat(rows, n)
    momenta = events.momenta[several] + width[several] * rng.standard_normal((len(several), *width.shape[1:]))
    many = draw(replace(events[several], momenta=momenta), sigma[several], rng)
    one = events[rows]
    return PosteriorSamples(
        many.molecule,
        one.momenta,
        many.positions.reshape(len(rows), n, *many.positions.shape[2:]),
        None,
        one.event_id,
        sigma[rows],
        many.origin,
        columns=one.columns,
    )
