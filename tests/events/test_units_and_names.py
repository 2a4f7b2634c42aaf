"""What a file says of units, ions and its own end: read where it is said, refused where it contradicts."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import Shell

import flowcei
from flowcei import check_file
from flowcei.errors import DataError
from flowcei.events.foreign.interpretation import Reading, guessed
from flowcei.events.foreign.mapping import Mapping
from flowcei.events.foreign.names import named_components
from flowcei.events.source import open_events
from flowcei.events.storage import read_events, write_csv
from flowcei.units import ANGSTROM, MOMENTUM_UNITS

if TYPE_CHECKING:
    from flowcei.reconstruction.model import Reconstructor

B = 40
EVENTS = flowcei.simulate("ocs", B, noise="1%", seed=11)
P = EVENTS.momenta
KG = 1.99285191410e-24  # kg m/s in one hbar/bohr, CODATA 2018
U = P * KG / 1.66053906660e-27  # in u m/s: the atomic mass unit in kg, CODATA 2018
CELLS = [f"p{a}_{i}" for i in "COS" for a in "xyz"]


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Run commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _table(numbers: np.ndarray = P, names: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(numbers.reshape(len(numbers), 9), columns=names or CELLS)


def _hdf(path: Path, momenta: np.ndarray, **units: Any) -> None:
    """Write `/momenta` as another program does; `dataset`, `group` and `file` say who has the attribute."""
    with h5py.File(path, "w") as file:
        file["momenta"] = momenta
        for place, (name, word) in units.items():
            (file["momenta"] if place == "dataset" else file).attrs[name] = word


@pytest.mark.parametrize("name", ["unit", "Unit", "UNITS", "units"])
@pytest.mark.parametrize("place", ["dataset", "file"])
@pytest.mark.parametrize("word", ["u m/s", b"u m/s", "amu*m/s", "u m s^-1"])
def test_a_unit_in_an_attribute_is_read(tmp_path: Path, name: str, place: str, word: str | bytes) -> None:
    """In any letters, as text or bytes, on the dataset or the file; nothing is then concluded of it."""
    _hdf(tmp_path / "e.h5", U, **{place: (name, word)})
    source = open_events(tmp_path / "e.h5")
    np.testing.assert_allclose(source.read().momenta, P, rtol=1e-8)
    assert "taken to be" not in " ".join(source.conclusions)
    assert "c o s; --columns states another" in " ".join(source.conclusions)


def test_without_an_attribute_the_unit_is_told_from_the_energy_and_said(tmp_path: Path) -> None:
    """`/momenta` alone is not in hbar/bohr because of its name; where no unit fits it is asked for."""
    for factor, unit in ((U / P, "u m/s"), (KG * 1e22, "1e-22 kg m/s"), (1.0, "hbar/bohr")):
        _hdf(tmp_path / "e.h5", P * factor)
        source = open_events(tmp_path / "e.h5")
        np.testing.assert_allclose(source.read().momenta, P, rtol=1e-8)
        assert f"momenta taken to be in {unit}" in " ".join(source.conclusions)
    _hdf(tmp_path / "e.h5", P * 1e9)
    with pytest.raises(DataError, match="--unit"):
        read_events(tmp_path / "e.h5")
    order = [1, 0, 2]
    _hdf(tmp_path / "e.h5", P[:, order])
    found = read_events(tmp_path / "e.h5", "ocs", Reading(columns="o c s", unit="hbar/bohr"))
    np.testing.assert_array_equal(found.momenta, P)


def test_positions_and_more_stand_beside_foreign_momenta(tmp_path: Path) -> None:
    """Positions with a unit or without, event numbers, a delay, an axis of another length."""
    for unit in ("angstrom", ""):
        with h5py.File(tmp_path / "e.h5", "w") as file:
            file["momenta"], file["positions"] = U, EVENTS.positions / ANGSTROM
            file["momenta"].attrs["units"] = "u m/s"
            if unit:
                file["positions"].attrs["Units"] = unit
            file["event"], file["delay"], file["axis"] = np.arange(B) + 5, np.arange(B) * 2.0, np.arange(7)
        source = open_events(tmp_path / "e.h5")
        found = source.read()
        np.testing.assert_allclose(found.positions, EVENTS.positions, rtol=1e-8)
        assert found.event_id[0] == 5
        assert (found.columns["delay"] == np.arange(B) * 2.0).all()
        assert "columns not read: axis" in source.column_notes
        assert ("positions taken to be" in " ".join(source.conclusions)) == (not unit)


def _records() -> np.ndarray:
    table = _table()
    table["delay"] = np.arange(B) * 1.5
    return table.to_records(index=False)


@pytest.mark.parametrize("kind", ["table", "ions", "each", "pytables", "npy", "nested"])
def test_records_are_read_by_their_fields(tmp_path: Path, kind: str) -> None:
    """One table of records; (B, N) records of x, y, z; a dataset an ion; PyTables; structured NumPy."""
    path, reading = tmp_path / "e.h5", Reading(unit="hbar/bohr")
    vector = np.dtype([("x", "f8"), ("y", "f8"), ("z", "f8")])
    vectors = np.ascontiguousarray(P).view(vector)[..., 0]
    if kind == "npy":
        path = tmp_path / "e.npy"
        np.save(path, _records())
    elif kind == "pytables":
        with h5py.File(path, "w") as file:  # as pandas writes with format="table", data_columns=True
            table = _table().reset_index().to_records(index=False)
            file.create_dataset("df/table", data=table)
    elif kind == "nested":
        path = tmp_path / "e.npy"
        array = np.zeros(B, [(f"p_{ion}", vector) for ion in "COS"])
        for k, ion in enumerate("COS"):
            array[f"p_{ion}"] = vectors[:, k]
        np.save(path, array)
    else:
        with h5py.File(path, "w") as file:
            if kind == "table":
                file["events"] = _records()
            elif kind == "ions":
                file["momenta"] = vectors
                reading = Reading(unit="hbar/bohr", columns="c o s")
            else:
                for k, ion in enumerate("COS"):
                    file[f"momenta/{ion}"] = vectors[:, k]
    found = read_events(path, "ocs", reading)
    np.testing.assert_array_equal(found.momenta, P)
    if kind in ("table", "npy"):
        assert (found.columns["delay"] == np.arange(B) * 1.5).all()


def test_columns_of_a_frame_that_pandas_stores_as_blocks_are_numbered(tmp_path: Path) -> None:
    """Names in a pickle are not read: the fields are named, and --columns orders what they hold."""
    with h5py.File(tmp_path / "e.h5", "w") as file:
        table = np.zeros(B, [("index", "i8"), ("values_block_0", "f8", (9,))])
        table["values_block_0"] = P.reshape(B, 9)
        file.create_dataset("df/table", data=table)
    with pytest.raises(DataError, match="--columns"):
        read_events(tmp_path / "e.h5")
    found = read_events(tmp_path / "e.h5", "ocs", Reading(unit="hbar/bohr", columns="c o s"))
    np.testing.assert_array_equal(found.momenta, P)


def _lines(header: str, *more: str) -> str:
    rows = [",".join(map(repr, row)) for row in P.reshape(B, 9).tolist()]
    return "\n".join([header, *more, *rows, ""])


@pytest.mark.parametrize(
    ("text", "reading", "words"),
    [
        (
            _lines(",".join(CELLS), "au,au,kg m/s," + ",".join(["au"] * 6)),
            Reading(),
            "pz_C.*'kg m/s'.*'hbar/bohr'",
        ),
        (_lines(",".join(CELLS), "au,au,,au,au,au,au,au,au"), Reading(), "pz_C'.*states no unit"),
        (_lines(",".join(CELLS), ",".join(["m"] * 9)), Reading(), "px_C.*'m'.*no unit of momenta"),
        (_lines(",".join(f"{n} [kg m/s]" for n in CELLS)), Reading(unit="au"), "px_C.*'kg m/s'.*'au'"),
        (_lines(",".join(CELLS).replace("py_C", "px_C")), Reading(), "px_C'.*duplicate"),
        (_lines(",".join(CELLS).replace("py_C", "Px(C)")), Reading(), "same component of the same ion"),
        (_lines("pcx,pcy,pcz,pox,poy,poz,psx,psy,psz"), Reading(columns="c o s"), "leave out --columns"),
        (_lines(",".join(CELLS)).replace(",", ";").replace(".", ","), None, ""),
        ("px_C;py_C\n12,170;-8,507\n1,001;9,100\n", Reading(), r"px_C'.*12,170.*thousands"),
        ("px_C\tpy_C\n1,234,567\t-8,507\n", Reading(), r"px_C'.*1,234,567.*thousands"),
        ("px_C;py_C\n12,1705;-8.507\n", Reading(), "no column was recognised"),
        ("px_C;py_C\n1.5;-8,507.25\n", Reading(), r"py_C'.*-8,507.25.*comma separates thousands"),
        ('px_C,py_C\n1.5,"-8,507"\n', Reading(), r"py_C'.*-8,507.*comma separates thousands"),
        ("px_C py_C\n1.5 -8,507.25\n", Reading(), r"py_C'.*-8,507.25.*comma separates thousands"),
        ("1,001.5 -8,507.25\n", Reading(columns="c o s"), "numbers with commas between blanks"),
    ],
)
def test_contradictions_are_refused_naming_the_column(
    tmp_path: Path, text: str, reading: Reading | None, words: str
) -> None:
    """Units row, names, --unit, doubled and twice-read columns, commas that may be thousands."""
    path = tmp_path / "e.csv"
    path.write_text(text)
    if reading is None:  # the same commas, with decimals of all lengths: they separate decimals
        np.testing.assert_array_equal(read_events(path, "ocs", Reading(unit="au")).momenta, P)
        return
    with pytest.raises((DataError, ValueError), match=words) as caught:
        read_events(path, "ocs", reading)
    assert "\n" not in str(caught.value)


def test_decimals_that_look_like_thousands_can_be_stated(tmp_path: Path) -> None:
    """Three decimals everywhere: `decimal` of a mapping says what the commas are; points beside them fail."""
    numbers = np.where(np.abs(np.round(P, 3)) < 1.0, 7.125, np.round(P, 3)).reshape(B, 9)
    rows = [";".join(f"{x:.3f}".replace(".", ",") for x in row) for row in numbers]
    path, ions = tmp_path / "e.csv", {i: CELLS[3 * k : 3 * k + 3] for k, i in enumerate("cos")}
    path.write_text("\n".join([";".join(CELLS), *rows, ""]))
    with pytest.raises(DataError, match="thousands or decimals"):
        read_events(path, "ocs", Reading(unit="au"))
    mapping = Mapping.from_dict({"decimal": ",", "momenta": {"unit": "au", "ions": ions}})
    found = read_events(path, "ocs", Reading(mapping=mapping))
    np.testing.assert_allclose(found.momenta.reshape(B, 9), numbers, rtol=1e-12)
    rows[4] = rows[4].replace(",", ".", 1)
    path.write_text("\n".join([";".join(CELLS), *rows, ""]))
    with pytest.raises(DataError, match=r"row 5, column 'px_C'.*point"):
        read_events(path, "ocs", Reading(mapping=mapping))


def test_attributes_that_contradict_are_refused(tmp_path: Path) -> None:
    """--unit and a mapping against the attribute of HDF5, and against the metadata of Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    _hdf(tmp_path / "e.h5", U, dataset=("Unit", "u m/s"))
    with pytest.raises(DataError, match=r"'u m/s'.*'kg m/s'"):
        read_events(tmp_path / "e.h5", "ocs", Reading(unit="kg m/s"))
    _hdf(tmp_path / "e.h5", U, dataset=("Unit", "parsec"))
    with pytest.raises(DataError, match=r"'parsec'.*no unit of momenta"):
        read_events(tmp_path / "e.h5")
    for names in (CELLS, [f"p{i}{a}" for i in "cos" for a in "xyz"]):
        table = pa.Table.from_pandas(_table(U, names))
        fields = [field.with_metadata({"Units": "u m/s"}) for field in table.schema]
        parquet.write_table(table.cast(pa.schema(fields)), tmp_path / "e.parquet")
        np.testing.assert_allclose(read_events(tmp_path / "e.parquet").momenta, P, rtol=1e-8)
        with pytest.raises(DataError, match="'u m/s'"):
            read_events(tmp_path / "e.parquet", "ocs", Reading(unit="au"))


