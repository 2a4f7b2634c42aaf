"""Files of posterior samples: HDF5, or long tables with one row a sample (CSV, Parquet); all streamed.

What takes long is written resumably (`sample_to_file`): until all events are there, the samples lie in
`FILE.partial`, which is HDF5 whatever FILE will be (`flowcei.storage.resumable`). Then it is renamed to FILE
or, for CSV and Parquet, which cannot be mended where they end in the middle, turned into it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.events.extracolumns import component_names, dataset_name, name_of_dataset
from flowcei.events.hdf import (
    column_arrays,
    column_datasets,
    dataset_in_unit,
    is_column,
    is_hdf5,
    read_array,
    read_molecule,
)
from flowcei.experiment.accidents import P_TRUE
from flowcei.experiment.experiment import has_accidents
from flowcei.experiment.missing import LOST
from flowcei.posterior.container import ARRAYS
from flowcei.posterior.flags import FLAGS
from flowcei.posterior.quality import Quality
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.weights import Weights
from flowcei.storage.creation import as_text, atomic_write, check_output
from flowcei.storage.files import check_readable
from flowcei.storage.hdf import numbers_of, opened, read_json_attribute, writing
from flowcei.storage.resumable import DONE, datasets_of, resumable_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    import h5py
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.storage.resumable import Layout, PreallocatedFile

HDF = (".h5", ".hdf5")
"""Endings of HDF5 files."""

SAMPLES_AT_ONCE = 200_000
"""Samples in memory where a file is read block by block."""

_NEAR = 16  # rows: to read so many takes as long as to begin anew
_CONTENT = "flowcei samples"
_DATASETS = {"event_id": "event"}  # other arrays have the name of their attribute
_EVIDENCE = "columns/evidence_p"
_LOST, _TRUE = dataset_name(LOST), dataset_name(P_TRUE)
_OPTIONAL = ("log_prob", "flags", "build_up", "assignment", *Weights.ROWS)


def check_samples_path(path: Path, *, overwrite: bool) -> None:
    """Raise UsageError where samples cannot be written: ending, pyarrow, existing file, missing folder."""
    ending = path.suffix.lower()
    if ending not in (*HDF, ".csv", ".parquet"):
        raise UsageError(f"{path}: samples are written as .h5, .csv or .parquet; give -o such an ending")
    if ending == ".parquet":
        _parquet()
    check_output(path, overwrite=overwrite)


def write_samples(parts: Iterable[PosteriorSamples], path: str | Path, *, overwrite: bool = False) -> None:
    """Write samples, a part at a time.

    Args:
        parts: Samples of successive events.
        path: `.h5` (float32 positions, and molecule, momenta and origin with them), `.csv` or
            `.parquet`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: For another ending, or where the file exists or cannot be written.

    Example:
        >>> import flowcei, tempfile
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
        >>> path = tempfile.mkdtemp() + "/ocs.h5"
        >>> flowcei.write_samples([s[:1], s[1:]], path)
        >>> flowcei.read_samples(path)
        PosteriorSamples: 2 events x 20 samples of ocs
    """
    target = Path(path)
    check_samples_path(target, overwrite=overwrite)
    with atomic_write(target, overwrite=overwrite) as file:
        write_parts(parts, file, target.suffix.lower())


def write_parts(parts: Iterable[PosteriorSamples], file: BinaryIO, ending: str) -> None:
    """Write samples to an open file, in the format of an ending."""
    {".csv": _write_csv, ".parquet": _write_parquet}.get(ending, _write_hdf)(parts, file)


def arrays_of(samples: PosteriorSamples) -> dict[str, np.ndarray]:
    """The arrays of samples by the names they have in a file."""
    arrays = {_DATASETS.get(name, name): getattr(samples, name) for name in ARRAYS}
    arrays |= {name: getattr(samples.weights, name, None) for name in Weights.ROWS}
    arrays |= column_arrays(samples.columns)
    return {name: array for name, array in arrays.items() if array is not None}


def samples_of(
    arrays: Mapping[str, np.ndarray], molecule: Molecule, origin: dict[str, Any]
) -> PosteriorSamples:
    """Samples from what `arrays_of` returned; DataError for shapes that do not match."""
    weights: dict[str, Any] = {name: arrays[name] for name in Weights.ROWS if name in arrays}
    return PosteriorSamples(
        molecule,
        **{name: arrays.get(_DATASETS.get(name, name)) for name in ARRAYS},  # type: ignore[arg-type]
        origin=origin,
        weights=Weights(**weights) if len(weights) == len(Weights.ROWS) else None,
        columns={name_of_dataset(name): arrays[name] for name in filter(is_column, arrays)},
    )


def describe_samples(file: h5py.File, samples: PosteriorSamples) -> None:
    """Write what a file of samples says of itself, with the units of its datasets."""
    file.attrs.update(_facts(samples))
    for name, unit in samples.units.items():
        if name in file:
            file[name].attrs["unit"] = unit


def _facts(samples: PosteriorSamples) -> dict[str, str]:
    """What a file says of its samples, as text or JSON."""
    facts = {"molecule": samples.molecule.to_dict(), "origin": samples.origin, "flags": FLAGS}
    return {"content": _CONTENT} | {name: json.dumps(value) for name, value in facts.items()}


def _write_hdf(parts: Iterable[PosteriorSamples], target: BinaryIO) -> None:
    """Write samples to a new file, a part at a time; how many there will be need not be known."""
    with writing(target) as file:
        for k, part in enumerate(parts):
            arrays = arrays_of(part)
            if k == 0:
                for name, array in arrays.items():
                    shape = array.shape[1:]
                    file.create_dataset(name, (0, *shape), array.dtype, maxshape=(None, *shape), chunks=True)
                describe_samples(file, part)
            elif part.verdict:  # of several runs what is wrong with one is said of all
                file.attrs["origin"] = json.dumps(part.origin)
            for name, array in arrays.items():
                data = file[name]
                data.resize(len(data) + len(array), axis=0)
                data[-len(array) :] = array


def _write_csv(parts: Iterable[PosteriorSamples], target: BinaryIO) -> None:
    """Write long CSV; the log density to 1e-6."""
    from flowcei.storage.cells import write_table  # which brings pandas

    with as_text(target) as file:
        for k, part in enumerate(parts):
            density = {} if part.log_prob is None else {"log_prob": 6}
            write_table(part.to_dataframe().round(density), file, index=False, header=k == 0)


def _parquet() -> Any:  # noqa: ANN401 (of pyarrow)
    try:
        import pyarrow.parquet
    except ImportError as error:
        msg = "writing .parquet needs pyarrow: pip install flowcei[parquet]; or write .h5 or .csv"
        raise UsageError(msg) from error
    return pyarrow


def _write_parquet(parts: Iterable[PosteriorSamples], file: BinaryIO) -> None:
    """Write the long table as Parquet, a row group a part, units with the columns."""
    pa, writer = _parquet(), None
    try:
        for part in parts:
            table = pa.Table.from_pandas(part.to_dataframe(), preserve_index=False)
            if writer is None:
                units = dict.fromkeys(component_names(part.molecule.labels), "bohr") | part.units
                fields = table.schema
                named = [f.with_metadata({"unit": units[f.name]}) if f.name in units else f for f in fields]
                schema = pa.schema(named, metadata=_facts(part))
                writer = pa.parquet.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(table.cast(schema))
    finally:
        if writer is not None:
            writer.close()


def read_samples(path: str | Path) -> PosteriorSamples:
    """Read an HDF5 file of samples.

    Raises:
        UsageError: For a missing file.
        DataError: For a file that is not one of samples, is not finished, or is damaged.

    Example:
        See `write_samples`.
    """
    return next(stream_samples(path, at_once=None))


def stream_samples(
    path: str | Path, at_once: int | None = SAMPLES_AT_ONCE, rows: NDArray[np.intp] | None = None
) -> Iterator[PosteriorSamples]:
    """Read an HDF5 file of samples, some events after the others: so many samples together, or all.

    Of some events where `rows`, rising, says which. Raises what `read_samples` raises, for a damaged file
    where the damage is.
    """
    source = Path(path)
    with _opened_samples(source) as (file, molecule):
        names = [_DATASETS.get(name, name) for name in ARRAYS]
        names = [*names, *Weights.ROWS, *column_datasets(file, source)]
        names = [n for n in names if n in file or n not in _OPTIONAL]
        origin = read_json_attribute(file, "origin") or {}
        datasets = {n: dataset_in_unit(file, n, source) for n in names}
        events, *shape = datasets["positions"].shape or (0,)
        step = max(events, 1) if at_once is None else max(1, at_once // max(*shape[:1], 1))
        every = np.arange(events) if rows is None else rows
        for first in range(0, max(len(every), 1), step):
            near = _near(every[first : first + step])
            yield _checked({n: _rows(data, near) for n, data in datasets.items()}, molecule, origin, source)


def read_of_events(path: Path, *names: str) -> list[np.ndarray]:
    """Datasets of one number an event of a file of samples, (E,) each; zeros where there is none.

    Raises what `read_samples` raises.
    """
    with _opened_samples(path) as (file, _):
        zeros = np.zeros(len(numbers_of(file, "event", path)), np.uint16)
        return [read_array(file, name, path) if name in file else zeros for name in names]


@contextmanager
def _opened_samples(source: Path) -> Iterator[tuple[h5py.File, Molecule]]:
    """A finished file of samples with its molecule; raises what `read_samples` raises."""
    check_readable(source)
    if not is_hdf5(source):
        message = "not HDF5; this needs the samples as flowcei sample writes them to an .h5 file"
        raise DataError(message, path=source)
    with opened(source) as file:
        molecule = read_molecule(file, source)
        if str(file.attrs.get("content")) != _CONTENT or molecule is None:
            raise DataError("an HDF5 file, but not of samples", path=source)
        if DONE in file and not (done := read_array(file, DONE, source)).all():
            message = f"not finished: {int((done != 0).sum())} of {done.size} blocks are there; "
            raise DataError(f"{message}flowcei sample --resume goes on", path=source)
        yield file, molecule


def _near(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Rows that are read together, near ones, no more at once than there are."""
    apart = (np.diff(rows) > _NEAR) | np.diff((rows - rows[:1]) // max(len(rows), 1)).astype(bool)
    return np.split(rows, np.flatnonzero(apart) + 1) if len(rows) else []


def _rows(data: h5py.Dataset, together: list[NDArray[np.intp]]) -> np.ndarray:
    """Some rows of a dataset, those of `_near` with what lies between."""
    if not together:
        return np.asarray(data[()])
    pieces = []
    for near in together:
        piece, inside = data[int(near[0]) : int(near[-1]) + 1], near - near[0]
        # A dataset that is shorter than that of positions is refused for its shape.
        pieces.append(piece if len(inside) == len(piece) else piece[inside[inside < len(piece)]])
    return np.asarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))


