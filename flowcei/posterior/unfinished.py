"""Samples straight into a file: any number of events in little memory, and resumable.

Until all of them are there they lie in `FILE.partial`: HDF5 that is laid out whole before the
first block (`flowcei.storage.preallocated`), whatever FILE will be. That file can be read at every moment,
however the process ends, and says what was asked. Then it is renamed to FILE or, for CSV and
Parquet, which cannot be mended where they end in the middle, turned into it. As each block
has its own random stream, what is resumed is what would have been written at once.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from flowcei.errors import DataError, StoppedError, UsageError
from flowcei.events.hdf import read_json_attribute, read_molecule
from flowcei.events.streaming import partial_path
from flowcei.experiment.detector import rms_component
from flowcei.posterior.flags import EXCLUDING
from flowcei.posterior.hdf import arrays_of, describe_samples, samples_of
from flowcei.posterior.storage import HDF, check_samples_path, write_parts
from flowcei.posterior.weights import scaled_evidence
from flowcei.storage.creation import atomic_write, create_file, output_lock, reopen_file
from flowcei.storage.hdf import numbers_of, opened
from flowcei.storage.preallocated import DONE, LaidOutFile, datasets_of, lay_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.storage.creation import OutputFile

__all__ = ["Quality", "begun_seed", "sample_to_file"]

_EVIDENCE = "columns/evidence_p"


@dataclass(frozen=True, eq=False)
class Quality:
    """What samples say of themselves, a number an event.

    Attributes:
        ids: The number of each event, (E,).
        flags: See `flowcei.posterior.flags`, (E,).
        ess: Effective samples of each, (E,), where they were weighed.
        drawn: Samples drawn of each, (E,), where they were weighed.
        sigma: Noise that was assumed, (E,), hbar / bohr.
        size: Rms momentum component, (E,), hbar / bohr.
        statistic: `flowcei.posterior.weights.scaled_evidence` of each, (E,), where they were weighed.
        evidence_p: Chance of momenta as improbable, (E,), once that was judged.
    """

    ids: NDArray[np.int64]
    flags: NDArray[np.uint16]
    ess: NDArray[np.float64] | None
    drawn: NDArray[np.int64] | None
    sigma: NDArray[np.float64]
    size: NDArray[np.float64]
    statistic: NDArray[np.float64] | None
    evidence_p: NDArray[np.float64] | None = None

    @property
    def all_flagged(self) -> bool:
        """Whether no event has samples that are to be trusted."""
        return bool((self.flags & EXCLUDING).all())

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], molecule: Molecule) -> Quality:
        """Judge from the arrays that a file of samples holds: see `flowcei.posterior.hdf`."""
        flags = arrays.get("flags", np.zeros(len(arrays["event"]), np.uint16))
        weighed = (arrays.get("ess"), arrays.get("drawn"))
        momenta, evidence = arrays["momenta"], arrays.get("log_evidence")
        statistic = None if evidence is None else scaled_evidence(evidence, momenta, molecule.masses)
        size = rms_component(momenta)
        return cls(arrays["event"], flags, *weighed, arrays["sigma"], size, statistic)

    @classmethod
    def concatenate(cls, parts: Sequence[Quality]) -> Quality:
        """Join what is known of different events."""

        def joined(name: str) -> Any:  # noqa: ANN401 (whatever the attribute is)
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        return cls(*(joined(field.name) for field in fields(cls)))


def begun_seed(path: Path) -> int | None:
    """Return the seed of the unfinished samples for `path`, or None where there are none.

    Raises:
        DataError: For a file that holds no unfinished samples.
    """
    partial = partial_path(path)
    if not os.path.lexists(partial):
        return None
    with reopen_file(partial) as output:
        return int(_request(output.file, partial)["seed"])


def sample_to_file(
    parts: Callable[[int], Iterator[PosteriorSamples]],
    path: Path,
    request: dict[str, Any],
    *,
    overwrite: bool = False,
    resume: bool = False,
    on_block: Callable[[int], None] | None = None,
    on_written: Callable[[int], None] | None = None,
    judge: Callable[[Quality], Quality] | None = None,
) -> Quality:
    """Write the samples of a stream of events to a file, and keep what was done if it is stopped.

    Args:
        parts: Number of events to skip -> the samples of the blocks after them, in order.
        path: `.h5`, `.csv` or `.parquet`. Until all is there, it is called `path` + `.partial`,
            which is HDF5.
        request: All that the samples depend on, plain numbers and words: `events`, how many
            there are, `block`, how many of them make one, and `seed` among them.
        overwrite: Whether an existing file, or an unfinished one, may be replaced.
        resume: Whether to go on with an unfinished one.
        on_block: Called after each block with its number of events, also for those that an
            earlier run has written.
        on_written: Called with the number of events that were turned into CSV or Parquet.
        judge: What completes flags and `evidence_p` when all events are there, before they are
            turned into CSV or Parquet.

    Returns:
        Flags and weights of all the events.

    Raises:
        UsageError: Where the file exists, where an unfinished one exists and neither
            `resume` nor `overwrite` is given, or where it was begun with other settings.
        StoppedError: On an interruption; what was done is kept.
    """
    check_samples_path(path, overwrite=overwrite)
    partial = partial_path(path)
    if os.path.lexists(partial) and not (resume or overwrite):
        msg = f"{partial} holds unfinished samples: --resume goes on with them, --overwrite begins anew"
        raise UsageError(msg)
    resume = resume and os.path.lexists(partial)
    with (
        output_lock(path),
        _resumed(partial, request) if resume else _begun(parts(0), partial, request) as (output, first),
    ):
        try:
            _fill(first, parts, output, request, on_block)
            quality = _quality(output, request["block"])
            if judge is not None:
                quality = judge(quality)
                _put(output, quality)
            if path.suffix.lower() in HDF:
                output.become(path, overwrite=overwrite)
                return quality
            with atomic_write(path, overwrite=overwrite) as file:
                write_parts(_read_back(output, request["block"], on_written), file, path.suffix.lower())
        except KeyboardInterrupt:
            with LaidOutFile(output.file, partial) as written:
                kept = min(int(written.done.sum()) * request["block"], request["events"])
            msg = (
                f"interrupted after {kept} of {request['events']} events; "
                "the same command with --resume goes on"
            )
            raise StoppedError(msg) from None
        output.remove()
    return quality


@contextmanager
def _begun(
    stream: Iterator[PosteriorSamples], partial: Path, request: dict[str, Any]
) -> Iterator[tuple[OutputFile, Iterator[PosteriorSamples]]]:
    """Lay out the file as the first block asks for, and yield it with all of the stream.

    What is refused is refused in the first block, with nothing written and nothing replaced.
    """
    first, events = next(stream), request["events"]
    datasets = {name: ((events, *a.shape[1:]), a.dtype) for name, a in _arrays(first).items()}

    def describe(file: h5py.File) -> None:
        describe_samples(file, first)
        file.attrs["request"] = json.dumps(request)

    with create_file(partial) as output:
        lay_out(output.file, partial, datasets, _count(request), describe)
        output.become(partial)
        yield output, chain([first], stream)


@contextmanager
def _resumed(partial: Path, request: dict[str, Any]) -> Iterator[tuple[OutputFile, None]]:
    """Yield a file that an earlier run has begun with the same request."""
    with reopen_file(partial) as output:
        _refuse_other(request, output)
        yield output, None


def _count(request: dict[str, Any]) -> int:
    return -(-request["events"] // request["block"])


def _fill(
    first: Iterator[PosteriorSamples] | None,
    parts: Callable[[int], Iterator[PosteriorSamples]],
    output: OutputFile,
    request: dict[str, Any],
    on_block: Callable[[int], None] | None,
) -> None:
    """Write the blocks that are missing."""
    events, block, partial = request["events"], request["block"], output.path
    with LaidOutFile(output.file, partial) as file:
        if len(file.done) != _count(request):
            raise DataError("is damaged; remove it", path=partial)
        kept = len(file.done) if file.done.all() else int(np.argmin(file.done))
        if kept:
            _tell(on_block, min(kept * block, events))
        if kept == len(file.done):
            return
        changed = DataError("the events changed while they were sampled; begin anew", path=partial)
        for index, part in enumerate(first or parts(kept * block), kept):
            if len(part) != max(0, min(block, events - index * block)):
                raise changed
            file.put(index, index * block, _arrays(part))
            _tell(on_block, len(part))
        if not file.done.all():
            raise changed


def _tell(on: Callable[[int], None] | None, count: int) -> None:
    if on is not None:
        on(count)


def _request(file: BinaryIO, partial: Path) -> dict[str, Any]:
    try:
        with opened(partial, file) as content:
            request = read_json_attribute(content, "request")
    except DataError as error:
        raise DataError("holds no unfinished samples; remove it", path=partial) from error
    if request is None or not isinstance(request.get("seed"), int):
        raise DataError("holds no unfinished samples; remove it", path=partial)
    return request


def _refuse_other(request: dict[str, Any], output: OutputFile) -> None:
    found, wanted = _request(output.file, output.path), json.loads(json.dumps(request))
    for key, value in wanted.items():
        if found.get(key) != value:
            msg = (
                f"{output.path} was begun with {key} {found.get(key)}, not {value}; "
                "give the same, or --overwrite"
            )
            raise UsageError(msg)


def _arrays(part: PosteriorSamples) -> dict[str, np.ndarray]:
    """Return the arrays of a file, with a place for what is known when all events are there."""
    place = {} if part.weights is None else {_EVIDENCE: np.full(len(part), np.nan)}
    return arrays_of(part) | place


def _put(output: OutputFile, quality: Quality) -> None:
    """Write flags, and the p-values of the evidence where there are any."""
    with LaidOutFile(output.file, output.path) as file:
        file.rewrite("flags", quality.flags)
        if quality.evidence_p is not None:
            file.rewrite(_EVIDENCE, quality.evidence_p)


def _quality(output: OutputFile, block: int) -> Quality:
    with opened(output.path, output.file) as file:
        molecule = _molecule(file, output.path)
        names = ("event", "flags", "ess", "drawn", "momenta", "sigma", "log_evidence")
        datasets = {name: numbers_of(file, name, output.path) for name in names if name in file}
        parts = []
        for first in range(0, len(datasets["event"]), block):
            arrays = {name: data[first : first + block] for name, data in datasets.items()}
            parts.append(Quality.of(arrays, molecule))
    return Quality.concatenate(parts)


def _molecule(file: h5py.File, path: Path) -> Molecule:
    molecule = read_molecule(file, path)
    if molecule is None:
        raise DataError("is damaged; remove it", path=path)
    return molecule


def _read_back(
    output: OutputFile, block: int, on_written: Callable[[int], None] | None
) -> Iterator[PosteriorSamples]:
    """Yield what was written, a block at a time."""
    with opened(output.path, output.file) as file:
        molecule, origin = _molecule(file, output.path), read_json_attribute(file, "origin")
        names = [name for name in datasets_of(file) if name != DONE]
        datasets = {name: numbers_of(file, name, output.path) for name in names}
        for first in range(0, len(datasets["event"]), block):
            arrays = {name: data[first : first + block] for name, data in datasets.items()}
            part = samples_of(arrays, molecule, origin or {})
            yield part
            _tell(on_written, len(part))