_QUANTITY = st.sampled_from(["p", "P", "mom", "Mom", "momentum", "v", "vel", "velocity"])
_SEPARATOR = st.sampled_from(["_", ".", " ", "-"])


@settings(max_examples=200, deadline=None)
@given(
    quantity=_QUANTITY,
    axis=st.sampled_from("xyzXYZ"),
    ion=st.sampled_from(["C", "o", "Br", "h2", "ion1", "ion_2", "1", "12", "O++", "C2+", "D"]),
    between=_SEPARATOR,
    order=st.sampled_from(
        ["{q}{a}{s}{i}", "{q}{s}{a}{s}{i}", "{i}{s}{q}{a}", "{q}{s}{i}{s}{a}", "{q}{a}({i})"]
    ),
    unit=st.sampled_from(["", " [kg m/s]", " (au)", "/(m/s)"]),
)
def test_names_of_programs_are_recognised(
    quantity: str, axis: str, ion: str, between: str, order: str, unit: str
) -> None:
    """`Px_ion_1`, `p_x(C)`, `O++.px`, `mom_x_O [au]`: quantity, axis and ion, in any order and letters."""
    name = order.format(q=quantity, a=axis, i=ion, s=between) + unit
    kind = "velocities" if quantity[0] in "vV" else "momenta"
    bare = {"O++": "o", "C2+": "c", "ion_2": "ion2"}.get(ion, ion.lower())
    assert named_components([name])[0][kind] == {bare: {axis.lower(): name}}


