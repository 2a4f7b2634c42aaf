"""Damaged and hostile files, each made by a small function: text and TOML. See corpus_binary for the rest."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import flowcei

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = "event,pcx,pcy,pcz,pox,poy,poz,psx,psy,psz"
MAPPING = """
[momenta]
unit = "hbar/bohr"
[momenta.ions]
c = ["pcx", "pcy", "pcz"]
o = ["pox", "poy", "poz"]
s = ["psx", "psy", "psz"]
"""
MOLECULE = """
symbols = ["C", "O", "S"]
[equilibrium]
unit = "bohr"
positions = [[0, 0, 0], [0, 0, 2.2], [0, 0, -2.9]]
"""


@dataclass(frozen=True)
class Case:
    """A file.

    Attributes:
        name: Id of the test.
        file: Name of the file.
        build: Writes it at a path, or returns its bytes.
        says: What the error must say, a regular expression.
        role: What the file is given as: ``events``, ``mapping`` or ``molecule``.
        words: More words of the command line.
        reading: The same for the library.
        report: Whether `flowcei check` reports on the file, with exit code 3, and not only refuses it.
    """

    name: str
    file: str
    build: Callable[[Path], bytes | None]
    says: str = ""
    role: str = "events"
    words: tuple[str, ...] = ()
    reading: dict[str, Any] = field(default_factory=dict)
    report: bool = False

    def write(self, folder: Path) -> Path:
        """Write the file into a folder."""
        path = folder / self.file
        content = self.build(path)
        if content is not None:
            path.write_bytes(content)
        return path


HOSTILE: list[Case] = []
"""What must be refused."""
SOUND: list[Case] = []
"""What looks odd and must be read; the numbers are those of `base`."""


def hostile(name: str, file: str, says: str = "", **how: Any) -> Callable:
    """Add a builder to the files that must be refused."""

    def add(build: Callable[[Path], bytes | None]) -> Callable[[Path], bytes | None]:
        HOSTILE.append(Case(name, file, build, says, **how))
        return build

    return add


def sound(name: str, file: str, **how: Any) -> Callable:
    """Add a builder to the files that must be read."""

    def add(build: Callable[[Path], bytes | None]) -> Callable[[Path], bytes | None]:
        SOUND.append(Case(name, file, build, **how))
        return build

    return add


@cache
def base() -> flowcei.Events:
    """Return the six events that sound files hold, and damaged ones held."""
    return flowcei.simulate("ocs", 6, noise="1%", seed=3)


def text(
    separator: str = ",", end: str = "\n", decimal: str = ".", header: str = HEADER, first: int = 0
) -> str:
    """Return the events as a text table."""
    rows = [[str(first + k), *map(repr, p.ravel().tolist())] for k, p in enumerate(base().momenta)]
    lines = [header.replace(",", separator)]
    lines += [separator.join(cell.replace(".", decimal) for cell in row) for row in rows]
    return end.join(lines) + end


def cell(value: str, row: int = 2, column: int = 4) -> bytes:
    """Return the table with one cell replaced."""
    lines = [line.split(",") for line in text().splitlines()]
    lines[row][column] = value
    return "".join(f"{','.join(line)}\n" for line in lines).encode()


def nowhere(value: str) -> bytes:
    """Return the table with one column replaced."""
    lines = [line.split(",") for line in text().splitlines()]
    return "".join(
        f"{','.join([*line[:4], value if k else line[4], *line[5:]])}\n" for k, line in enumerate(lines)
    ).encode()


def mapping_toml(more: str = "", old: str = "", new: str = "") -> bytes:
    """Return a mapping file, changed."""
    return (more + MAPPING.replace(old, new)).encode()


def molecule_toml(more: str = "", old: str = "", new: str = "") -> bytes:
    """Return a molecule file, changed."""
    return (more + MOLECULE.replace(old, new)).encode()


def small(role: str, most: int = 4000) -> list[bytes]:
    """Return the contents of the small text files given as `role`, to be mutated."""
    contents = []
    for case in (*SOUND, *HOSTILE):
        if case.role == role and case.file.endswith((".csv", ".txt", ".dat", ".xyz", ".toml")):
            with TemporaryDirectory() as folder:
                content = case.build(Path(folder) / "e.csv")
            contents += [content] if content and len(content) <= most else []
    return contents


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def pickled(path: Path, protocol: int = 4) -> bytes:
    """Return a pickle that, opened, makes the file `exploded` beside it."""
    return pickle.dumps(Bomb(path.absolute().parent / "exploded"), protocol)


# --- text that must be read ----------------------------------------------------------------------

sound("plain", "e.csv")(lambda _: text().encode())
sound("bom", "e.csv")(lambda _: b"\xef\xbb\xbf" + text().encode())
sound("crlf", "e.csv")(lambda _: text(end="\r\n").encode())
sound("cr-only", "e.csv")(lambda _: text(end="\r").encode())
sound("cr-only-with-bom-and-tabs", "e.txt")(lambda _: b"\xef\xbb\xbf" + text("\t", "\r").encode())
sound("blank-lines", "e.csv")(lambda _: text(end="\n\n").encode() + b"\n\n")
sound("decimal-commas", "e.csv")(lambda _: text(";", decimal=",").encode())
sound("tabs", "e.txt")(lambda _: text("\t").encode())
sound("blanks", "e.txt")(lambda _: text("  ").encode())
sound("commented-header", "e.txt")(lambda _: ("# " + text(" ")).encode())
sound("quoted-header", "e.csv")(lambda _: text(header=",".join(f'"{c}"' for c in HEADER.split(","))).encode())
sound("negative-event-numbers", "e.csv")(lambda _: text(first=-7).encode())
sound("event-numbers-as-floats", "e.csv")(lambda _: text(first=(1 << 53) - 5).encode())
sound("name-with-colons", "run::12:30.csv")(lambda _: text().encode())
sound("name-like-an-archive", "e.csv.gz")(lambda _: text().encode())
sound("name-like-a-pattern", "e*?[0-9]@1.csv")(lambda _: text().encode())
sound("name-not-unicode", "e\udcff.csv")(lambda _: text().encode())
sound("mapping", "m.toml", role="mapping")(lambda _: mapping_toml())
sound("mapping-crlf", "m.toml", role="mapping")(lambda _: mapping_toml().replace(b"\n", b"\r\n"))
sound("molecule", "m.toml", role="molecule")(lambda _: molecule_toml())

# --- text that must be refused -------------------------------------------------------------------

hostile("empty", "e.csv", "empty")(lambda _: b"")
hostile("cut-in-the-header", "e.csv", "missing")(lambda _: text().encode()[:20])
hostile("header-only", "e.csv", "no event")(lambda _: HEADER.encode())
hostile("cut-in-a-row", "e.csv", "row 6: 5 fields", report=True)(
    lambda _: f"{','.join(text().strip().split(',')[:-5])}\n".encode()
)
hostile("blank-header", "e.csv", "blank")(lambda _: b"\n" + text().encode())
hostile("header-of-separators", "e.csv", "blank")(lambda _: b",,,,\n1,2,3,4,5\n")
hostile("only-newlines", "e.csv", "blank")(lambda _: b"\n" * 1000)
hostile("duplicate-header", "e.csv", "duplicate", report=True)(
    lambda _: text().replace("event", "pcx").encode()
)
hostile("duplicate-unused-columns", "e.csv", "duplicate", report=True)(
    lambda _: "".join(f"{line},{'aa'[: 1 + k]},a\n" for k, line in enumerate(text().split())).encode()
)
hostile("utf-16-le", "e.csv", "UTF-16")(lambda _: text().encode("utf-16"))
hostile("utf-16-be", "e.csv", "UTF-16")(lambda _: b"\xfe\xff" + text().encode("utf-16-be"))
hostile("utf-16-without-mark", "e.csv", "binary")(lambda _: text().encode("utf-16-le"))
hostile("latin-1", "e.csv", "UTF-8")(lambda _: text(header=HEADER + ",é").encode("latin-1"))
hostile("latin-1-far-below", "e.csv", "UTF-8")(
    lambda _: b"# " + text().encode() + b"6,1,2,3,1,2,3,1,2,\xe9\n"
)
hostile("decimal-commas-between-commas", "e.csv", "fields", report=True)(lambda _: text(decimal=",").encode())
hostile("quoted-newline", "e.csv", "fields", report=True)(lambda _: cell('"1.0\n2.0"'))
hostile("quoted-number", "e.csv", "number belongs", report=True)(lambda _: cell('"1.0"'))
hostile("unbalanced-quote", "e.csv", "number belongs", report=True)(lambda _: cell('"1.0'))
hostile("unbalanced-quote-in-the-header", "e.csv")(lambda _: ('"' + text()).encode())
hostile("nan-everywhere", "e.csv", "no event is left", report=True)(lambda _: nowhere("nan"))
hostile("blank-everywhere", "e.csv", "no event is left", report=True)(lambda _: nowhere(""))
hostile("too-large-everywhere", "e.csv", "no event is left", report=True)(lambda _: nowhere("1e200"))
hostile("formula", "e.csv", "number belongs", report=True)(lambda _: cell("=cmd|' /C calc'!A0"))
hostile("python-number", "e.csv", "number belongs", report=True)(lambda _: cell("1_000"))
hostile("arabic-digits", "e.csv", "number belongs", report=True)(lambda _: cell("١٢"))
hostile("hexadecimal", "e.csv", "number belongs", report=True)(lambda _: cell("0x10"))
hostile("long-cell", "e.csv", "number belongs", report=True)(lambda _: cell("1" * 200_000 + "x"))
hostile("ragged", "e.csv", "row 2: 11 fields", report=True)(lambda _: cell("1,2"))
hostile("ragged-in-a-column-that-is-not-read", "e.csv", "row 3: 10 fields", report=True)(
    lambda _: "".join(f"{line}{',a' if k != 3 else ''}\n" for k, line in enumerate(text().split())).encode()
)
hostile("ragged-everywhere", "e.csv", "fields", report=True)(
    lambda _: text().replace("\n", ",1\n").replace("z,1", "z", 1).encode()
)
hostile("zero-byte", "e.csv", "0", report=True)(lambda _: cell("\0"))
hostile("zero-bytes-only", "e.csv", "binary")(lambda _: bytes(10_000))
hostile("noise", "e.csv", "UTF-8")(lambda _: bytes(range(200, 256)) * 100)
hostile("escape-codes", "e.csv", "number belongs", report=True)(lambda _: cell("\x1b[2J\x1b]0;x\x07"))
hostile("escape-codes-in-the-header", "e.csv", "unknown column", report=True)(
    lambda _: text(header=HEADER.replace("event", "\x1b[2J\x1b[31m")).encode()
)
hostile("event-number-of-2-to-60", "e.csv", "whole", report=True)(lambda _: cell(str(1 << 60), column=0))
hostile("event-number-beyond-int64", "e.csv", "whole", report=True)(lambda _: cell("9" * 30, column=0))
hostile("event-number-of-a-half", "e.csv", "whole", report=True)(lambda _: cell("0.5", column=0))
hostile("event-number-twice", "e.csv", "twice", report=True)(lambda _: cell("0", column=0))
hostile("many-columns", "e.csv", "million characters")(
    lambda _: b"".join((b"a," * 1_000_000, b"\n", b"1," * 1_000_000, b"\n"))
)
hostile("ten-thousand-columns-and-one", "e.csv", "10000 at the most")(lambda _: b"a," * 10_000 + b"b\n")
hostile("first-line-of-2-MB", "e.csv", "million characters")(lambda _: b"1" * 2_000_000 + b"\n1\n")
hostile("line-of-50-MB", "e.csv", "million characters")(lambda _: b"1" * 50_000_000)
hostile("later-line-of-50-MB", "e.csv", "million characters")(lambda _: text().encode() + b"1" * 50_000_000)
hostile("second-line-of-2-MB", "e.csv", "million characters")(
    lambda _: HEADER.encode() + b"\n" + b"1" * 2_000_000
)
hostile("header-of-one-long-name", "e.csv", "long")(lambda _: b"a" * 1_000_000 + b"\n1\n")
hostile("header-of-one-long-number", "e.txt", "long")(lambda _: b"1" * 200_000 + b"x 2\n1 2\n")
hostile("header-of-a-long-quote", "e.csv", "long")(lambda _: b'"' + b"a," * 300_000 + b"\n1\n")
hostile(
    "header-of-rows-of-ions-only",
    "e.csv",
    "no event",
    words=("--columns", "c o s"),
    reading={"columns": "c o s"},
)(lambda _: b"vx_ms,vy_ms,vz_ms,event\n")
hostile("event-without-end", "e.csv", "rows", words=("--molecule", "co2"))(
    lambda _: b"event,mass_u,px,py,pz\n" + b"1,12,1,2,3\n" * 30_000
)


# --- archives, pickles and other files that are not opened ---------------------------------------


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(name, bytes(20_000_000))
    return buffer.getvalue()


hostile("gzip-bomb", "e.csv.gz", "gzip")(lambda _: gzip.compress(bytes(100_000_000), 1))
hostile("gzip-bomb-named-csv", "e.csv", "gzip")(lambda _: gzip.compress(bytes(1_000_000), 1))
hostile("bzip2-bomb", "e.csv.bz2", "bzip2")(lambda _: bz2.compress(bytes(1_000_000)))
hostile("xz-bomb", "e.csv.xz", "xz")(lambda _: lzma.compress(bytes(1_000_000), preset=0))
hostile("zstd-bomb", "e.csv.zst", "zstd")(lambda _: b"\x28\xb5\x2f\xfd\xa4" + b"\xff\xff\xff\xff\x02" * 20)
hostile("zip-bomb", "e.csv.zip", "zip")(lambda _: _zip("e.csv"))
hostile("npz-bomb", "e.npz", "zip")(lambda _: _zip("momenta.npy"))
hostile("empty-zip", "e.zip")(lambda _: b"PK\x05\x06" + bytes(18))
for _ending in ("npy", "h5", "csv", "safetensors", "parquet", "root", "xyz"):
    hostile(f"pickle-named-{_ending}", f"e.{_ending}", "pickle")(pickled)
hostile("pickle-of-protocol-0", "e.csv")(lambda path: pickled(path, 0))
for _format in ("text", "npy", "hdf5", "parquet", "root", "xyz"):
    hostile(f"pickle-forced-as-{_format}", "e.dat", words=("--format", _format), reading={"format": _format})(
        pickled
    )

# --- mappings ------------------------------------------------------------------------------------


def _mapping(name: str, says: str, content: bytes) -> None:
    hostile(name, "m.toml", says, role="mapping")(lambda _: content)


_mapping("mapping-cut", "TOML", mapping_toml()[:-4])
_mapping("mapping-cut-between-lines", "rows|ions|mapping", mapping_toml()[:-30].rsplit(b"\n", 1)[0])
_mapping("mapping-binary", "TOML", bytes(range(256)))
_mapping("mapping-utf-16", "TOML", mapping_toml().decode().encode("utf-16"))
_mapping("mapping-unknown-field", "forbidden|not permitted", mapping_toml("shell = 'rm -rf'\n"))
_mapping("mapping-long-field", "mapping", mapping_toml(f"{'x' * 500_000} = 1\n"))
_mapping("mapping-too-large", "1 MiB", mapping_toml("#" * (1 << 20) + "\n"))
_mapping(
    "mapping-of-100000-keys", "1 MiB|mapping", mapping_toml("".join(f"k{k}=1\n" for k in range(100_000)))
)
_mapping("mapping-nested-arrays", "TOML|deep", mapping_toml("a = " + "[" * 100_000 + "\n"))
_mapping("mapping-nested-tables", "TOML|deep", mapping_toml("a = " + "{a=" * 100_000 + "\n"))
_mapping("mapping-dotted-key", "deep", mapping_toml("a." * 200_000 + "a = 1\n"))
_mapping("mapping-dotted-quoted-key", "deep", mapping_toml("'a' . \"b\"." * 50_000 + "a = 1\n"))
_mapping("mapping-dotted-table", "deep", mapping_toml() + b"[" + b"a." * 200_000 + b"a]\n")
_mapping("mapping-huge-integer", "", mapping_toml("event = " + "9" * 5000 + "\n"))
_mapping("mapping-huge-hexadecimal", "", mapping_toml("event = 0x" + "f" * 500_000 + "\n"))
_mapping("mapping-date", "", mapping_toml("event = 2020-13-45\n"))
_mapping("mapping-of-numbers", "finite", mapping_toml(old='"pcx"', new="nan"))
_mapping("mapping-beyond-float", "finite|mapping", mapping_toml(old='"pcx"', new="1" * 400))
_mapping("mapping-of-one-ion-more", "ions|named 2 times", mapping_toml() + b'x = ["pcx", "pcy", "pcz"]\n')
_mapping(
    "mapping-of-many-ions", "100", mapping_toml() + b"".join(b"x%d = [0, 0, 0]\n" % k for k in range(999))
)
_mapping(
    "mapping-of-ions-that-are-nan",
    "finite|number",
    b"""rows = "ion"
