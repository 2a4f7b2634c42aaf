"""How a trained model is found again, and what is said of events before it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from flowcei.cli.options import note, warn
from flowcei.cli.runfolder import MODEL, RUNS, unfinished_work
from flowcei.cli.streams import show
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor

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
        if unfinished_work(place):
            msg = f"the training in {place} is not finished: flowcei train --resume {place} goes on with it"
            raise UsageError(msg)
    msg = f"no model {name!r}: give a .safetensors file, a run folder, or {BUNDLED!r}"
    raise UsageError(msg)


def load_named(name: str | None, device: str) -> tuple[str, Reconstructor]:
    """Load the model meant and return the name it goes by in tables."""
    place = find_model(name)
    from flowcei.reconstruction.loading import load  # after what costs nothing to refuse

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


def unflagged(samples: PosteriorSamples, path: Path, *, keep_flagged: bool) -> PosteriorSamples:
    """Return the events of a file whose answer may be trusted, and say how many are not and why.

    Raises:
        DataError: Where none is left.
    """
    from flowcei.errors import DataError
    from flowcei.posterior.flags import POOR_WEIGHTS, counted

    try:
        chosen = samples.unflagged(keep_flagged=keep_flagged)
    except DataError as error:
        advice = "" if keep_flagged else "; --keep-flagged looks at them all the same"
        raise DataError(f"{error}{advice}", path=path) from error
    if samples.flags is None or chosen.flags is None:
        return chosen
    if samples.flagged.any():
        lost = len(samples) - len(chosen)
        advice = f"{lost or 'none'} left out" if keep_flagged else "left out; --keep-flagged keeps them"
        warn(f"{counted(samples.flags)}: {advice}")
    if (chosen.flags & POOR_WEIGHTS).any():
        note(f"{counted(chosen.flags, POOR_WEIGHTS)}: samples of the flow count alike there")
    return chosen


def unseen_events(
    models: Mapping[str, Reconstructor], data: Path, noise: str | None, drift: str, *, keep_flagged: bool
) -> tuple[Events, dict[str, int]]:
    """Return the events of a file that no model was trained on or flags; say what is assumed and left out.

    Returns:
        The events, without drift, and how many others there are: `unusable` in the file, and `flagged`.

    Raises:
        DataError: Where none is left.
    """
    import numpy as np

    from flowcei.cli.reading import read_noted
    from flowcei.evaluation.comparison import trusted, unseen
    from flowcei.experiment.drift import drift_subtracted

    whole = read_noted(data, next(iter(models.values())).molecule)
    fresh = np.ones(len(whole), dtype=bool)  # to all of the models
    for name, model in models.items():
        fewer = unseen(model, whole)
        if len(fewer) < len(whole):
            note(f"{name} was trained on {data}: only its {len(fewer)} test events are used")
            fresh &= np.isin(whole.numbers, fewer.numbers)
    events, words = drift_subtracted(whole[fresh], drift)
    if words:
        note(words)
    for model in models.values():
        note_what_is_assumed(model, events, noise)
    chosen, line = (events, "") if keep_flagged else trusted(models.values(), events, noise)
    if line:
        warn(f"{line}: left out; --keep-flagged keeps them")
    unusable = sum(events.origin.get("selection", {}).get("rejected", {}).values())
    return chosen, {"unusable": unusable, "flagged": len(events) - len(chosen)}


def show_left_out(left_out: Mapping[str, int]) -> None:
    """Print how many events `unseen_events` left out."""
    if any(left_out.values()):
        show(f"left out: {left_out['unusable']} that cannot be used, {left_out['flagged']} flagged")


def show_json(table: dict[str, object], path: Path, *, overwrite: bool) -> None:
    """Print a table as JSON, and write it to a file."""
    from flowcei.storage.creation import atomic_text

    text = json.dumps(table, indent=1, allow_nan=False)
    with atomic_text(path, overwrite=overwrite) as file:
        file.write(text + "\n")
    show(text)


def row_of_event(samples: PosteriorSamples, chosen: PosteriorSamples, event: int, path: Path) -> int:
    """Return which of the chosen events has a number.

    Raises:
        UsageError: Where no event has it, or one that is flagged.
    """
    rows = (chosen.event_id == event).nonzero()[0]
    if len(rows):
        return int(rows[0])
    if event in samples.event_id:
        names = ", ".join(samples.flag_names[int((samples.event_id == event).argmax())])
        msg = f"event {event} of {path} is flagged ({names}); --keep-flagged keeps it"
    else:
        msg = f"{path} has no event {event}; it has {samples.event_id.min()} to {samples.event_id.max()}"
    raise UsageError(msg)