def _checked(
    arrays: Mapping[str, np.ndarray], molecule: Molecule, origin: dict[str, Any], source: Path
) -> PosteriorSamples:
    """Samples of the arrays of a file; DataError where it is damaged."""
    try:
        samples = samples_of(arrays, molecule, origin)
    except DataError as error:
        raise DataError(f"damaged ({error})", path=source) from error
    if samples.positions.size == 0 or not samples.finite:
        raise DataError("damaged (no samples, or numbers that are not finite)", path=source)
    return samples


def sample_to_file(
    parts: Callable[[int], Iterator[PosteriorSamples]],
    path: Path,
    request: dict[str, Any],
    *,
    overwrite: bool = False,
    resume: bool = False,
    on_block: Callable[[int], None] = lambda _: None,
    on_written: Callable[[int], None] = lambda _: None,
    judge: Callable[[Quality], Quality] | None = None,
) -> Quality:
    """Write the samples of a stream of events to a file; what was done before a StoppedError is kept.

    `parts` gives the samples of the blocks after so many events; `judge` completes flags and probabilities
    when all are there; `on_block` and `on_written` are told of the events sampled, resumed ones too, and
    turned into a table.
    """
    check_samples_path(path, overwrite=overwrite)
    stream: Iterator[PosteriorSamples] | None = None

    def layout() -> Layout:
        # A fault of the request is raised in the first block, with nothing written and nothing replaced.
        nonlocal stream
        stream = parts(0)
        first = next(stream)
        stream = chain([first], stream)
        rows = {name: ((request["events"], *a.shape[1:]), a.dtype) for name, a in _arrays(first).items()}
        return rows, lambda file: describe_samples(file, first)

    hdf, block = path.suffix.lower() in HDF, request["block"]
    with resumable_file(path, request, layout, overwrite=overwrite, resume=resume, rename=hdf) as file:
        start = len(file.done) if file.done.all() else int(np.argmin(file.done))
        if start:
            on_block(min(start * block, request["events"]))
        if start < len(file.done):
            _fill(file, start, stream or parts(start * block), request, on_block)
        names = ("event", "flags", "ess", "drawn", "momenta", "sigma", "log_evidence", _LOST)
        mixed = has_accidents(request.get("experiment", {}))
        judged = (Quality.of(a, molecule, mixed=mixed) for a, molecule, _ in file_blocks(file, block, names))
        quality = Quality.concatenate(list(judged))
        if judge is not None:
            quality = judge(quality)
            file.rewrite("flags", quality.flags)
            if quality.evidence_p is not None:
                file.rewrite(_EVIDENCE, quality.evidence_p)
            if quality.p_true is not None:
                file.rewrite(_TRUE, quality.p_true)
                file.describe("origin", {"accidents": quality.accidents})
            if quality.verdict is not None:
                file.describe("origin", {"verdict": quality.verdict})
        if not hdf:
            with atomic_write(path, overwrite=overwrite) as target:
                write_parts(_read_back(file, block, on_written), target, path.suffix.lower())
    return quality


