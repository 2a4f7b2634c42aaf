"""Events and samples that commands read, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flowcei
from flowcei.cli.streams import note, warn
from flowcei.errors import DataError, UsageError
from flowcei.storage.creation import partial_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.foreign.interpretation import Reading


def note_what_is_assumed(
    model: flowcei.Reconstructor,
    events: flowcei.Events,
    noise: str | None,
    experiment: flowcei.Experiment | None = None,
) -> None:
    """Say which noise is assumed where the user might think otherwise, and which events are odd."""
    from flowcei.reconstruction.limits import build_up_time, unlike_training

    least = model.noise.low
    if noise is None and events.sigma is None:
        note(f"noise assumed: {model.default_noise} (say --noise to change)")
    elif (
        model.sigma(events, noise, experiment) > model.stated_sigma(events, noise, experiment) * (1.0 + 1e-6)
    ).any():
        unit = f"{least:.2%}" if model.noise.relative else f"{least:g} hbar/bohr"
        note(f"noise below {unit}, the least the model knows, is taken as {unit}: its posteriors are wider")
    time, longest = build_up_time(experiment, model.molecule), model.frame.build_up
    if longest and time > longest:
        beyond = f"a build-up of {time:g} fs is beyond the {longest:g} fs that the model was trained for"
        warn(f"{beyond}: it is told {longest:g} fs, and weights or chains have to make up for it")
    if experiment is None or not experiment.assignments:  # momenta of the file may be those of other ions
        warn_of_flags(unlike_training(model, events, noise, experiment), events.event_id)


def warn_of_flags(flags: Mapping[str, NDArray[np.bool_]], event_ids: NDArray[np.int64]) -> None:
    """Warn of events that are flagged, a line a flag."""
    from flowcei.posterior.flags import FLAGS

    for name, rows in flags.items():
        if rows.any():
            flag = name.replace("_", "-")
            first = event_ids[int(rows.argmax())]
            warn(f"{int(rows.sum())} of {len(rows)} events (first: {first}): {flag}: {FLAGS[flag]}")


SAMPLES_AT_ONCE = 500_000
"""Samples that are in memory where a file is read block by block."""


@dataclass(frozen=True, eq=False)
class UnflaggedSamples:
    """The events of a file of samples whose answer may be trusted, read block by block."""

    path: Path
    rows: NDArray[np.intp]  # in the file, (E,)
    row: int | None  # among these, of the event that was asked for

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def events_at_once(self) -> int:
        """Events of a block."""
        return max(1, SAMPLES_AT_ONCE // self.one(0).positions.shape[1])

    def blocks(
        self, *, start: int = 0, every: int = 1, smaller: int = 1
    ) -> Iterator[flowcei.PosteriorSamples]:
        """So many samples, or a fraction, after the others, of each or every so many events from one on."""
        from flowcei.posterior.files import stream_samples

        return stream_samples(self.path, SAMPLES_AT_ONCE // smaller, self.rows[start::every])

    def one(self, row: int) -> flowcei.PosteriorSamples:
        """The samples of one event."""
        from flowcei.posterior.files import stream_samples

        return next(stream_samples(self.path, None, self.rows[row : row + 1]))

    def evenly(self, most: int) -> flowcei.PosteriorSamples:
        """The samples of so many events at the most, evenly over the file."""
        return flowcei.PosteriorSamples.concatenate(list(self.blocks(every=-(-len(self) // most))))


def is_there_already(path: Path) -> bool:
    """Whether a file to be resumed is finished, as for a batch job queued again; UsageError for no part."""
    if partial_path(path).exists():
        return False
    if not path.exists():
        raise UsageError(f"there is no unfinished file {partial_path(path)} to resume")
    note(f"{path} is there already: nothing to go on with")
    return True


def unflagged_samples(path: Path, event: int | None = None, *, keep_flagged: bool) -> UnflaggedSamples:
    """The events of a file whose answer may be trusted, and which of them has a number.

    Says how many are not, and why; DataError where none is left, UsageError where `event` is not there.
    """
    import numpy as np

    from flowcei.posterior.files import read_of_events, stream_samples
    from flowcei.posterior.flags import EXCLUDING, FLAG_BITS, counted, standing

    warn_of_run(next(stream_samples(path, 1)), path)
    numbers, flags = read_of_events(path, "event", "flags")
    rows = np.flatnonzero(flags & (FLAG_BITS["no-geometry"] if keep_flagged else EXCLUDING) == 0)
    if not len(rows):
        advice = "none has samples to look at" if keep_flagged else "none is left to look at"
        more = "" if keep_flagged else "; --keep-flagged looks at them all the same"
        raise DataError(f"{counted(flags)}: {advice}{more}", path=path)
    if (flags & EXCLUDING).any():
        lost = len(flags) - len(rows)
        advice = f"{lost or 'none'} left out" if keep_flagged else "left out; --keep-flagged keeps them"
        warn(f"{counted(flags)}: {advice}")
    for line in standing(flags[rows]):
        note(line)
    return UnflaggedSamples(path, rows, None if event is None else _row_of(event, numbers, flags, rows, path))


def read_unflagged(
    path: Path, event: int | None = None, *, keep_flagged: bool
) -> tuple[flowcei.PosteriorSamples, int | None]:
    """All of `unflagged_samples` at once, and the row of the event."""
    file = unflagged_samples(path, event, keep_flagged=keep_flagged)
    return file.evenly(len(file)), file.row


def warn_of_run(samples: flowcei.PosteriorSamples, path: Path) -> None:
    """Say what `sample` found wrong with the run that samples of a file are of."""
    if samples.verdict:
        warn(f"{path}: the run, when it was sampled: {samples.verdict}", "run")


def warn_of_runs(paths: Sequence[Path]) -> None:
    """The same of files that are not read at once."""
    from flowcei.posterior.files import stream_samples

    for path in paths:
        warn_of_run(next(stream_samples(path, 1)), path)


def warn_of_motion(model: flowcei.Reconstructor, missing: int) -> None:
    """Say, before it begins, where the likelihood of atoms that move at the start is known to be off."""
    from flowcei.experiment.missing import unsure_motion

    if unsure := unsure_motion(model.prior_spec, missing):
        warn(unsure)


def warn_of_open_directions(samples: UnflaggedSamples) -> None:
    """Say of how many events many geometries give the momenta: they lack several ions, or a known time."""
    from flowcei.events.extracolumns import dataset_name
    from flowcei.experiment.missing import LOST, lost_ions
    from flowcei.posterior.files import read_of_events

    first = samples.one(0)
    if (law := first.build_up_prior) is not None:
        warn(f"the build-up time is {law}, and each time has its own geometry: this is that of {law.mean}")
    if LOST in first.columns:
        columns = {LOST: read_of_events(samples.path, dataset_name(LOST))[0][samples.rows]}
        lost = lost_ions(columns, len(first.molecule))
        several = 0 if lost is None else int((lost.sum(axis=1) > 1).sum())
        if several:
            warn(f"{several} of {len(samples)} events lack several ions: many geometries give their momenta")


def _row_of(
    event: int, numbers: NDArray[np.int64], flags: NDArray[np.uint16], rows: NDArray[np.intp], path: Path
) -> int:
    from flowcei.posterior.flags import flag_names

    if len(there := (numbers[rows] == event).nonzero()[0]):
        return int(there[0])
    if event in numbers:
        names = flag_names(flags[int((numbers == event).argmax())])
        advice = "it has no samples" if "no-geometry" in names else "--keep-flagged keeps it"
        raise UsageError(f"event {event} of {path} is flagged ({', '.join(names)}); {advice}")
    raise UsageError(f"{path} has no event {event}; it has {numbers.min()} to {numbers.max()}")


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


def is_samples(file: Path) -> bool:
    """Whether a file holds samples, in HDF5."""
    from flowcei.events.hdf import is_hdf5
    from flowcei.storage.hdf import opened

    if not is_hdf5(file):
        return False
    try:
        with opened(file) as data:
            return bool(data.attrs.get("content") == "flowcei samples")
    except DataError:
        return False  # damaged: the reader says so
