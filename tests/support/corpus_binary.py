"""Damaged and hostile files that are not text, links, devices and names. Adds to `corpus.HOSTILE`."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from corpus import HEADER, base, hostile, pickled, sound, text
from pyarrow import parquet

import flowcei

COLUMNS = HEADER.split(",")[1:]
ORDER: dict[str, Any] = {
    "words": ("--columns", "c o s", "--unit", "au"),
    "reading": {"columns": "c o s", "unit": "au"},
}
# --- NumPy ---------------------------------------------------------------------------------------


def _saved(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def _header(text: str, data: bytes = bytes(72)) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1") + data


def _npy(name: str, says: str, content: bytes) -> None:
    hostile(name, "e.npy", says, **ORDER)(lambda _: content)


sound("npy", "e.npy", **ORDER)(lambda _: _saved(base().momenta))
sound("npy-fortran", "e.npy", **ORDER)(lambda _: _saved(np.asfortranarray(base().momenta)))
sound("npy-big-endian", "e.npy", **ORDER)(lambda _: _saved(base().momenta.astype(">f8")))
sound("npy-flat", "e.dat", **ORDER)(lambda _: _saved(base().momenta.reshape(6, 9)))

_NPY = "not a .npy array of numbers, or cut short"
for _cut in (6, 9, 40, 127, 200, 500):
    hostile(f"npy-cut-at-{_cut}", "e.npy", _NPY if _cut < 500 else "", **ORDER)(
        lambda _, cut=_cut: _saved(base().momenta)[:cut]
    )
hostile("npy-of-objects", "e.npy", _NPY, **ORDER)(
    lambda path: _saved(np.array([pickled(path), None], object), allow_pickle=True)
)
_npy("npy-huge-shape", _NPY, _header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9, 3, 3)}"))
_npy(
    "npy-huge-number",
    _NPY,
    _header("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 9)}"),
)
_npy(
    "npy-lying-shape", _NPY, _header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 3, 3)}")
)
_npy("npy-negative-shape", "", _header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3, 3)}"))
_npy("npy-two-negative-lengths", "", _header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -9)}"))
_npy("npy-no-event", "", _header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3, 3)}"))
_npy("npy-no-number", "", _header("{'descr': '<f8', 'fortran_order': False, 'shape': ()}"))
_npy("npy-no-width", "", _header("{'descr': '<f8', 'fortran_order': False, 'shape': (9, 0)}"))
_npy("npy-code-in-the-header", _NPY, _header("{'descr': __import__('os').mkdir('exploded'), 'shape': (1,)}"))
_npy("npy-nested-header", _NPY, _header("(" * 9000))
_npy("npy-unbalanced-header", _NPY, _header("{'descr': '''<f8"))
_npy("npy-long-header", _NPY, _header("{'descr': '<f8', " + " " * 60_000 + "}"))
_npy("npy-future-version", _NPY, b"\x93NUMPY\x09\x00" + bytes(100))
_npy(
    "npy-wide",
    "10000 at the most",
    _header("{'descr': '|i1', 'fortran_order': False, 'shape': (1, 20000)}", bytes(20_000)),
)
hostile("npy-structured", "e.npy", "numbers|recognised", **ORDER)(
    lambda _: _saved(np.zeros(9, [("a", "f8"), ("b", "f8")]))
)
hostile("npy-text", "e.npy", "numbers", **ORDER)(lambda _: _saved(np.array([["1.0"] * 9])))
hostile("npy-complex", "e.npy", "numbers", **ORDER)(lambda _: _saved(np.ones((9, 9), complex)))
hostile("npy-dates", "e.npy", "numbers", **ORDER)(lambda _: _saved(np.zeros((9, 9), "M8[s]")))
hostile("npy-zeros", "e.npy", "no event is left", report=True, **ORDER)(lambda _: _saved(np.zeros((9, 9))))
hostile("npy-largest-numbers", "e.npy", "finite", report=True, **ORDER)(
    lambda _: _saved(np.full((9, 9), 1.7e308) * (-1.0) ** np.arange(9))
)
hostile(
    "npy-largest-numbers-in-another-unit",
    "e.npy",
    "finite",
    words=("--columns", "c o s", "--unit", "kg m/s"),
    reading={"columns": "c o s", "unit": "kg m/s"},
    report=True,
)(lambda _: _saved(np.full((9, 9), 1.7e308) * (-1.0) ** np.arange(9)))
hostile(
    "npy-largest-numbers-of-no-unit",
    "e.npy",
    "unit",
    words=("--columns", "c o s"),
    reading={"columns": "c o s"},
)(lambda _: _saved(np.full((9, 9), 1.7e308) * (-1.0) ** np.arange(9)))

# --- Parquet, ROOT, XYZ --------------------------------------------------------------------------


def _written(table: pa.Table, **how: Any) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, **how)
    return sink.getvalue().to_pybytes()


def _table(metadata: dict[str, str] | None = None, **changes: Any) -> bytes:
    columns: dict[str, Any] = dict(zip(COLUMNS, base().momenta.reshape(6, 9).T, strict=True))
    return _written(pa.table(columns | changes).replace_schema_metadata(metadata))


def _many_rows() -> bytes:
    """A file of 300 rows whose description speaks of 2^60 in each place."""
    table = pa.table({name: np.arange(300.0) + k for k, name in enumerate(COLUMNS)})
    data = _written(table, compression="none", use_dictionary=False, write_statistics=False)
    length = struct.unpack("<I", data[-8:-4])[0]
    body, foot = data[: -8 - length], data[-8 - length : -8]
    foot = foot.replace(b"\xd8\x04", b"\x80\x80\x80\x80\x80\x80\x80\x80\x20")  # a varint, twice the number
    return body + foot + struct.pack("<I", len(foot)) + b"PAR1"


sound("parquet", "e.parquet")(lambda _: _table())
sound("parquet-named-csv-with-colons", "a::b:c.csv")(lambda _: _table())
sound("parquet-with-hostile-pandas-metadata", "e.parquet")(
    lambda _: _table(
        metadata={"pandas": json.dumps({"index_columns": ["pcx"], "columns": [], "column_indexes": []})}
    )
)
for _cut in (4, 12, 100, 2000):
    hostile(f"parquet-cut-at-{_cut}", "e.parquet", "Parquet")(lambda _, cut=_cut: _table()[:cut])
hostile("parquet-garbage", "e.parquet", "Parquet")(lambda _: b"PAR1" + bytes(1000) + b"PAR1")
hostile("parquet-lying-footer", "e.parquet", "Parquet")(lambda _: _table()[:-8] + b"\xff\xff\xff\x7fPAR1")
hostile("parquet-lying-rows", "e.parquet", "does not hold|Parquet|damaged")(lambda _: _many_rows())
hostile("parquet-text", "e.parquet", "numbers")(lambda _: _table(pcx=["a"] * 6))
hostile("parquet-numbers-as-text", "e.parquet", "numbers")(lambda _: _table(pcx=["1_0"] * 6))
hostile("parquet-lists", "e.parquet", "numbers")(lambda _: _table(pcx=[[1.0, 2.0]] * 6))
hostile("parquet-tables", "e.parquet", "numbers")(lambda _: _table(pcx=[{"a": 1.0}] * 6))
hostile("parquet-dates", "e.parquet", "numbers")(lambda _: _table(pcx=pa.array([1] * 6, pa.timestamp("ns"))))
_SIGNALLING = np.full(6, 0x7F800001, np.uint32).view(np.float32)  # a NaN that warns when it is converted
hostile("parquet-signalling", "e.parquet", "no event is left", report=True)(lambda _: _table(pcx=_SIGNALLING))
hostile("parquet-of-another", "e.parquet", "missing|recognised")(lambda _: _written(pa.table({"a": [1]})))
hostile("parquet-wide", "e.parquet", "10000 at the most")(
    lambda _: _written(pa.table({f"c{k}": [1] for k in range(10_001)}))
)

_ROOT = "not a ROOT file, or damaged"
sound("root-with-colons", "tree::memory:x.root", reading={"unit": "au"}, words=("--unit", "au"))(
    lambda _: _tree()
)


def _tree() -> bytes:
    import tempfile

    import uproot

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "t.root"
        with uproot.recreate(place, compression=None) as file:
            file["events"] = dict(zip(COLUMNS, base().momenta.reshape(6, 9).T, strict=True))
        return place.read_bytes()


hostile("root-garbage", "e.root", _ROOT)(lambda _: b"root" + bytes(range(256)) * 20)
hostile("root-zeros", "e.root", "trees")(lambda _: b"root" + bytes(5000))
hostile("root-ones", "e.root", _ROOT)(lambda _: b"root" + b"\xff" * 5000)
for _cut in (5, 100, 400, 3000):
    hostile(f"root-cut-at-{_cut}", "e.root", "ROOT|plain numbers|tree")(lambda _, cut=_cut: _tree()[:cut])


def _xyz(name: str, says: str, content: str, *, report: bool = False) -> None:
    hostile(name, "e.xyz", says, words=("--format", "xyz"), reading={"format": "xyz"}, report=report)(
        lambda _: content.encode("utf-8", "surrogateescape")
    )


_P = "Properties=species:S:1:pos:R:3:momenta:R:3"
_FRAME = f"3\n{_P}\nC 0 0 0 0 1 2\nO 0 0 1 3 4 5\nS 0 0 2 -3 -5 -7\n"
_xyz("xyz-cut", "XYZ", _FRAME[:-40])
_xyz("xyz-cut-in-the-second", "XYZ|no line end", _FRAME + _FRAME[:-40])
_xyz("xyz-of-10-to-9-atoms", "atoms", _FRAME.replace("3\n", "1000000000\n", 1))
_xyz("xyz-of-10-to-9-atoms-in-the-second", "atoms", _FRAME + _FRAME.replace("3\n", "1000000000\n", 1))
_xyz("xyz-of-too-many-digits", "XYZ|atoms", "1" * 10_000 + "\n\nC 0 0 0\n")
_xyz("xyz-of-minus-3-atoms", "XYZ", "-" + _FRAME)
_xyz("xyz-of-no-atom", "XYZ|atoms", "0\n\n" * 5)
_xyz("xyz-unknown-symbol", "XYZ", _FRAME.replace("C ", "Qq "))
_xyz("xyz-other-atoms-later", "atoms other", _FRAME + _FRAME.replace("C ", "N "))
_xyz("xyz-only-positions", "geometries", "3\n\nC 0 0 0\nO 0 0 1\nS 0 0 2\n")
_xyz("xyz-nan", "no event is left", _FRAME.replace("-7", "nan"), report=True)
_xyz("xyz-columns-without-end", "XYZ", _FRAME.replace("momenta:R:3", "momenta:R:3000000000"))
_xyz("xyz-flat-momenta", "three numbers", _FRAME.replace("momenta:R:3", "momenta:R:2"))
_xyz("xyz-flat-momenta-later", "three numbers", _FRAME + _FRAME.replace("momenta:R:3", "momenta:R:2"))
_xyz("xyz-momenta-as-text", "three numbers", _FRAME.replace("momenta:R:3", "momenta:S:3"))
_xyz("xyz-momenta-as-text-later", "three numbers", _FRAME + _FRAME.replace("momenta:R:3", "momenta:S:3"))
_xyz("xyz-no-properties", "XYZ", _FRAME.replace(_P, "Properties=::::"))
_xyz("xyz-json", "XYZ|geometries", _FRAME.replace(_P, 'a="_JSON ' + "[" * 100_000))
_xyz("xyz-long-comment", "XYZ|geometries|characters", _FRAME.replace(_P, 'a="' + "x" * 2_000_000))
_xyz("xyz-binary", "XYZ", "3\n\udcff\udcfe\nC 0 0 0\n")
sound("xyz", "e.dat")(
    lambda _: "".join(
        f'3\n{_P} a="_JSON ["\n'
        + "".join(
            f"{s} 0 0 {k} {' '.join(map(repr, (q / flowcei.units.MOMENTUM_UNITS['sqrt(u eV)']).tolist()))}\n"
            for k, (s, q) in enumerate(zip("COS", p, strict=True))
        )
        for p in base().momenta
    ).encode()
)

# --- links, devices, names -----------------------------------------------------------------------

hostile("missing", "e.csv", "no file")(lambda _: None)
hostile("link-to-nothing", "e.csv", "no file")(lambda path: path.symlink_to("nowhere"))
hostile("link-to-itself", "e.csv", "no file")(lambda path: path.symlink_to(path))
hostile("folder", "e.csv", "not a file")(lambda path: path.mkdir())
for _format in ("", "text", "npy", "hdf5", "parquet", "root", "xyz"):
    _how: dict[str, Any] = {"words": ("--format", _format), "reading": {"format": _format}} if _format else {}
    hostile(f"pipe{_format and '-as-'}{_format}", "e.csv", "not a file", **_how)(os.mkfifo)
    hostile(f"endless-device{_format and '-as-'}{_format}", "e.csv", "not a file", **_how)(
        lambda path: path.symlink_to("/dev/zero")
    )
hostile("endless-device-as-mapping", "m.toml", "not a file", role="mapping")(
    lambda path: path.symlink_to("/dev/zero")
)
hostile("endless-device-as-molecule", "m.toml", "not a file", role="molecule")(
    lambda path: path.symlink_to("/dev/zero")
)
hostile("endless-device-as-xyz-molecule", "m.xyz", "not a file", role="molecule")(
    lambda path: path.symlink_to("/dev/zero")
)
hostile("pipe-as-mapping", "m.toml", "not a file", role="mapping")(os.mkfifo)
hostile("pipe-as-molecule", "m.toml", "not a file", role="molecule")(os.mkfifo)
hostile("pipe-as-xyz-molecule", "m.xyz", "not a file", role="molecule")(os.mkfifo)
hostile("name-with-escape-codes", "e\n\x1b[2J\x1b]0;x\x07\u202e.csv", "recognised")(lambda _: b"a,b\n1,2\n")
hostile("name-with-escape-codes-of-a-bad-table", "e\n\x1b[2J\r.csv", "number belongs", report=True)(
    lambda _: text().replace("-", "x", 1).encode()
)
hostile("names-of-columns-with-escape-codes", "e\n\x1b[2J\r.csv", "number belongs", report=True, **ORDER)(
    lambda _: (
        ",".join(f"a{a}{k}\x1b[2J,p{a}_{k}" for k in range(3) for a in "xyz") + "\n" + "1,x," * 8 + "1,x\n"
    ).encode()
)
hostile("name-too-long", "e" * 300 + ".csv", "name|file")(lambda _: None)