@pytest.mark.parametrize(
    ("pattern", "ions"),
    [
        ("P{a}_ion_{i}", "123"),
        ("p{a}{i}", "123"),
        ("p{i}{a}", "123"),
        ("P{a}_{i}", ["C", "O", "S"]),
        ("{i}_p{a}", ["C", "O", "S"]),
        ("mom_{a}_{i}", ["C", "O", "S"]),
        ("p{a}_{i}", ["C2+", "O2+", "S2+"]),
    ],
)
def test_a_file_with_such_names_is_read(tmp_path: Path, pattern: str, ions: str) -> None:
    """Numbered ions need an order, others none."""
    names = [pattern.format(a=a, i=i) for i in ions for a in "xyz"]
    _table(P, names).to_csv(tmp_path / "e.csv", index=False)
    order = "c o s" if ions == "123" else ""
    found = read_events(tmp_path / "e.csv", "ocs", Reading(unit="au", columns=order))
    np.testing.assert_allclose(found.momenta, P)


def test_an_ion_at_zero_or_nan_is_missing(flow: Shell) -> None:
    """Lost ions are counted as such, not as outliers; an ion that truly rests is no lost one."""
    momenta = P.copy()
    momenta[3, 1], momenta[[8, 20], 2] = 0.0, 0.0
    _table(momenta).to_csv("e.csv", index=False)
    with pytest.warns(UserWarning, match="40 events read, 3 left out: 3 lacking an ion"):
        found = read_events("e.csv", "ocs", Reading(unit="au"))
    np.testing.assert_array_equal(found.event_id, np.delete(np.arange(B), [3, 8, 20]))
    assert flow("convert", "e.csv", "--unit", "au") == 0
    assert "3 lacking an ion (zeros, blank or NaN), which only --missing takes" in flow.err
    report = check_file("e.csv", "ocs", Reading(unit="au"))
    assert any("3 of 40 events: lacking an ion" in line.message for line in report.diagnostics)
    rest = np.array([[[0.0, 0, 0], [-80, 1, 5], [80, -1, -5]]])
    flowcei.write_events(flowcei.Events("co2", rest), "co2.csv")
    assert len(read_events("co2.csv", "co2")) == 1


