"""Extra columns: what a group keeps beside the momenta reaches every file and table with its event."""

from __future__ import annotations

import string
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import Shell

import flowcei
import flowcei.reconstruction.sampling
from flowcei.errors import DataError, StoppedError
from flowcei.events.extracolumns import dataset_name, name_of_dataset
from flowcei.events.foreign.interpretation import Reading
from flowcei.events.source import open_events
from flowcei.posterior.files import sample_to_file
from flowcei.reconstruction.sampling import SamplingRequest, Survey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowcei.events.container import Events
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor

B = 12
DELAY = np.linspace(-250.0, 300.0, B)
SHOT = np.arange(B) // 2 + (1 << 60)  # time stamps: float64 would make one of all
MOMENTA = [f"p{ion}{axis}" for ion in "cos" for axis in "xyz"]


def _events(**columns: np.ndarray) -> Events:
    plain = flowcei.simulate("ocs", B, noise="1%", seed=3)
    return flowcei.Events(plain.molecule, plain.momenta, event_id=np.arange(B) * 7, columns=columns)


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Run commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


_WORD = st.text(string.ascii_letters + string.digits + " _-/%.[]()µΔ°#,;:", min_size=1, max_size=12)
_VALUES = st.one_of(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=B, max_size=B).map(np.array),
    st.lists(st.integers(-(1 << 53), 1 << 53), min_size=B, max_size=B).map(np.array),
)


