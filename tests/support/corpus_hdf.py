"""Damaged and hostile HDF5 files. Adds to `corpus.HOSTILE`."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from corpus import base, hostile, sound
from corpus_binary import COLUMNS

import flowcei
from flowcei.events.foreign.mapping import Mapping

BY_MAPPING: dict[str, Any] = {
    "reading": {
        "mapping": Mapping.from_dict(
            {"momenta": {"unit": "hbar/bohr", "ions": {k: [f"p{k}{a}" for a in "xyz"] for k in "cos"}}}
        )
    },
}


def hdf(path: Path, **changes: Any) -> h5py.File:
    """Write the events as HDF5, and return the file, open, without the datasets named; attributes are set."""
    own = path.with_name("own.h5")
    flowcei.write_events(base(), own)
    file = h5py.File(path, "w")  # as the library lays a file out by itself: here bytes are changed by place
    with h5py.File(own) as source:
        for name, data in source.items():
            source.copy(data, file, name)
        file.attrs.update(source.attrs)
    own.unlink()
    for name, value in changes.items():
        if name in file:
            del file[name]
        if name in file.attrs or value is not None:
            file.attrs[name] = value
    return file


def _hdf(name: str, says: str = "", **how: Any) -> Any:
    """Add a function of the open file with events, and of its path."""

    def add(change: Any) -> None:
        def build(path: Path) -> None:
            with hdf(path) as file:
                change(file)

        hostile(name, "e.h5", says, **how)(build)

    return add


def _replace(file: h5py.File, name: str, *args: Any, **kwargs: Any) -> None:
    if name in file:
        del file[name]
    file.create_dataset(name, *args, **kwargs)


def _hdf_bytes(path: Path) -> bytes:
    hdf(path).close()
    return path.read_bytes()


sound("hdf5", "e.h5")(_hdf_bytes)
sound("hdf5-named-csv", "e.csv")(lambda path: _hdf_bytes(path.with_suffix(".h5")))
for _part in (8, 96, 800, 4000, 7000):
    hostile(f"hdf5-cut-at-{_part}", "e.h5", "damaged|missing|no dataset|holds no")(
        lambda path, part=_part: _hdf_bytes(path)[:part]
    )
hostile("hdf5-garbage", "e.h5", "damaged")(lambda _: b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 10)


def _heap_that_goes_nowhere(path: Path, entry: int, size: int) -> bytes:
    """The heap of texts has an entry of a size at which the HDF5 library (2.0) goes on for ever."""
    data = bytearray(_hdf_bytes(path))
    place = data.index(b"GCOL") + 16
    while (number := int.from_bytes(data[place : place + 2], "little")) != entry:
        assert number
        place += 16 + (int.from_bytes(data[place + 8 : place + 16], "little") + 7) // 8 * 8
    data[place + 8 : place + 16] = size.to_bytes(8, "little")
    data[data.index(b"GCOL") + 5] = size % 256  # a byte that nothing reads
    return bytes(data)


def _long_text(path: Path) -> bytes:
    """The text of an attribute says that it is 4 GB long: the HDF5 library would take the memory."""
    data = bytearray(_hdf_bytes(path))
    place = data.index(b"content\0") + 8 + 24 + 8  # its name, its type, its place
    assert data[place : place + 4] == len("flowcei events").to_bytes(4, "little")
    data[place : place + 4] = b"\xff" * 4
    return bytes(data)


@hostile("hdf5-heap-longer-than-one-read", "e.h5", "goes nowhere")
def _(path: Path) -> bytes:
    """The second part, which the library reads apart from the first, begins with an entry of no size."""
    data = bytearray(_hdf_bytes(path))
    place = data.index(b"GCOL")
    data[place + 8 : place + 16] = (4096 + 48).to_bytes(8, "little")
    data[place + 4096 : place + 4144] = bytes(48)
    return bytes(data)


for _entry, _size in ((0, 0), (0, 2**64 - 1), (3, 2**64 - 1), (3, 2**64 - 17), (2, 2**40)):
    hostile(f"hdf5-heap-of-{_entry}-{_size}", "e.h5", "goes nowhere")(
        lambda path, entry=_entry, size=_size: _heap_that_goes_nowhere(path, entry, size)
    )
hostile("hdf5-text-of-4-GB", "e.h5", "longer than the file")(_long_text)


@_hdf("hdf5-external-link", "momenta is not a dataset of numbers|lies in another file")
def _(file: h5py.File) -> None:
    secret = Path(file.filename).parent.parent / "secret.h5"
    hdf(secret).close()
    del file["momenta"]
    file["momenta"] = h5py.ExternalLink(str(secret), "/momenta")


@_hdf("hdf5-external-link-to-a-pipe", "momenta is not a dataset of numbers|lies in another file")
def _(file: h5py.File) -> None:
    pipe = Path(file.filename).parent.parent / "pipe"
    os.mkfifo(pipe)
    del file["momenta"]
    file["momenta"] = h5py.ExternalLink(str(pipe), "/momenta")


@_hdf("hdf5-soft-link", "momenta is not a dataset of numbers")
def _(file: h5py.File) -> None:
    file["other"] = file["momenta"]
    del file["momenta"]
    file["momenta"] = h5py.SoftLink("/other")


@_hdf("hdf5-soft-link-to-itself", "momenta is not a dataset of numbers")
def _(file: h5py.File) -> None:
    del file["momenta"]
    file["momenta"] = h5py.SoftLink("/momenta")


@_hdf("hdf5-external-storage", "another file")
def _(file: h5py.File) -> None:
    _replace(file, "momenta", (6, 3, 3), "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


@_hdf("hdf5-virtual-dataset", "another file")
def _(file: h5py.File) -> None:
    del file["momenta"]
    layout = h5py.VirtualLayout((6, 3, 3), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "momenta", (6, 3, 3))
    file.create_virtual_dataset("momenta", layout)


@_hdf("hdf5-fill-value-bomb", "does not hold")
def _(file: h5py.File) -> None:
    _replace(file, "momenta", (10**13, 3, 3), "f8", chunks=(1, 3, 3), fillvalue=1.0)
    _replace(file, "positions", (10**13, 3, 3), "f8", chunks=(1, 3, 3), fillvalue=1.0)


@_hdf("hdf5-largest-shape", "does not hold|damaged")
def _(file: h5py.File) -> None:
    _replace(file, "momenta", (2**59, 3, 3), "i1", chunks=(1, 3, 3), maxshape=(None, 3, 3))


@_hdf("hdf5-never-written", "does not hold")
def _(file: h5py.File) -> None:
    _replace(file, "momenta", (10**8, 3, 3), "f8")


@_hdf("hdf5-columns-of-fill-values", "does not hold", **BY_MAPPING)
def _(file: h5py.File) -> None:
    for name in list(file):
        del file[name]
    for k, name in enumerate(COLUMNS):
        _replace(file, name, (10**13,), "f8", chunks=(1000,), fillvalue=float(k * k))


@_hdf("hdf5-huge-chunks", "chunk", **BY_MAPPING)
def _(file: h5py.File) -> None:
    for name in list(file):
        del file[name]
    packed = zlib.compress(bytes(8000))
    for name in COLUMNS:
        _replace(file, name, (6,), "f8", chunks=(2**28,), maxshape=(None,), compression="gzip")
        file[name].id.write_direct_chunk((0,), packed)


@_hdf("hdf5-huge-chunks-of-momenta", "chunk")
def _(file: h5py.File) -> None:
    _replace(
        file, "momenta", (6, 3, 3), "f8", chunks=(2**25, 3, 3), maxshape=(None, 3, 3), compression="gzip"
    )
    file["momenta"].id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(8000)))


@_hdf("hdf5-unknown-filter", "damaged|cut short")
def _(file: h5py.File) -> None:
    del file["momenta"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((6, 3, 3))
    plan.set_filter(32_767, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    data = h5py.h5d.create(file.id, b"momenta", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((6, 3, 3)), plan)
    data.write_direct_chunk((0, 0, 0), bytes(432))


@_hdf("hdf5-corrupt-chunk", "damaged")
def _(file: h5py.File) -> None:
    _replace(file, "momenta", (6, 3, 3), "f8", chunks=(6, 3, 3), compression="gzip")
    file["momenta"].id.write_direct_chunk((0, 0, 0), bytes(range(200)))


def _momenta(path: Path, data: Any) -> None:
    with hdf(path) as file:
        text = isinstance(data, np.ndarray) and data.dtype.kind == "O"
        _replace(file, "momenta", data=data, **({"dtype": h5py.string_dtype()} if text else {}))


for _name, _says, _data in (
    ("wrong-shape", "shape", np.ones((6, 4, 3))),
    ("two-axes", "shape", np.ones((6, 9))),
    ("no-event", "no event", np.ones((0, 3, 3))),
    ("a-number", "shape", 1.0),
    ("text", "numbers", np.array([[["x"] * 3] * 3] * 6, object)),
    ("compound", "numbers", np.zeros((6, 3, 3), [("a", "f8")])),
    ("complex", "numbers", np.ones((6, 3, 3), complex)),
    ("nan", "no event is left", np.full((6, 3, 3), np.nan)),
):
    hostile(f"hdf5-{_name}", "e.h5", _says, report=_name == "nan")(
        lambda path, data=_data: _momenta(path, data)
    )


@_hdf("hdf5-empty-dataset", "numbers|shape")
def _(file: h5py.File) -> None:
    _replace(file, "momenta", data=h5py.Empty("f8"))


@_hdf("hdf5-group-for-a-dataset", "numbers")
def _(file: h5py.File) -> None:
    del file["momenta"]
    file.create_group("momenta")["momenta"] = file  # a group that holds what holds it


@_hdf(
    "hdf5-groups-in-a-circle",
    "no dataset|missing",
    reading={
        "mapping": Mapping.from_dict(
            {"tree": "a/loop/loop/loop", "momenta": {"unit": "au", "ions": {"c": ["x", "y", "z"]}}}
        )
    },
)
def _(file: h5py.File) -> None:
    group = file.create_group("a")
    group["loop"] = group


@_hdf("hdf5-event-numbers-infinite", "whole|finite", report=True)
def _(file: h5py.File) -> None:
    _replace(file, "event", data=np.array([0.0, 1, 2, np.inf, -np.inf, np.nan]))


@_hdf("hdf5-event-numbers-of-2-to-60", "whole", report=True)
def _(file: h5py.File) -> None:
    _replace(file, "event", data=np.arange(6) + (1 << 60))


@_hdf("hdf5-event-numbers-unsigned", "whole", report=True)
def _(file: h5py.File) -> None:
    _replace(file, "event", data=np.full(6, 2**64 - 1, np.uint64))


@_hdf("hdf5-event-numbers-twice", "twice", report=True)
def _(file: h5py.File) -> None:
    _replace(file, "event", data=np.zeros(6, int))


@_hdf("hdf5-sigma-negative", "sigma", report=True)
def _(file: h5py.File) -> None:
    _replace(file, "sigma", data=np.full(6, -1.0))


@_hdf("hdf5-unit-with-escape-codes", "in ")
def _(file: h5py.File) -> None:
    file["momenta"].attrs["unit"] = "\x1b[2J\nkg m/s"


@_hdf("hdf5-unit-of-many", "unit|in ")
def _(file: h5py.File) -> None:
    file["momenta"].attrs["unit"] = np.arange(1000)


_MOLECULE = base().molecule.to_dict()
for _name, _says, _value in (
    ("not-json", "JSON", "{'a': 1}"),
    ("a-list", "table", "[]"),
    ("a-number", "JSON", 1.5),
    ("many-texts", "JSON", ["{}"] * 100),
    ("bytes", "JSON", np.void(b"\xff\x00{}")),
    ("nested-lists", "JSON|deep", "[" * 100_000),
    ("nested-tables", "JSON|deep", '{"a":' * 100_000),
    ("large", "large", " " * (1 << 25)),
    ("of-a-million-ions", "100", json.dumps(_MOLECULE | {"symbols": ["C"] * 1_000_000})),
    ("with-paths", "label", json.dumps(_MOLECULE | {"labels": ["../c", "/o", "s"]})),
    ("with-unknown-keys", "unknown key", json.dumps(_MOLECULE | {"\x1b[2J": 1})),
    (
        "of-huge-numbers",
        "sound|JSON",
        json.dumps(_MOLECULE)[:-1] + ', "charges": [1' + "0" * 400 + ", 1, 1]}",
    ),
    ("of-digits", "JSON", '{"charges": ' + "1" * 10_000 + "}"),
    ("of-nan", "finite", json.dumps(_MOLECULE | {"charges": [float("nan"), 1, 1]})),
):
    hostile(f"hdf5-molecule-{_name}", "e.h5", _says)(
        lambda path, value=_value: hdf(path, molecule=value).close()
    )
hostile("hdf5-content-of-many", "e.h5")(lambda path: hdf(path, content=np.arange(9), molecule="[]").close())
hostile("hdf5-origin-nested", "e.h5", "JSON|deep")(lambda path: hdf(path, origin='{"a":' * 100_000).close())