@pytest.mark.parametrize(
    "ending", ["csv", "blank.csv", "ions.csv", "npy", "struct.npy", "h5", "table.h5", "parquet", "root"]
)
def test_what_cannot_be_used_is_counted_in_every_format(flow: Shell, ending: str) -> None:
    """Ions of 3 and 5 lost, a component of 6 unknown, of 7 infinite, 9 at rest; then nothing is left."""
    pytest.importorskip({"parquet": "pyarrow", "root": "uproot"}.get(ending, "numpy"))
    momenta = P.copy()
    momenta[3, 1] = momenta[5, 0] = momenta[6, 0, 1] = np.nan
    momenta[7, 2, 2], momenta[9] = np.inf, 0.0
    _written(momenta, f"e.{ending}")
    words = ["--unit", "au", *(["--columns", "c o s"] if ending == "npy" else []), "-o", "out.h5"]
    words = ["-o", "out.h5"] if ending == "h5" else words
    assert flow("convert", f"e.{ending}", *words) == 0, flow.err
    where = "event" if ending in ("ions.csv", "h5") else "row"
    first = [number + (where == "row") for number in (3, 6, 9)]
    for text in (
        "40 events read, 5 left out: ",
        "2 lacking an ion (zeros, blank or NaN), which",
        f"only --missing takes, where two are left (first: {where} {first[0]}), 2 with",
        f"2 with a number that is blank, not finite or too large (first: {where} {first[1]})",
        f"1 without kinetic energy (first: {where} {first[2]})",
    ):
        assert text in flow.err
    rest = np.delete(np.arange(B), [3, 5, 6, 7, 9])
    found = read_events("out.h5")
    np.testing.assert_array_equal(found.event_id, rest)
    np.testing.assert_allclose(found.momenta, P[rest])
    _written(np.where(np.arange(3)[:, None] == 1, np.nan, P), f"none.{ending}")
    words[-1] = "all.h5"
    assert flow("convert", f"none.{ending}", *words) == 3
    assert not Path("all.h5").exists()


