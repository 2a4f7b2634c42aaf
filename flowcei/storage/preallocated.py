"""HDF5 files that are whole from their first moment, and are filled in block by block.

HDF5 that grows in place is lost with the process that writes it: the index of its chunks is
changed in many places, and half a change is no file (its mode for readers beside a writer
bears that, but leaves a file that no other program opens until it was mended). Here all
datasets get their place on disk before the first row is known. Rows are then written to
those places past the library, which never opens the file to write again, and a dataset
`/done` says which blocks are there. A block is marked when the disk has its rows: the file
can be read at every moment, and tells the truth, however the process or the machine goes down.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, BinaryIO, Self

import h5py
import numpy as np

from flowcei.errors import DataError, FlowceiError
from flowcei.storage.hdf import numbers_of, opened, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DONE", "LaidOutFile", "datasets_of", "lay_out"]

DONE = "done"
"""The dataset that says which blocks are there."""

_PAGE = 4096
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def lay_out(
    file: BinaryIO,
    path: Path,
    datasets: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    blocks: int,
    describe: Callable[[h5py.File], None],
) -> None:
    """Make HDF5 with room for all of its rows in a new file.

    Args:
        file: Empty, open to read and write, as `flowcei.storage.creation` makes it.
        path: What it is called, for messages.
        datasets: Shape and type of each.
        blocks: How many there will be.
        describe: Writes attributes.

    Raises:
        FlowceiError: Where the disk has no room for it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from flowcei.storage.creation import atomic_write
        >>> path = Path(tempfile.mkdtemp()) / "a.h5"
        >>> with atomic_write(path) as new:
        ...     lay_out(new, path, {"x": ((4,), np.dtype("f8"))}, 2, lambda file: None)
        ...     with LaidOutFile(new, path) as file:
        ...         file.put(0, 0, {"x": np.ones(2)})
        ...         file.done.tolist()
        [True, False]
        >>> with h5py.File(path) as read:
        ...     read["x"][:2].tolist(), read["done"][:].tolist()
        ([1.0, 1.0], [1, 0])
    """
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_obj_track_times(False)  # the same rows, the same bytes
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    handle = file.fileno()
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
            os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        size = sum(np.prod(shape, dtype=float) * dtype.itemsize for shape, dtype in datasets.values())
        reason = os.strerror(error.errno or 0)
        msg = f"no room for the {size / 1e9:.3g} GB of {path} ({reason}); make room, or name another"
        raise FlowceiError(msg) from error


def datasets_of(file: h5py.File) -> list[str]:
    """Return the names of the datasets of a file that was laid out; they may lie in groups of its top.

    No link is followed: what is behind one is not looked at, and its name is that of the link.

    Example:
        >>> with h5py.File.in_memory() as file:
        ...     file["a"], file["b/c"] = 1, 2
        ...     datasets_of(file)
        ['a', 'b/c']
    """
    names: list[str] = []
    for name in file:
        item = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
        parts = list(item) if isinstance(item, h5py.Group) else []
        names += [f"{name}/{part}" for part in parts] or [name]
    return names


class LaidOutFile:
    """A file that `lay_out` made, open for its rows.

    Args:
        file: Open to read and write; it stays open.
        path: What it is called, for messages.
        durable: Whether a block is marked only when the disk has its rows. Without, a power cut
            may lose rows that are marked; the death of the process never does.

    Attributes:
        done: Which blocks are there, (blocks,).

    Raises:
        DataError: For a file that was not laid out, or is damaged.
    """

    def __init__(self, file: BinaryIO, path: Path, *, durable: bool = True) -> None:
        self._path = path
        self._durable = durable
        self._handle = file.fileno()
        self._places: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}
        size = os.fstat(self._handle).st_size
        try:
            with opened(path, file) as content:
                for name in datasets_of(content):
                    data = numbers_of(content, name, path)
                    offset = data.id.get_offset()
                    if offset is None or offset + data.nbytes > size:
                        raise DataError("is damaged; remove it", path=path)
                    self._places[name] = (offset, data.shape, data.dtype)
                done = numbers_of(content, DONE, path)
                if done.ndim != 1:
                    raise DataError("is damaged; remove it", path=path)
                self.done: NDArray[np.bool_] = np.asarray(done[()], dtype=bool)
        except DataError as error:
            raise DataError("is damaged; remove it", path=path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._handle)

    def put(self, block: int, row: int, arrays: Mapping[str, NDArray]) -> None:
        """Write the rows of a block, from number `row` on, and then that it is there.

        Raises:
            DataError: Where they have no place in the file.
        """
        if {*arrays, DONE} != set(self._places):
            raise DataError("is laid out for other arrays; remove it", path=self._path)
        for name, array in arrays.items():
            offset, shape, dtype = self._places[name]
            if array.shape[1:] != shape[1:] or row + len(array) > shape[0]:
                raise DataError(f"has no place for more of /{name}; remove it", path=self._path)
            rows = np.ascontiguousarray(array, dtype)
            _write(self._handle, rows, offset + row * (rows.nbytes // max(1, len(rows))))
        if self._durable:
            getattr(os, "fdatasync", os.fsync)(self._handle)  # macOS has no fdatasync
        _write(self._handle, np.ones(1, np.uint8), self._places[DONE][0] + block)
        self.done[block] = True

    def rewrite(self, name: str, array: NDArray) -> None:
        """Replace all rows of a dataset, whatever blocks are there.

        Raises:
            DataError: Where there is no such dataset of this shape.
        """
        offset, shape, dtype = self._places.get(name, (0, (), np.dtype("f8")))
        if array.shape != shape:
            raise DataError(f"has no place for /{name}; remove it", path=self._path)
        _write(self._handle, np.ascontiguousarray(array, dtype), offset)


def _write(handle: int, array: NDArray, place: int) -> None:
    data = memoryview(array.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    while data:  # a write may stop short, at 2 GiB or at a signal
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written