event = "event"
ions = {column = "pcx", values = {c = nan, o = nan, s = inf}}
momenta = {unit = "hbar/bohr", columns = ["pcx", "pcy", "pcz"]}
""",
)
_mapping("mapping-of-a-missing-column", "missing", mapping_toml(old="psz", new="nowhere"))
_mapping("mapping-with-escape-codes", "missing", mapping_toml(old="psz", new="\\u001b[2J"))
_mapping("mapping-with-a-huge-unit", "", mapping_toml(old="hbar/bohr", new="x" * 100_000))
_mapping(
    "mapping-of-a-channel-that-is-nan", "finite", mapping_toml() + b"[channel]\ncolumn='pcx'\nvalue=nan\n"
)
_mapping(
    "mapping-with-a-path",
    "missing|group",
    mapping_toml('tree = "/etc/passwd"\n', old="pcx", new="/etc/passwd"),
)
hostile("mapping-that-is-a-folder", "m.toml", "not a file", role="mapping")(lambda path: path.mkdir())

# --- molecules -----------------------------------------------------------------------------------


def _molecule(name: str, says: str, content: bytes, file: str = "m.toml") -> None:
    hostile(name, file, says, role="molecule")(lambda _: content)


_molecule("molecule-cut", "TOML", molecule_toml()[:-4])
_molecule("molecule-cut-between-lines", "lacks", molecule_toml()[:40])
_molecule("molecule-binary", "text|TOML", bytes(range(256)))
_molecule("molecule-nested-arrays", "TOML|deep", molecule_toml("bonds = " + "[" * 100_000 + "\n"))
_molecule("molecule-dotted-key", "deep", molecule_toml("a." * 200_000 + "a = 1\n"))
_molecule("molecule-too-large", "1 MiB", molecule_toml("#" * (1 << 20) + "\n"))
_molecule("molecule-of-many-ions", "100", molecule_toml(old='"C"', new='"C",' * 20_000 + '"C"'))
_molecule("molecule-beyond-float", "sound", molecule_toml(old="2.2", new="9" * 400))
_molecule("molecule-huge-integer", "TOML", molecule_toml(old="2.2", new="9" * 5000))
_molecule("molecule-nan", "finite", molecule_toml(old="2.2", new="nan"))
_molecule("molecule-far-away", "bohr", molecule_toml(old="2.2", new="1e300"))
_molecule("molecule-charges-too-large", "charges", molecule_toml("charges = [1e308, 1, 1]\n"))
_molecule(
    "molecule-masses-too-large", "masses", molecule_toml() + b"[masses]\nunit = 'u'\nvalues = [1e308, 1, 1]\n"
)
_molecule("molecule-with-paths-for-labels", "label", molecule_toml("labels = ['../../c', '/etc/o', 's']\n"))
_molecule("molecule-with-formulas-for-labels", "label", molecule_toml("labels = ['=1+1', 'o', 's']\n"))
_molecule("molecule-with-numbers-for-labels", "label", molecule_toml("labels = [1, 2, 3]\n"))
_molecule("molecule-with-escape-codes", "name", molecule_toml('name = "\\u001b[2J"\n'))
_molecule("molecule-with-a-long-name", "name", molecule_toml(f"name = '{'x' * 100_000}'\n"))
_molecule("molecule-of-an-unknown-element", "symbol", molecule_toml(old='"C"', new='"Qq"'))
_molecule("molecule-with-a-table-for-a-prior", "prior", molecule_toml("default_prior = ['a']\n"))
_molecule("molecule-xyz-of-many-atoms", "atoms", b"1000000000\n\nC 0 0 0\n", "m.xyz")
_molecule("molecule-xyz-cut", "XYZ", b"3\n\nC 0 0 0\nO 0 0", "m.xyz")
_molecule("molecule-xyz-pickle", "XYZ", pickled(Path("/nowhere/e")), "m.xyz")