def _written(momenta: np.ndarray, name: str) -> None:
    """Write momenta as a stranger would, in the format of a name."""
    table, (kind, _, rest) = _table(momenta), name.partition(".")[2].partition(".")
    if name.endswith("ions.csv"):
        ions = pd.DataFrame(momenta.reshape(-1, 3), columns=["px", "py", "pz"])
        ions.insert(0, "event", np.repeat(np.arange(len(momenta)), 3))
        ions.insert(1, "ion", ["c", "o", "s"] * len(momenta))
        ions.to_csv(name, index=False)
    elif name.endswith("csv"):
        table.to_csv(name, index=False, na_rep="" if kind == "blank" else "NaN")
    elif kind == "npy":
        np.save(name, momenta.reshape(-1, 9))
    elif kind == "struct":
        np.save(name, table.to_records(index=False))
    elif kind == "parquet":
        table.to_parquet(name, index=False)
    elif kind == "root":
        uproot = importlib.import_module("uproot")
        with uproot.recreate(name) as file:
            file["events"] = {column: table[column].to_numpy() for column in table}
    else:
        with h5py.File(name, "w") as file:
            if rest:
                file["events"] = table.to_records(index=False)
                return
            file.attrs["content"], file.attrs["molecule"] = (
                "flowcei events",
                json.dumps(EVENTS.molecule.to_dict()),
            )
            file["momenta"], file["event"] = momenta, np.arange(len(momenta))


def test_a_last_line_without_its_end_is_named(flow: Shell) -> None:
    """A number that is cut reads as a shorter one; --allow-truncated reads what is known to be whole."""
    text = _lines("pcx,pcy,pcz,pox,poy,poz,psx,psy,psz")
    for cut in range(1, 8):
        Path("e.csv").write_text(text[:-cut])
        with pytest.raises(DataError, match=r"line 41, the last one, has no line end.*--allow-truncated"):
            read_events("e.csv")
    assert flow("convert", "e.csv") == 3
    assert flow("convert", "e.csv", "--allow-truncated") == 0
    assert len(read_events("e.csv", reading=Reading(allow_truncated=True))) == B
    for end in ("\n", "\r\n", "\r", "\n  \n \t"):
        Path("e.csv").write_bytes(text.rstrip("\n").encode() + end.encode())
        assert len(read_events("e.csv")) == B
    assert check_file("e.csv").events is not None