def _allowed(name: str) -> bool:
    try:
        _events(**{name: DELAY})
    except DataError:
        return False
    return True


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.dictionaries(_WORD.filter(_allowed), _VALUES, min_size=1, max_size=4))
def test_columns_return_from_every_file(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    """Whatever they are called, whole numbers and fractions, gaps and all."""
    events = _events(**columns)
    for ending in (".csv", ".h5"):
        path = tmp_path / f"e{ending}"
        flowcei.write_events(events, path, overwrite=True)
        found = flowcei.read_events(path)
        # A CSV column without any number is not told from one of words.
        wanted = {n: v for n, v in columns.items() if ending == ".h5" or not np.isnan(v).all()}
        assert set(found.columns) == set(wanted)
        for name, values in wanted.items():
            np.testing.assert_array_equal(found.columns[name], values)
            assert ending == ".csv" or found.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(found.momenta, events.momenta)
    assert all(name_of_dataset(dataset_name(name)) == name for name in columns)


@pytest.mark.parametrize("ending", ["csv", "dat", "h5", "parquet", "root"])
def test_a_file_of_another_program_brings_its_columns(tmp_path: Path, ending: str) -> None:
    """Foreign names of momenta, a delay and a shot number beside them, a column of words."""
    events = _events()
    names = [f"px_{i}|py_{i}|pz_{i}".split("|") for i in "COS"]
    table = pd.DataFrame(events.momenta.reshape(B, 9), columns=[n for ion in names for n in ion])
    table["delay_fs"], table["shot"] = DELAY, np.arange(B) // 2
    path = tmp_path / f"e.{ending}"
    if ending in ("csv", "dat"):
        table["comment"] = "good"
        table.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    elif ending == "parquet":
        table["comment"] = "good"
        table.to_parquet(path)
    elif ending == "h5":
        with h5py.File(path, "w") as file:
            file["comment"] = ["good"] * B
            for name in table:
                file[str(name)] = table[name]
    elif ending == "npy":
        np.save(path, table.to_records(index=False))
    else:
        uproot = pytest.importorskip("uproot")
        with uproot.recreate(path) as file:
            file["t"] = {str(name): table[name].to_numpy() for name in table}
    before = threading.active_count()
    source = open_events(path, reading=Reading(unit="hbar/bohr"))
    found = source.read()
    # A reader's own thread, ended by the interpreter from inside itself, raises where nobody sees it.
    assert threading.active_count() == before
    np.testing.assert_allclose(found.momenta, events.momenta)
    assert set(found.columns) == {"delay_fs", "shot"}
    np.testing.assert_array_equal(found.columns["delay_fs"], DELAY)
    np.testing.assert_array_equal(found.columns["shot"], np.arange(B) // 2)
    assert "extra columns carried along: delay_fs, shot" in " ".join(source.column_notes)
    if ending in ("csv", "dat", "parquet"):
        assert "columns not read: comment" in source.column_notes
    if ending in ("csv", "dat"):
        assert "columns of text cannot be carried along, only numbers: comment" in source.column_notes


def test_rows_of_ions_bring_what_is_the_same_for_all_of_an_event(tmp_path: Path) -> None:
    """A delay of the event is carried along; the time of flight of an ion is not."""
    events = _events()
    table = pd.DataFrame(events.momenta.reshape(-1, 3), columns=["px_au", "py_au", "pz_au"])
    table.insert(0, "event", np.repeat(np.arange(B), 3))
    table["label"] = list("cos") * B
    table["delay"], table["tof"] = np.repeat(DELAY, 3), np.arange(3 * B) * 10.0
    table.to_csv(tmp_path / "e.csv", index=False)
    source = open_events(tmp_path / "e.csv")
    assert source.read().columns.keys() == {"delay"}
    np.testing.assert_array_equal(source.read().columns["delay"], DELAY)
    assert "columns not read: tof" in source.column_notes
    table.loc[20, "delay"] = 1.0
    table.to_csv(tmp_path / "e.csv", index=False)
    assert not open_events(tmp_path / "e.csv").read().columns


def test_misspelled_columns_are_refused_and_not_carried_along(tmp_path: Path) -> None:
    """`pcy2` for `pcz` leaves a momentum without its column; `px_C` beside `pcx` is a second one."""
    path, cells = tmp_path / "e.csv", ",".join(["1"] * 10)
    for wrong, column in (("pcy2", "pcz"), ("Sigma", "Sigma"), ("px_C", "px_C"), ("cx0", "cx0")):
        names = [wrong if (n == "pcz" and column == "pcz") else n for n in MOMENTA]
        names += ["delay" if column == "pcz" else wrong]
        path.write_text(f"{','.join(names)}\n{cells}\n")
        with pytest.raises(DataError, match=f"column '{column}'"):
            flowcei.read_events(path)


def test_a_blank_cell_is_a_gap_and_a_word_is_refused(tmp_path: Path) -> None:
    """A delay that is not there is NaN; one that is a word, far down, is named; so is a row cut short."""
    path = tmp_path / "e.csv"
    row = "1,2,3,100,-5,6,-101,3,-9"
    rows = [f"{row},{k}" for k in range(12_000)]
    rows[5] = f"{row},"
    path.write_text("\n".join([",".join([*MOMENTA, "delay"]), *rows]) + "\n")
    found = flowcei.read_events(path).columns["delay"]
    assert np.flatnonzero(np.isnan(found)).tolist() == [5]
    assert found[6] == 6
    for bad, match in ((f"{row},late", "row 11001, column 'delay'"), (row, "row 11001: 9 fields")):
        rows[11_000] = bad
        path.write_text("\n".join([",".join([*MOMENTA, "delay"]), *rows]) + "\n")
        with pytest.raises(DataError, match=match):
            flowcei.read_events(path)


def test_a_mapping_names_them_and_too_many_are_left_behind(tmp_path: Path) -> None:
    """`columns` of a mapping settles which; without one none of more than a hundred is carried along."""
    events = _events()
    table = pd.DataFrame(events.momenta.reshape(B, 9), columns=[f"a{k}" for k in range(9)])
    more = pd.DataFrame({f"w{k}": np.full(B, float(k)) for k in range(101)})
    path, ions = tmp_path / "e.csv", {i: [f"a{3 * k + j}" for j in range(3)] for k, i in enumerate("cos")}
    pd.concat([table, more], axis=1).to_csv(path, index=False)
    from flowcei.events.foreign.mapping import Mapping

    plain = {"momenta": {"unit": "hbar/bohr", "ions": ions}}
    source = open_events(path, reading=Reading(mapping=Mapping.from_dict(plain)))
    assert not source.read().columns
    assert any("none of 101 further columns" in line for line in source.column_notes)
    source = open_events(path, reading=Reading(mapping=Mapping.from_dict(plain | {"columns": ["w7"]})))
    assert {name: set(values) for name, values in source.read().columns.items()} == {"w7": {7.0}}
    with pytest.raises(DataError, match="column 'w200'"):
        open_events(path, reading=Reading(mapping=Mapping.from_dict(plain | {"columns": ["w200"]}))).read()


def test_whole_numbers_beyond_floats_are_exact_or_not_there(tmp_path: Path) -> None:
    """Time stamps in HDF5 keep their last digit; in a text, which cannot say so, they are not read."""
    events = _events(stamp=SHOT)
    flowcei.write_events(events, tmp_path / "e.h5")
    assert (flowcei.read_events(tmp_path / "e.h5").columns["stamp"] == SHOT).all()
    flowcei.write_events(events, tmp_path / "e.csv")
    source = open_events(tmp_path / "e.csv")
    assert not source.read().columns
    assert "columns not read: stamp" in source.column_notes


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"delay": np.zeros(B - 1)}, "shape"),
        ({"delay": np.array(["late"] * B)}, "numbers"),
        ({"pcx": np.zeros(B)}, "pcx"),
        ({"x\ny": np.zeros(B)}, "printable"),
        ({"=1+1": np.zeros(B)}, "spreadsheet"),
        ({f"c{k}e": np.zeros(B) for k in range(101)}, "100 at the most"),
    ],
)
def test_columns_that_are_none_are_refused(columns: dict[str, np.ndarray], word: str) -> None:
    """Other lengths, words, names of momenta, names that are no names, too many."""
    with pytest.raises(DataError, match=word):
        _events(**columns)


