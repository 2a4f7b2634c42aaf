"""How a trained model is found again, and what is said of events and samples that commands work on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import flowcei
from flowcei.cli.options import Checked
from flowcei.cli.runfolder import MODEL, RUNS, unfinished_work
from flowcei.cli.streams import note, warn
from flowcei.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.foreign.interpretation import Reading

BUNDLED = "bundled"  # the OCS model that comes with flowcei


def find_model(name: str | None) -> Path | None:
    """Model meant: a name, or the newest in runs/; None for the bundled one."""
    if name == BUNDLED:
        return None
    if name is None:
        models = sorted(RUNS.glob(f"*/{MODEL}"), key=lambda p: p.stat().st_mtime)
        return models[-1] if models else None
    for path in (Path(name), RUNS / name):
        if path.is_file():
            return path
        if (path / MODEL).is_file():
            return path / MODEL
        if unfinished_work(path):
            raise UsageError(
                f"the training in {path} is not finished: flowcei train --resume {path} goes on with it"
            )
    raise UsageError(f"no model {name!r}: give a .safetensors file, a run folder, or {BUNDLED!r}")


MODEL_NAME = Checked(find_model)


def load_named(name: str | None, device: str) -> tuple[str, flowcei.Reconstructor]:
    """Model meant, and the name it goes by in tables."""
    path = find_model(name)
    if path is None:
        return BUNDLED, flowcei.load(device=device)
    short = path.parent.name if path.name == MODEL else path.stem
    return short or path.stem, flowcei.load(path, device=device)


def note_what_is_assumed(model: flowcei.Reconstructor, events: flowcei.Events, noise: str | None) -> None:
    """Say which noise is assumed where the user might think otherwise, and which events are odd."""
    least = model.noise.low
    if noise is None and events.sigma is None:
        note(f"noise assumed: {model.default_noise} (say --noise to change)")
    elif (model.sigma(events, noise) > model.stated_sigma(events, noise) * (1.0 + 1e-6)).any():
        unit = f"{least:.2%}" if model.noise.relative else f"{least:g} hbar/bohr"
        note(f"noise below {unit}, the least the model knows, is taken as {unit}: its posteriors are wider")
    warn_of_flags(model.unlike_training(events, noise), events.numbers)


def warn_of_flags(flags: Mapping[str, NDArray[np.bool_]], event_ids: NDArray[np.int64]) -> None:
    """Warn of events that are flagged, a line a flag."""
    from flowcei.posterior.flags import FLAGS

    for name, rows in flags.items():
        if rows.any():
            flag = name.replace("_", "-")
            first = event_ids[int(rows.argmax())]
            warn(f"{int(rows.sum())} of {len(rows)} events (first: {first}): {flag}: {FLAGS[flag]}")


def read_unflagged(
    path: Path, event: int | None = None, *, keep_flagged: bool
) -> tuple[flowcei.PosteriorSamples, int | None]:
    """Samples of the events of a file whose answer may be trusted, and which of them has a number.

    Says how many are not, and why; DataError where none is left, UsageError where `event` is not there.
    """
    from flowcei.posterior.flags import POOR_WEIGHTS, counted

    samples = flowcei.read_samples(path)
    try:
        chosen = samples.unflagged(keep_flagged=keep_flagged)
    except DataError as error:
        advice = "" if keep_flagged else "; --keep-flagged looks at them all the same"
        raise DataError(f"{error}{advice}", path=path) from error
    if samples.flags is not None and samples.flagged.any():
        lost = len(samples) - len(chosen)
        advice = f"{lost or 'none'} left out" if keep_flagged else "left out; --keep-flagged keeps them"
        warn(f"{counted(samples.flags)}: {advice}")
    if chosen.flags is not None and (chosen.flags & POOR_WEIGHTS).any():
        note(f"{counted(chosen.flags, POOR_WEIGHTS)}: samples of the flow count alike there")
    return chosen, None if event is None else _row_of(event, samples, chosen, path)


def _row_of(
    event: int, samples: flowcei.PosteriorSamples, chosen: flowcei.PosteriorSamples, path: Path
) -> int:
    rows = (chosen.event_id == event).nonzero()[0]
    if len(rows):
        return int(rows[0])
    if event in samples.event_id:
        names = ", ".join(samples.flag_names[int((samples.event_id == event).argmax())])
        raise UsageError(f"event {event} of {path} is flagged ({names}); --keep-flagged keeps it")
    raise UsageError(
        f"{path} has no event {event}; it has {samples.event_id.min()} to {samples.event_id.max()}"
    )


def read_noted(
    path: Path, molecule: flowcei.Molecule | None = None, reading: Reading | None = None
) -> flowcei.Events:
    """Read all events of a file; say what was concluded of its columns, and which events are left out."""
    from flowcei.events.source import open_events

    source = open_events(path, molecule, reading)
    events = source.read()
    source.log_reading()
    if source.tally.rejected:
        source.keep_tally()
        warn(f"{path.name}: {source.tally}", "left-out")
    return events