@pytest.mark.parametrize("ending", ["h5", "npy", "parquet"])
def test_binary_files_that_are_cut_are_refused(tmp_path: Path, ending: str) -> None:
    """Whatever their length, none is read as a shorter file."""
    path = tmp_path / f"e.{ending}"
    if ending == "h5":
        _hdf(path, P)
    elif ending == "npy":
        np.save(path, P)
    else:
        _table().to_parquet(path)
    whole = path.read_bytes()
    for keep in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError):
            read_events(path, "ocs", Reading(unit="au", columns="" if ending == "parquet" else "c o s"))


def test_check_tells_what_was_stated_from_what_was_concluded(flow: Shell) -> None:
    """With --columns and --unit nobody is told that nobody stated them."""
    np.save("e.npy", P * KG * 1e22)
    assert flow("check", "e.npy", "--columns", "c o s", "--unit", "1e-22 kg m/s") == 0
    for words in (
        "ions in the order c o s, as --columns states",
        "momenta in 1e-22 kg m/s, as --unit states",
    ):
        assert f"{words}\n      you stated it" in flow.out
    assert "taken to be" not in flow.out
    assert flow("check", "e.npy", "--columns", "c o s") == 0
    assert "as the median KER is then" in flow.out
    assert "nobody stated it" in flow.out


def test_arrays_of_a_file_can_be_written(tmp_path: Path, tiny_cinn: Reconstructor) -> None:
    """torch warns of arrays that cannot be: none is handed to it, from a file or from the caller."""
    np.save(tmp_path / "e.npy", P)
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.from_numpy(mapped)  # warns once in a process, and so only the first time
        warned = len(caught)
        events = read_events(tmp_path / "e.npy", "ocs", Reading(columns="c o s", unit="au"))
        tiny_cinn.sample(events, 2, noise="1%", seed=1)
        tiny_cinn.sample(mapped, 2, noise="1%", seed=1)
        assert len(caught) == warned
    assert events.momenta.flags.writeable
    assert flowcei.Events("ocs", mapped).momenta.flags.writeable
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", _READ_ONLY, str(tmp_path / "e.npy")],
        check=False,
        capture_output=True,
    )
    assert found.returncode == 0, found.stderr.decode()


_READ_ONLY = """
import sys, numpy as np, torch, flowcei
from flowcei.frame.recoil import RecoilFrame
events = flowcei.Events("ocs", np.load(sys.argv[1], mmap_mode="r"))
RecoilFrame.of(events.molecule, events.momenta, reflect=False)
"""


def test_events_are_taken_in_any_way(tiny_cinn: Reconstructor) -> None:
    """By the name of the molecule; lists, flat rows, one event, a DataFrame."""
    ocs = EVENTS.molecule
    ways: list[Any] = [
        P,
        P.tolist(),
        P.reshape(B, 9),
        pd.DataFrame(P.reshape(B, 9), columns=[f"p{i}{a}" for i in "cos" for a in "xyz"]),
    ]
    expected = tiny_cinn.sample(EVENTS.momenta, 3, noise="1%", seed=4).positions
    for given_ in ways:
        for molecule in ("ocs", ocs):
            np.testing.assert_array_equal(flowcei.Events(molecule, given_).momenta, P)  # type: ignore[arg-type]
        np.testing.assert_array_equal(tiny_cinn.sample(given_, 3, noise="1%", seed=4).positions, expected)
    assert flowcei.Events("ocs", P[0]).momenta.shape == (1, 3, 3)  # type: ignore[arg-type]
    frame = pd.read_csv(_csv(EVENTS))
    frame["delay"] = np.arange(B)
    found = flowcei.Events("ocs", frame)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.positions, EVENTS.positions)
    np.testing.assert_array_equal(found.sigma, EVENTS.sigma)
    np.testing.assert_array_equal(found.columns["delay"], np.arange(B))
    for wrong, word in (
        (frame.drop(columns="poz"), "poz"),
        (frame.assign(Sigma=1.0), "Sigma"),
        ([["a"] * 9], "numbers"),
        ([[1.0] * 8], "shape"),
        ([[1.0], [1.0, 2.0]], "numbers"),
    ):
        with pytest.raises(DataError, match=word):
            flowcei.Events("ocs", wrong)  # type: ignore[arg-type]