@pytest.mark.parametrize(
    "edit",
    [
        lambda f: f.create_dataset("columns/short", data=np.zeros(3)),
        lambda f: f.create_dataset("columns/pcx", data=np.zeros(B)),
        lambda f: f.create_dataset("columns/deep", data=np.zeros((B, 2))),
        lambda f: f.create_dataset("columns/word", data=["a"] * B),
        lambda f: f.__setitem__("columns/link", h5py.ExternalLink("other.h5", "/x")),
        lambda f: f.__setitem__("columns/soft", h5py.SoftLink("/momenta")),
        lambda f: [f.create_dataset(f"columns/w{k}", data=np.zeros(B)) for k in range(101)],
        lambda f: f.create_dataset("columns", data=np.zeros(B)),
    ],
)
def test_a_file_with_columns_that_are_none_is_refused(tmp_path: Path, edit: object) -> None:
    """What cannot be a value of each event, links, too many of them."""
    path = tmp_path / "e.h5"
    flowcei.write_events(_events(), path)
    with h5py.File(path, "r+") as file:
        edit(file)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"e\.h5"):
        flowcei.read_events(path)


def test_some_of_the_events_and_all_together_keep_them() -> None:
    """Slices, choices, joined parts; parts that differ do not join, and neither do ints with fractions."""
    events = _events(delay=DELAY, stamp=SHOT)
    some = flowcei.Events.concatenate([events[8:], events[np.array([3, 1])]])
    np.testing.assert_array_equal(some.columns["delay"], DELAY[[8, 9, 10, 11, 3, 1]])
    np.testing.assert_array_equal(some.columns["stamp"], SHOT[[8, 9, 10, 11, 3, 1]])
    for one, other in ((events, _events()), (_events(), events)):
        with pytest.raises(DataError, match="column 'delay'"):
            flowcei.Events.concatenate([one, other])
    with pytest.raises(DataError, match=r"2\^53"):
        flowcei.Events.concatenate([events, _events(delay=DELAY, stamp=DELAY)])


