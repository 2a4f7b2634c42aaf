"""How a trained model is found again, and what is said of events before it answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowcei.cli.options import note, warn
from flowcei.cli.runfolder import MODEL, RUNS, is_unfinished
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.reconstructor import Reconstructor

__all__ = [
    "BUNDLED",
    "find_model",
    "load_named",
    "note_flags",
    "note_what_is_assumed",
]

BUNDLED = "bundled"
"""The word for the OCS model that comes with flowcei."""


def find_model(name: str | None) -> Path | None:
    """Return the model meant: a name, or the newest in runs/; None for the bundled one.

    Raises:
        UsageError: For a name that is no file or run, and for a run that is not finished.
    """
    if name == BUNDLED:
        return None
    if name is None:
        models = sorted(RUNS.glob(f"*/{MODEL}"), key=lambda p: p.stat().st_mtime)
        return models[-1] if models else None
    for place in (Path(name), RUNS / name):
        if place.is_file():
            return place
        if (place / MODEL).is_file():
            return place / MODEL
        if is_unfinished(place):
            msg = f"the training in {place} is not finished: flowcei train --resume {place} goes on with it"
            raise UsageError(msg)
    msg = f"no model {name!r}: give a .safetensors file, a run folder, or {BUNDLED!r}"
    raise UsageError(msg)


def load_named(name: str | None, device: str) -> tuple[str, Reconstructor]:
    """Load the model meant and return the name it goes by in tables."""
    place = find_model(name)
    from flowcei.loading import load  # after what costs nothing to refuse

    if place is None:
        return BUNDLED, load(device=device)
    short = place.parent.name if place.name == MODEL else place.stem
    return short or place.stem, load(place, device=device)


def note_what_is_assumed(model: Reconstructor, events: Events, noise: str | None) -> None:
    """Say which noise is assumed where the user might think otherwise, and which events are odd."""
    least = model.noise.low
    if noise is None and events.sigma is None:
        note(f"noise assumed: {model.default_noise} (say --noise to change)")
    elif (model.sigma(events, noise) > model.stated_sigma(events, noise) * (1.0 + 1e-6)).any():
        unit = f"{least:.2%}" if model.noise.relative else f"{least:g} hbar/bohr"
        note(f"noise below {unit}, the least the model knows, is taken as {unit}: its posteriors are wider")
    note_flags(model.unlike_training(events, noise), events.numbers)


def note_flags(found: Mapping[str, NDArray[np.bool_]], ids: NDArray[np.int64]) -> None:
    """Warn of events that are flagged, a line a flag."""
    from flowcei.posterior.flags import FLAGS

    for name, rows in found.items():
        if rows.any():
            flag = name.replace("_", "-")
            first = ids[int(rows.argmax())]
            warn(f"{int(rows.sum())} of {len(rows)} events (first: {first}): {flag}: {FLAGS[flag]}")