def _csv(events: flowcei.Events) -> Any:
    text = io.StringIO()
    write_csv(events, text)
    text.seek(0)
    return text


def test_one_event_is_events_of_length_one(tiny_cinn: Reconstructor) -> None:
    """`[k]` and iteration, of events and of samples, with all that belongs to the event."""
    samples = tiny_cinn.sample(EVENTS, 3, noise="1%", seed=4)
    for many in (EVENTS, samples):
        ones = list(many)
        assert [len(one) for one in ones] == [1] * B
        np.testing.assert_array_equal(many[-1].momenta, P[-1:])
        np.testing.assert_array_equal(np.concatenate([one.momenta for one in ones]), P)
        np.testing.assert_array_equal(many[np.int64(2)].positions, many.positions[2:3])
        with pytest.raises(IndexError, match="no event 40"):
            many[B]
    assert samples[5].event_id.tolist() == [5]


def test_all_public_names_are_listed_without_importing_them() -> None:
    """TAB after `flowcei.` shows what there is, and costs nothing."""
    code = (
        "import sys, flowcei; print(*dir(flowcei)); print('numpy' in sys.modules or 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names, imported = found.stdout.splitlines()
    assert set(flowcei.__all__) <= set(names.split())
    assert imported == "False"


@pytest.mark.parametrize("name", ["sigma", "positions", "event_id"])
def test_events_that_differ_are_not_joined(name: str) -> None:
    """Noise, positions or numbers in some of the events only, in either order; another molecule."""
    full = flowcei.Events("ocs", P, EVENTS.positions, event_id=np.arange(B), sigma=EVENTS.sigma)
    bare = flowcei.Events(
        "ocs",  # type: ignore[arg-type]
        P,
        **{k: getattr(full, k) for k in ("positions", "event_id", "sigma") if k != name},
    )
    for parts in ([full, bare], [bare, full], [full, full, bare]):
        with pytest.raises(DataError, match="and others have not"):
            flowcei.Events.concatenate(parts)
    joined = flowcei.Events.concatenate([full, full])
    np.testing.assert_array_equal(joined.sigma, np.concatenate([full.sigma, full.sigma]))
    with pytest.raises(DataError, match="do not join"):
        flowcei.Events.concatenate([full, flowcei.simulate("co2", 2, seed=1)])
    with pytest.raises(DataError, match="no events"):
        flowcei.Events.concatenate([])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(unit=st.sampled_from(sorted(MOMENTUM_UNITS)), spelled=st.sampled_from(["units", "Unit", "UNITS"]))
def test_every_unit_in_an_attribute_comes_back(tmp_path: Path, unit: str, spelled: str) -> None:
    """Numbers in any unit that flowcei knows, stated by the file, are the momenta that were written."""
    _hdf(tmp_path / "e.h5", P / MOMENTUM_UNITS[unit], dataset=(spelled, unit))
    found = read_events(tmp_path / "e.h5", "ocs")
    np.testing.assert_allclose(found.momenta, P, rtol=1e-12)


def test_a_guess_of_foreign_momenta_is_a_mapping_that_reads_them(tmp_path: Path) -> None:
    """What `convert --guess` writes reads the file as it was read without."""
    _hdf(tmp_path / "e.h5", U, dataset=("units", "u m/s"))
    mapping, said = guessed(tmp_path / "e.h5", EVENTS.molecule, Reading())
    assert any("--columns states another" in line for line in said)
    found = read_events(tmp_path / "e.h5", "ocs", Reading(mapping=mapping))
    np.testing.assert_allclose(found.momenta, P, rtol=1e-8)
