"""HDF5 files that are filled in block by block, readable at every moment, and resumable.

HDF5 that grows in place is lost with the process that writes it: the index of its chunks is changed in
many places, and half a change is no file (its mode for readers beside a writer bears that, but leaves a
file that no other program opens until it was mended). Here all datasets are allocated on disk before the
first row is known. Rows are then written there past the library, which never opens the file to write
again, and a dataset `/done` says which blocks are there. Until all are, the file is called `FILE.partial`,
and its attribute `request` says what was asked for. As each block has its own random stream, what is
resumed is what would have been written at once.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError, FlowceiError, StoppedError, UsageError, WorkersLostError
from flowcei.storage.creation import create_file, output_lock, partial_path, reopen_file
from flowcei.storage.hdf import numbers_of, opened, read_json_attribute, writing

if TYPE_CHECKING:
    from flowcei.storage.creation import OutputFile

    Datasets = Mapping[str, tuple[tuple[int, ...], np.dtype]]
    Layout = tuple[Datasets, Callable[[h5py.File], None]]

DONE = "done"
"""The dataset that says which blocks are there."""

_PAGE = 4096
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGED = "is damaged; remove it"


def unfinished_seed(path: Path) -> int | None:
    """The seed that the unfinished file for `path` was begun with, or None where there is none."""
    partial = partial_path(path)
    if not os.path.lexists(partial):
        return None
    with reopen_file(partial) as output:
        return int(_request(output)["seed"])


@contextmanager
def resumable_file(
    path: Path,
    request: dict[str, Any],
    layout: Callable[[], Layout],
    *,
    overwrite: bool,
    resume: bool,
    durable: bool = True,
    rename: bool = True,
) -> Iterator[PreallocatedFile]:
    """Yield the unfinished file for `path`, new or as it was left, to write the blocks that are missing.

    `request` is all that its content depends on, as JSON can hold it, `events`, `block` (events of one) and
    `seed` among them. `layout` returns shape and type of each dataset and what writes attributes; it is
    called for a new file only, before anything is written or replaced. Without `rename` the file goes in
    the end, and the caller has written `path`.
    """
    partial, events, block = partial_path(path), request["events"], request["block"]
    exists = os.path.lexists(partial)
    if exists and not (resume or overwrite):
        raise UsageError(f"{partial} is not finished: --resume goes on with it, --overwrite begins anew")
    with (
        output_lock(path),
        reopen_file(partial) if resume and exists else _begin(partial, request, layout()) as output,
    ):
        _check_request(output, request)
        file = PreallocatedFile(output.file, partial, durable=durable)
        if len(file.done) != -(-events // block):
            raise DataError(_DAMAGED, path=partial)
        try:
            yield file
            os.fsync(output.file.fileno())
            if rename:
                output.become(path, overwrite=overwrite)
        except (KeyboardInterrupt, WorkersLostError) as error:
            count = sum(min(block, events - int(k) * block) for k in np.flatnonzero(file.done))
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{error}:"
            msg = f"{why} after {count} of {events} events; the same command with --resume goes on"
            raise StoppedError(msg) from None
        if not rename:
            output.remove()


@contextmanager
def _begin(partial: Path, request: dict[str, Any], layout: Layout) -> Iterator[OutputFile]:
    """Make the file, with all of its parts from the first moment that it has its name."""
    datasets, describe = layout

    def describe_all(content: h5py.File) -> None:
        describe(content)
        content.attrs["request"] = json.dumps(request)

    with create_file(partial) as output:
        blocks = -(-request["events"] // request["block"])
        preallocate(output.file, partial, datasets, blocks, describe_all)
        output.become(partial)
        yield output


def _request(output: OutputFile) -> dict[str, Any]:
    try:
        with opened(output.path, output.file) as content:
            request = read_json_attribute(content, "request") or {}
    except DataError:
        request = {}
    if type(request.get("seed")) is not int:
        raise DataError("is no unfinished file of flowcei; remove it", path=output.path)
    return request


def _check_request(output: OutputFile, request: dict[str, Any]) -> None:
    begun = _request(output)
    for key, value in json.loads(json.dumps(request)).items():
        if begun.get(key) != value:
            msg = f"{output.path} was begun with {key} {begun.get(key)}, not {value}"
            raise UsageError(f"{msg}; give the same options, or --overwrite")


def preallocate(
    file: BinaryIO, path: Path, datasets: Datasets, blocks: int, describe: Callable[[h5py.File], None]
) -> None:
    """Make HDF5 with room for all of its rows in an empty file; `describe` writes attributes."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_obj_track_times(False)  # the same rows, the same bytes
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)  # names may be those of datasets in a group
    try:
        # Blocks on whole pages, and all pages there: half the time of writing into a sparse file.
        with writing(file, alignment_threshold=_PAGE, alignment_interval=_PAGE) as content:
            for name, (shape, dtype) in {**datasets, DONE: ((blocks,), np.dtype("u1"))}.items():
                kind, space = h5py.h5t.py_create(dtype), h5py.h5s.create_simple(shape)
                h5py.h5d.create(content.id, name.encode(), kind, space, layout, links)
            content[DONE][:] = 0
            describe(content)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        size = sum(np.prod(shape, dtype=float) * dtype.itemsize for shape, dtype in datasets.values())
        reason = os.strerror(error.errno or 0)
        msg = f"no room for the {size / 1e9:.3g} GB of {path} ({reason}); make room, or name another"
        raise FlowceiError(msg) from error


