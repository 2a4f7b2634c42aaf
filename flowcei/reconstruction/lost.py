"""Events that lack an ion: each sample of the model is of another momentum that it may have had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowcei.check.agreement import best_rotations
from flowcei.check.comparison import predicted_momenta
from flowcei.errors import UsageError
from flowcei.experiment.missing import completed, lost_ions
from flowcei.posterior.samples import PosteriorSamples

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Bools, Floats, Rows
    from flowcei.reconstruction.sampling import SamplingRequest

    Draw = Callable[[Events, Floats, np.random.Generator], PosteriorSamples]
    """A sample of a model for each of some events with their noise."""
    Completion = Callable[[Rows, int, np.random.Generator], Floats]
    """Momenta (e n, N, 3) that n times some of the events may have had."""

_BANK = 20_000  # events of the prior among which those like an event that lacks several ions are sought
_NEAREST = 200


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
    answer: Callable[[Events, Completion | None], PosteriorSamples],
    prior: GeometryPrior | None,
) -> PosteriorSamples:
    """Samples of events, by `answer` for the complete ones, and for those that lack an ion or several.

    It is also given what lost momenta may have been.
    """
    lost = lost_ions(events.columns, len(events.molecule))
    if lost is None:
        return answer(events, None)
    own = known_source(request, events.molecule)
    if own.orders is not None:
        raise UsageError("assignments of hits need all of them: leave out --missing, or assignments")
    events = replace(events, momenta=completed(events.momenta, lost))
    width = own.width(events.momenta)[:, None] * lost[..., None]
    number = np.minimum(lost.sum(axis=1), 2)
    kinds = [rows for k in range(3) if len(rows := np.flatnonzero(number == k))]
    parts = []
    for rows in kinds:
        how: Completion | None = None
        if number[rows[0]] == 1:
            how = partial(_by_the_others, events.momenta[rows], width[rows])
        elif number[rows[0]] == 2 and prior is not None:
            rng = np.random.default_rng(np.random.SeedSequence(request.seed, spawn_key=(8,)))
            forward = own.drawn_forward(_BANK, rng)
            bank = predicted_momenta(events.molecule, prior, _BANK, rng, forward)
            how = _ByThePrior(events.momenta[rows], lost[rows], bank)
        parts.append(answer(events[rows], how))
    return PosteriorSamples.concatenate(parts)[np.argsort(np.concatenate(kinds))]


def of_known_momenta(flags: dict[str, Bools], events: Events) -> dict[str, Bools]:
    """Flags (E,) that momenta raise, but for events that lack several: these tell nothing of the whole."""
    lost = lost_ions(events.columns, len(events.molecule))
    if lost is None:
        return flags
    return {name: rows & (lost.sum(axis=1) < 2) for name, rows in flags.items()}


def _by_the_others(momenta: Floats, width: Floats, rows: Rows, n: int, rng: np.random.Generator) -> Floats:
    """Momenta (e n, N, 3) of some events that lack one ion: what is left of the others, and the noise."""
    several = np.repeat(rows, n)
    return momenta[several] + width[several] * rng.standard_normal((len(several), *width.shape[1:]))


@dataclass(eq=False)
class _ByThePrior:
    """Momenta (e n, N, 3) of some events that lack several ions: those of the prior that are like the others.

    Each event of the prior is turned so that its momenta come nearest to those that were detected; lost ones
    are those of the nearest, with a sum of 0.
    """

    momenta: Floats  # (E, N, 3)
    lost: NDArray[np.bool_]  # (E, N)
    bank: Floats  # exact momenta of the prior, (M, N, 3)
    _near: dict[int, Floats] = field(default_factory=dict)

    def __call__(self, rows: Rows, n: int, rng: np.random.Generator) -> Floats:
        out = np.repeat(self.momenta[rows], n, axis=0).reshape(len(rows), n, *self.momenta.shape[1:])
        for k, row in enumerate(rows.tolist()):
            gone = self.lost[row]
            out[k][:, gone] = rng.choice(self.nearest(row), n)[:, gone]
            out[k][:, gone] -= out[k].sum(axis=1, keepdims=True) / gone.sum()
        return out.reshape(-1, *self.momenta.shape[1:])

    def nearest(self, row: int) -> Floats:
        """Turned momenta (m, N, 3) of the prior."""
        if row not in self._near:
            there = ~self.lost[row]
            wanted = np.broadcast_to(self.momenta[row, there], (len(self.bank), int(there.sum()), 3))
            turned = self.bank @ np.swapaxes(best_rotations(self.bank[:, there], wanted), 1, 2)
            miss = ((turned[:, there] - wanted) ** 2).sum(axis=(1, 2))
            self._near[row] = turned[np.argsort(miss)[:_NEAREST]]
        return self._near[row]


def drawn(
    draw: Draw,
    events: Events,
    complete: Completion,
    sigma: Floats,
    rng: np.random.Generator,
    rows: Rows,
    n: int,
) -> PosteriorSamples:
    """Return n samples of some of the events, without a density: that of lost momenta is not known."""
    several = np.repeat(rows, n)
    many = draw(replace(events[several], momenta=complete(rows, n, rng)), sigma[several], rng)
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
        build_up=None if many.build_up is None else many.build_up.reshape(len(rows), n),
    )