def _fill(
    file: PreallocatedFile,
    start: int,
    stream: Iterator[PosteriorSamples],
    request: dict[str, Any],
    on_block: Callable[[int], None],
) -> None:
    """Write the blocks from number `start` on."""
    events, block = request["events"], request["block"]
    changed = DataError("the events changed while they were sampled; begin anew", path=file.path)
    for index, part in enumerate(stream, start):
        if len(part) != max(0, min(block, events - index * block)):
            raise changed
        file.put(index, index * block, _arrays(part))
        on_block(len(part))
    if not file.done.all():
        raise changed


def _arrays(part: PosteriorSamples) -> dict[str, np.ndarray]:
    """The arrays of a file, with room for what is known when all events are there."""
    names = [] if part.weights is None else [_EVIDENCE]
    names += [_TRUE] if part.mixed else []
    return arrays_of(part) | {name: np.full(len(part), np.nan) for name in names}


def _read_back(
    file: PreallocatedFile, block: int, on_written: Callable[[int], None]
) -> Iterator[PosteriorSamples]:
    """What was written, a block at a time."""
    for arrays, molecule, origin in file_blocks(file, block):
        yield samples_of(arrays, molecule, origin)
        on_written(len(arrays["event"]))


def file_blocks(
    file: PreallocatedFile, block: int, names: Collection[str] = ()
) -> Iterator[tuple[dict[str, np.ndarray], Molecule, dict[str, Any]]]:
    """The arrays of each block, all where none are named, with the molecule and the origin."""
    path = file.path
    with opened(path, file.file) as content:
        molecule, origin = read_molecule(content, path), read_json_attribute(content, "origin") or {}
        if molecule is None:
            raise DataError("is damaged; remove it", path=path)
        chosen = [name for name in datasets_of(content) if name != DONE and (not names or name in names)]
        datasets = {name: numbers_of(content, name, path) for name in chosen}
        for first in range(0, len(datasets["event"]), block):
            yield {name: data[first : first + block] for name, data in datasets.items()}, molecule, origin