def datasets_of(file: h5py.File) -> list[str]:
    """Names of the datasets of a preallocated file, at its top or in groups there; no link is followed."""
    names: list[str] = []
    for name in file:
        item = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        members = list(item) if isinstance(item, h5py.Group) else []
        names += [f"{name}/{member}" for member in members] or [name]
    return names


class PreallocatedFile:
    """A file that `preallocate` made, open for its rows; `done` says which blocks are there, (blocks,).

    Where `durable`, a block is marked only when the disk has its rows. Without, a power cut may lose
    rows that are marked; the death of the process never does.
    """

    def __init__(self, file: BinaryIO, path: Path, *, durable: bool = True) -> None:
        self.file, self.path, self._durable = file, path, durable
        self._handle = file.fileno()
        self._offsets: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}
        size = os.fstat(self._handle).st_size
        try:
            with opened(path, file) as content:
                for name in datasets_of(content):
                    data = numbers_of(content, name, path)
                    offset = data.id.get_offset()
                    if offset is None or offset + data.nbytes > size:
                        raise DataError(_DAMAGED)
                    self._offsets[name] = (offset, data.shape, data.dtype)
                done = numbers_of(content, DONE, path)
                if done.ndim != 1:
                    raise DataError(_DAMAGED)
                self.done: NDArray[np.bool_] = np.asarray(done[()], dtype=bool)
        except DataError as error:
            raise DataError(_DAMAGED, path=path) from error

    def put(self, block: int, row: int, arrays: Mapping[str, NDArray]) -> None:
        """Write the rows of a block, from number `row` on, and then that it is there."""
        if {*arrays, DONE} != set(self._offsets):
            raise DataError("was begun for other arrays; remove it", path=self.path)
        for name, array in arrays.items():
            offset, shape, dtype = self._offsets[name]
            if array.shape[1:] != shape[1:] or row + len(array) > shape[0]:
                raise DataError(f"has no room for more of /{name}; remove it", path=self.path)
            rows = np.ascontiguousarray(array, dtype)
            self._write(rows, offset + row * (rows.nbytes // max(1, len(rows))))
        if self._durable:
            getattr(os, "fdatasync", os.fsync)(self._handle)  # macOS has no fdatasync
        self._write(np.ones(1, np.uint8), self._offsets[DONE][0] + block)
        self.done[block] = True

    def rewrite(self, name: str, array: NDArray) -> None:
        """Replace all rows of a dataset, whatever blocks are there."""
        offset, shape, dtype = self._offsets.get(name, (0, (), np.dtype("f8")))
        if array.shape != shape:
            raise DataError(f"has no room for /{name}; remove it", path=self.path)
        self._write(np.ascontiguousarray(array, dtype), offset)

    def describe(self, name: str, entries: Mapping[str, Any]) -> None:
        """Add entries to an attribute that holds a JSON table."""
        with writing(self.file, mode="r+") as content:
            table = (read_json_attribute(content, name) or {}) | dict(entries)
            content.attrs[name] = json.dumps(table)

    def _write(self, array: NDArray, offset: int) -> None:
        data = memoryview(array.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
        while data:  # a write may stop short, at 2 GiB or at a signal
            written = os.pwrite(self._handle, data, offset)
            data, offset = data[written:], offset + written