def test_samples_and_their_tables_have_them(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """A value of its event in each row of samples, modes and spread; names of the tables come first."""
    drawn = tiny_cinn.sample(_events(delay=DELAY, weight=SHOT)[:6], 6, noise="1%", seed=1, weigh=True)
    for samples in (drawn, drawn[2:5], flowcei.PosteriorSamples.concatenate([drawn[:4], drawn[4:]])):
        delay = dict(zip(samples.event_id.tolist(), samples.columns["delay"].tolist(), strict=True))
        assert delay == {i: delay[i] for i in samples.event_id.tolist()}
        assert all(DELAY[event // 7] == value for event, value in delay.items())
    found = drawn.to_dataframe()
    assert (found["delay"].to_numpy() == DELAY[found["event"] // 7]).all()
    assert (found["file_weight"].to_numpy() == SHOT[found["event"] // 7]).all()
    assert found["weight"].max() <= 1.0
    ends = drawn.modes(keep_flagged=True)
    for table in (ends.to_dataframe(), drawn.spread(keep_flagged=True).to_dataframe()):
        assert (table["delay"].to_numpy() == DELAY[table["event"] // 7]).all()
    flowcei.write_samples([drawn[:4], drawn[4:]], tmp_path / "s.h5")
    again = flowcei.read_samples(tmp_path / "s.h5")
    assert (again.columns["weight"] == SHOT[:6]).all()
    assert again.columns["weight"].dtype == np.int64


@pytest.mark.parametrize("ending", ["h5", "csv", "parquet"])
def test_the_commands_carry_them(flow: Shell, tiny_cinn: Reconstructor, ending: str) -> None:
    """`convert`, then `sample`, stopped in the middle and resumed: each event keeps its delay."""
    tiny_cinn.save("m.safetensors")
    flowcei.write_events(_events(delay_fs=DELAY), "e.csv")
    assert flow("convert", "e.csv", "-o", "e.h5") == 0
    assert "extra columns carried along: delay_fs" in flow.err
    words = ("--momenta", "e.h5", "--model", "m.safetensors", "-n", "5", "--noise", "1%", "--seed", "1")
    assert flow("sample", *words, "-o", f"s.{ending}") == 0
    if ending == "h5":
        samples = flowcei.read_samples("s.h5")
        delay = dict(zip(samples.event_id.tolist(), samples.columns["delay_fs"].tolist(), strict=True))
        assert flow("spread", "s.h5") == 0
        assert flow("modes", "s.h5") == 0
        tables = [pd.read_csv("s-spread/spread.csv"), pd.read_csv("s.modes.csv")]
    else:
        tables = [pd.read_csv("s.csv") if ending == "csv" else pd.read_parquet("s.parquet")]
        delay = dict(zip(tables[0]["event"], tables[0]["delay_fs"], strict=True))
    assert delay == pytest.approx({7 * k: value for k, value in enumerate(DELAY)})
    for table in tables:
        np.testing.assert_allclose(table["delay_fs"], DELAY[table["event"] // 7])


def test_what_was_stopped_goes_on_with_its_columns(
    tiny_cinn: Reconstructor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unfinished file holds them; events with other delays are other events."""
    monkeypatch.setattr(flowcei.reconstruction.sampling, "ROWS", 20)
    events = _events(delay=DELAY, stamp=SHOT)
    asked = SamplingRequest(5, 1, "1%")

    def begin(start: int) -> Iterator[PosteriorSamples]:
        yield next(tiny_cinn.blocks(events, asked, start=start))
        raise KeyboardInterrupt

    survey = Survey.of([events])
    request = tiny_cinn.describe(asked) | {"events": B, "momenta": survey.digest}
    for ending in ("h5", "csv"):
        path = tmp_path / f"s.{ending}"
        with pytest.raises(StoppedError, match="4 of 12"):
            sample_to_file(begin, path, request)
        sample_to_file(lambda start: tiny_cinn.blocks(events, asked, start=start), path, request, resume=True)
    samples = flowcei.read_samples(tmp_path / "s.h5")
    assert (samples.columns["stamp"] == SHOT).all()
    np.testing.assert_array_equal(samples.columns["delay"], DELAY)
    table = pd.read_csv(tmp_path / "s.csv")
    assert (table["stamp"].to_numpy() == np.repeat(SHOT, 5)).all()
    assert Survey.of([events[:5], events[5:]]) == survey
    assert Survey.of([_events(delay=DELAY + 1, stamp=SHOT)]) != survey
    with pytest.raises(DataError, match="column 'delay'"):
        list(tiny_cinn.blocks([_events()[:3], events], asked))


@pytest.mark.parametrize("name", ["(no name", "(no name 2)", "(row number)"])
def test_the_name_of_a_nameless_column_is_not_given(name: str) -> None:
    """A file that was written with it could not be read again."""
    with pytest.raises(DataError, match="stands for a column without one"):
        _events(**{name: DELAY})
