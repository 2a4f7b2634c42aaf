"""Samples straight into a file: any number of events in little memory, and resumable.

Until all of them are there they lie in `FILE.partial`, which is HDF5 whatever FILE will be
(`flowcei.storage.resumable`). Then it is renamed to FILE or, for CSV and Parquet, which cannot
be mended where they end in the middle, turned into it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError
from flowcei.events.hdf import read_molecule
from flowcei.experiment.detector import rms_component
from flowcei.posterior.flags import EXCLUDING
from flowcei.posterior.hdf import arrays_of, describe_samples, samples_of
from flowcei.posterior.storage import HDF, check_samples_path, write_parts
from flowcei.posterior.weights import scaled_evidence
from flowcei.storage.creation import atomic_write
from flowcei.storage.hdf import numbers_of, opened, read_json_attribute
from flowcei.storage.resumable import DONE, datasets_of, resumable_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.storage.resumable import Layout, PreallocatedFile

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
        UsageError: Where the file exists, or as `resumable_file`.
        StoppedError: On an interruption; what was done is kept.
    """
    check_samples_path(path, overwrite=overwrite)
    stream: Iterator[PosteriorSamples] | None = None

    def layout() -> Layout:
        # What is refused is refused in the first block, with nothing written and nothing replaced.
        nonlocal stream
        stream = parts(0)
        first = next(stream)
        stream = chain([first], stream)
        rows = {name: ((request["events"], *a.shape[1:]), a.dtype) for name, a in _arrays(first).items()}
        return rows, lambda file: describe_samples(file, first)

    hdf = path.suffix.lower() in HDF
    how = {"overwrite": overwrite, "resume": resume, "rename": hdf}
    with resumable_file(path, request, layout, **how) as file:
        _fill(file, stream, parts, request, on_block or (lambda _: None))
        quality = _quality(file, request["block"])
        if judge is not None:
            quality = judge(quality)
            file.rewrite("flags", quality.flags)
            if quality.evidence_p is not None:
                file.rewrite(_EVIDENCE, quality.evidence_p)
        if not hdf:
            with atomic_write(path, overwrite=overwrite) as target:
                told = on_written or (lambda _: None)
                write_parts(_read_back(file, request["block"], told), target, path.suffix.lower())
    return quality


def _fill(
    file: PreallocatedFile,
    stream: Iterator[PosteriorSamples] | None,
    parts: Callable[[int], Iterator[PosteriorSamples]],
    request: dict[str, Any],
    on_block: Callable[[int], None],
) -> None:
    """Write the blocks that are missing."""
    events, block = request["events"], request["block"]
    kept = len(file.done) if file.done.all() else int(np.argmin(file.done))
    if kept:
        on_block(min(kept * block, events))
    if kept == len(file.done):
        return
    changed = DataError("the events changed while they were sampled; begin anew", path=file.path)
    for index, part in enumerate(stream or parts(kept * block), kept):
        if len(part) != max(0, min(block, events - index * block)):
            raise changed
        file.put(index, index * block, _arrays(part))
        on_block(len(part))
    if not file.done.all():
        raise changed


def _arrays(part: PosteriorSamples) -> dict[str, np.ndarray]:
    """Return the arrays of a file, with a place for what is known when all events are there."""
    place = {} if part.weights is None else {_EVIDENCE: np.full(len(part), np.nan)}
    return arrays_of(part) | place


def _quality(file: PreallocatedFile, block: int) -> Quality:
    names = ("event", "flags", "ess", "drawn", "momenta", "sigma", "log_evidence")
    with opened(file.path, file.file) as content:
        molecule = _molecule(content, file.path)
        return Quality.concatenate(
            [Quality.of(arrays, molecule) for arrays in _rows(content, file.path, names, block)]
        )


def _read_back(
    file: PreallocatedFile, block: int, on_written: Callable[[int], None]
) -> Iterator[PosteriorSamples]:
    """Yield what was written, a block at a time."""
    with opened(file.path, file.file) as content:
        molecule, origin = _molecule(content, file.path), read_json_attribute(content, "origin") or {}
        names = [name for name in datasets_of(content) if name != DONE]
        for arrays in _rows(content, file.path, names, block):
            yield samples_of(arrays, molecule, origin)
            on_written(len(arrays["event"]))


def _rows(
    content: h5py.File, path: Path, names: Iterable[str], block: int
) -> Iterator[dict[str, np.ndarray]]:
    datasets = {name: numbers_of(content, name, path) for name in names if name in content}
    for first in range(0, len(datasets["event"]), block):
        yield {name: data[first : first + block] for name, data in datasets.items()}


def _molecule(file: h5py.File, path: Path) -> Molecule:
    molecule = read_molecule(file, path)
    if molecule is None:
        raise DataError("is damaged; remove it", path=path)
    return molecule
