"""Files of other programs: what comes out is what went in, and nothing is concluded silently."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import constants
from shell import Shell

import flowcei
from flowcei.errors import DataError, UsageError
from flowcei.events.foreign.interpretation import Reading, guessed, open_table
from flowcei.events.foreign.mapping import Mapping, read_mapping
from flowcei.events.foreign.openedfile import OpenedFile
from flowcei.events.selection import Selection
from flowcei.events.source import open_events
from flowcei.events.storage import read_events
from flowcei.experiment.detector import Noise
from flowcei.units import ANGSTROM, DALTON, KILOMETRE_PER_SECOND, MOMENTUM_UNITS, SI_MOMENTUM

if TYPE_CHECKING:
    from collections.abc import Iterable


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Runs `flowcei ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


DATA = Path(__file__).parents[2] / "examples" / "data"
N = 200
ROUNDING = 1e-12  # another processor adds in another order: the same simulation differs in its last digits


def _made(molecule: str, noise: str = "1%") -> flowcei.Events:
    """Return what examples/make_example_data.py wrote."""
    return flowcei.simulate(molecule, N, noise=noise, seed=7, accuracy=1e-8)


def _close(found: np.ndarray, expected: np.ndarray, relative: float) -> None:
    relative = max(relative, ROUNDING)
    scale = np.sqrt((expected**2).mean())
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * scale)


@pytest.mark.parametrize(
    ("name", "molecule", "noise", "reading", "relative", "said"),
    [
        ("study.csv", "ocs", "1%", Reading(), 0.0, []),
        ("headerless.dat", "ocs", "1%", Reading(columns="o c s"), 1e-6, ["in this order", "1e-22 kg m/s"]),
        ("headerless.dat", "ocs", "1%", Reading(columns="O,C,S", unit="1e-22 kg m/s"), 1e-6, ["O C S, as"]),
        ("momenta.npy", "ocs", "1%", Reading(columns="c o s"), 1e-6, ["hbar/bohr"]),
        (
            "sculpt.dat",
            "ocs",
            "1%",
            Reading(columns="c o s"),
            1e-6,
            ["order c o s, as", "along: Px_electron1"],
        ),
        ("indexed.csv", "ch4", "0%", Reading(columns="c h1 h2 h3 h4"), 1e-6, ["along: steps"]),
        ("indexed.parquet", "ch4", "0%", Reading(), 1e-6, ["order c, h1"]),
        ("tree.root", "ocs", "1%", Reading(), 0.0, ["hbar/bohr"]),
    ],
)
def test_a_file_of_another_program_is_read(
    name: str, molecule: str, noise: str, reading: Reading, relative: float, said: Iterable[str]
) -> None:
    """Momenta, and positions where there are any, are those that were written."""
    expected = _made(molecule, noise)
    source = open_events(DATA / name, expected.molecule, reading)
    found = source.read()
    _close(found.momenta, expected.momenta, relative)
    if name.startswith(("indexed", "study")):
        _close(found.positions, expected.positions, relative)
    text = " ".join((*source.conclusions, *source.statements, *source.column_notes))
    for word in said:
        assert word in text or word == "in this order"
    assert (text == "") == (not said)


def test_rows_of_ions_are_gathered_and_other_channels_left_out() -> None:
    """PyCESim: OCS and CO2 alternate; the OCS events come out, in order, the others are counted."""
    expected = _made("ocs", "0%")
    source = open_events(DATA / "pycesim.csv", expected.molecule)
    for rows in (1, 7, 1000):
        found = flowcei.Events.concatenate(list(source.chunks(rows)))
        _close(found.momenta, expected.momenta[: N // 2], 1e-6)
        assert found.event_id.tolist() == list(range(0, N, 2))
        assert source.tally.read == N
        assert source.tally.rejected == {"of another channel": N // 2}


def test_rows_of_ions_in_any_order(tmp_path: Path) -> None:
    """Rows shuffled within an event are told apart by mass or by name; lost and doubled ions are left out."""
    made = flowcei.simulate("h2o", 30, noise="1%", seed=2)
    rng = np.random.default_rng(0)
    rows = [
        (number, "OHH"[k], made.molecule.masses[k] / DALTON, *made.momenta[number, k])
        for number in range(30)
        for k in rng.permutation(3)
    ]
    table = pd.DataFrame(rows, columns=["event_id", "symbol", "mass_amu", "px", "py", "pz"])
    for column in ("symbol", "mass_amu"):
        path = tmp_path / f"{column}.csv"
        keep = ["event_id", column, "px", "py", "pz"]
        table[keep].to_csv(path, index=False)
        if column == "symbol":
            with pytest.raises(DataError, match=r"no event|recognised|order"):
                _ = read_events(path, "ocs")
        found = read_events(path, "h2o", Reading(unit="hbar/bohr"))
        hydrogens = np.sort(np.linalg.norm(made.momenta[:, 1:], axis=2), axis=1)
        np.testing.assert_allclose(found.momenta[:, 0], made.momenta[:, 0], rtol=1e-12)
        np.testing.assert_allclose(np.sort(np.linalg.norm(found.momenta[:, 1:], axis=2), axis=1), hydrogens)
        # A lost hydrogen, and one that is there twice.
        wrong = pd.concat(
            [table[keep].drop(index=table.index[table.event_id == 3][:1]), table[keep].iloc[-1:]]
        )
        wrong.to_csv(path, index=False)
        source = open_events(path, made.molecule, Reading(unit="hbar/bohr"))
        assert len(source.read()) == 28
        assert source.tally.rejected == {"incomplete": 2}


def test_components_left_out_by_the_choice_of_axes_need_a_word(tmp_path: Path) -> None:
    """KSU: velocities without the zeros. Refused with the way out; guessed, written, read by the mapping."""
    expected = _made("chbrclf", "0%")
    molecule = expected.molecule
    with pytest.raises(DataError, match=r"no column for.* flowcei convert --guess"):
        open_events(DATA / "ksu.csv", molecule)
    mapping, said = guessed(DATA / "ksu.csv", molecule, Reading())
    assert mapping.momenta.unit == "m/s"
    assert mapping.positions is not None
    assert mapping.positions.unit == "angstrom"
    assert any("momentum y of c" in line for line in said)
    path = tmp_path / "ksu.toml"
    path.write_text(mapping.to_toml("\n".join(said)))
    found = read_events(DATA / "ksu.csv", molecule, Reading(mapping=read_mapping(path)))
    # Turned, but the same: lengths of momenta and distances of atoms.
    np.testing.assert_allclose(
        np.linalg.norm(found.momenta, axis=2), np.linalg.norm(expected.momenta, axis=2), rtol=1e-5
    )
    gaps = [np.linalg.norm(x[:, :, None] - x[:, None], axis=3) for x in (found.positions, expected.positions)]
    np.testing.assert_allclose(*gaps, atol=1e-5)
    exact = flowcei.asymptotic_momenta(found.positions, molecule.masses, molecule.charges, accuracy=1e-8)
    _close(found.momenta, exact, 1e-5)


def test_a_group_of_columns_in_hdf5(tmp_path: Path) -> None:
    """Datasets side by side, named by a mapping's tree; unit and event numbers come along."""
    expected = _made("ocs")
    ions = {k: [f"p{a}_{k.upper()}" for a in "xyz"] for k in "cos"}
    table = {"tree": "coincidences", "event": "event", "momenta": {"unit": "u m/s", "ions": ions}}
    found = read_events(DATA / "lab.h5", "ocs", Reading(mapping=Mapping.from_dict(table)))
    _close(found.momenta, expected.momenta, 1e-12)
    assert found.event_id.tolist() == list(range(1000, 1000 + N))
    assert found.origin["mapping"]["tree"] == "coincidences"
    # Its only group is entered without a mapping; of two, none is.
    _close(read_events(DATA / "lab.h5", "ocs").momenta, expected.momenta, 1e-12)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        for name in ("run1", "run2"):
            file[f"{name}/px_C"] = [1.0]
    with pytest.raises(DataError, match=r"run1, run2.*tree names a group"):
        read_events(tmp_path / "two.h5", "ocs")


def test_structures_with_momenta(tmp_path: Path) -> None:
    """Extended XYZ in the units of ASE; geometries alone are no events, and the message says so."""
    expected = _made("ocs", "0%")[:50]
    found = read_events(DATA / "structures.xyz", "ocs")
    _close(found.momenta, expected.momenta, 1e-7)
    _close(found.positions, expected.positions, 1e-7)
    lines = (DATA / "structures.xyz").read_text().replace(":momenta:R:3", "").splitlines()
    bare = [" ".join(line.split()[:4]) if k % 5 > 1 else line for k, line in enumerate(lines)]
    (tmp_path / "bare.xyz").write_text("\n".join(bare) + "\n")
    with pytest.raises(DataError, match="geometries"):
        read_events(tmp_path / "bare.xyz", "ocs")


# --- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("molecule", ["ocs", "ch4", "h2o", "chbrclf"])
@pytest.mark.parametrize("unit", ["hbar/bohr", "kg m/s", "1e-22 kg m/s", "u m/s"])
def test_units_are_told_from_the_energy(tmp_path: Path, molecule: str, unit: str) -> None:
    """Of four units one gives a KER that the molecule can have, near equilibrium and in a ball."""
    for prior in (None, "ball") if molecule != "ocs" else (None, "broad"):
        events = flowcei.simulate(molecule, 100, prior=prior, noise="1%", seed=3)
        np.save(tmp_path / "p.npy", events.momenta / MOMENTUM_UNITS[unit])
        order = " ".join(events.molecule.labels)
        source = open_events(tmp_path / "p.npy", events.molecule, Reading(columns=order))
        _close(source.read().momenta, events.momenta, 1e-12)
        assert f"in {unit}" in " ".join(source.conclusions)


def test_a_unit_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    """Numbers that fit no unit are refused with the KER; stated ones are believed."""
    events = flowcei.simulate("ocs", 50, noise="1%", seed=3)
    np.save(tmp_path / "p.npy", events.momenta * 1e5)
    with pytest.raises(DataError, match=r"cannot infer the unit.*eV.*--unit"):
        read_events(tmp_path / "p.npy", "ocs", Reading(columns="c o s"))
    found = read_events(tmp_path / "p.npy", "ocs", Reading(columns="c o s", unit="kg m/s"))
    np.testing.assert_allclose(found.momenta, events.momenta * 1e5 * SI_MOMENTUM)
    speed = events.momenta / events.molecule.masses[:, None] / KILOMETRE_PER_SECOND
    np.save(tmp_path / "v.npy", speed)
    found = read_events(tmp_path / "v.npy", "ocs", Reading(columns="c o s", unit="km/s"))
    np.testing.assert_allclose(found.momenta, events.momenta)
    for bad in ({"unit": "furlongs"}, {"columns": "c o"}, {"columns": "c o o"}, {"format": "docx"}):
        with pytest.raises(UsageError, match=r"furlongs|--columns|docx"):
            read_events(tmp_path / "v.npy", "ocs", Reading(**bad))
    with pytest.raises(DataError, match="--columns 'c o s'"):
        read_events(tmp_path / "v.npy", "ocs")


# --- mappings ------------------------------------------------------------------------------------

_names = st.text(min_size=1, max_size=12).filter(lambda s: not s.isspace())


@given(
    names=st.lists(_names, min_size=7, max_size=7, unique=True),
    number=st.none() | st.floats(-9, 9),
    unit=st.sampled_from(sorted(MOMENTUM_UNITS)),
    about=st.text(max_size=30),
    header=st.sampled_from([True, False, None]),
)
@settings(max_examples=60, deadline=None)
def test_a_mapping_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    number: float | None,
    unit: str,
    about: str,
    header: bool | None,
) -> None:
    """Whatever the columns are called, what is written is what is read."""
    ions = {"c": names[:3], "o": [*names[3:5], names[5] if number is None else number]}
    table = {"momenta": {"unit": unit, "ions": ions}, "event": names[6], "header": header}
    mapping = Mapping.from_dict(table)
    path = tmp_path_factory.mktemp("m") / "m.toml"
    path.write_text(mapping.to_toml(about), encoding="utf-8")
    assert read_mapping(path) == mapping


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("momenta = 3", "momenta"),
        ("rows = 'ion'\n[momenta]\nunit='au'\ncolumns=['a','b','c']", "event names the column"),
        ("[momenta]\nunit='stone'\nions={c=['a','b','c']}", "unknown unit"),
        ("[momenta]\nunit='au'\nions={c=['a','b']}", "momenta.ions.c"),
        ("[momenta]\nunit='au'\nions={c=['a','b',nan]}", "text, numbers and tables|finite"),
        ("colour='red'\n[momenta]\nunit='au'\nions={c=['a','b','c']}", "colour"),
        ("[[[", "TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "TOML|mapping"),
        ("[momenta]\nunit='au'\nions={c=['px','py','pz'], n=['a','b','d']}", "ocs has c, o, s"),
        (
            "[momenta]\nunit='au'\nions={c=['q','px','py'], o=['a','b','d'], s=['e','f','pz']}",
            "'q'.*missing",
        ),
        ("[momenta]\nunit='au'\nions={c=['px','py','px']}", "'px' is named 2 times"),
        ("event='px'\n[momenta]\nunit='au'\nions={c=['px','py','pz']}", "'px' is named 2 times"),
        ("rows='ion'\nevent='e'\n[momenta]\nunit='au'\ncolumns=['px','py','py']", "'py' is named 2 times"),
    ],
)
def test_a_mapping_with_a_fault_is_refused(tmp_path: Path, text: str, word: str) -> None:
    """One line names what is wrong."""
    path = tmp_path / "m.toml"
    path.write_text(text)
    (tmp_path / "e.csv").write_text("px,py,pz\n1,2,3\n")
    with pytest.raises(DataError, match=word) as caught:
        read_events(tmp_path / "e.csv", "ocs", Reading(mapping=read_mapping(path)))
    assert "\n" not in str(caught.value)


# --- selection -----------------------------------------------------------------------------------


BROKEN = "with a number that is blank, not finite or too large"


def test_selection_counts_what_it_leaves_out(tmp_path: Path) -> None:
    """Each rule, by hand: two gaps, three false coincidences, four events outside the KER window."""
    events = flowcei.simulate("ocs", 100, noise="1%", seed=1)
    table = pd.DataFrame(events.momenta.reshape(100, 9), columns=[f"p{k}{a}" for k in "cos" for a in "xyz"])
    table.loc[[3, 50], "pox"] = [np.nan, np.inf]
    table.loc[[7, 8, 9], "pcx"] += 100.0
    table.loc[[20, 30, 40, 60]] *= 5.0
    path = tmp_path / "e.csv"
    table.to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"2 left out: 2 with a number .*first: row 4"):
        assert len(read_events(path)) == 98
    selection = Selection(max_sum=6.0, noise=Noise.parse("1%"), ker=(40.0, 400.0))
    source = open_events(path, None, Reading(selection=selection))
    for rows in (1, 9, 1000):
        kept = flowcei.Events.concatenate(list(source.chunks(rows)))
        assert source.tally.rejected == {BROKEN: 2, "momentum sum": 3, "KER": 4}
        assert sorted({*range(100)} - set(kept.event_id.tolist())) == [3, 7, 8, 9, 20, 30, 40, 50, 60]
    assert str(source.tally) == (
        f"100 events read, 9 left out: 2 {BROKEN} (first: row 4), "
        "3 momentum sum (first: row 8), 4 KER (first: row 21)"
    )
    with pytest.raises(UsageError, match="--noise"):
        read_events(path, None, Reading(selection=Selection(max_sum=3.0)))
    with pytest.raises(DataError, match=r"no event is left \(100 events read, 100 left out"):
        read_events(path, None, Reading(selection=Selection(ker=(0.0, 0.1))))
    for bad in ({"max_sum": 0.0}, {"ker": (3.0, 2.0)}, {"ker": (-1.0, 2.0)}):
        with pytest.raises(UsageError):
            Selection(**bad)


def test_the_gate_keeps_what_statistics_says() -> None:
    """Of true events, a gate at 3 sigma keeps 97.1 %: chi with three degrees of freedom."""
    events = flowcei.simulate("ocs", 20_000, noise="2%", seed=5)
    from flowcei.events.foreign.table import Arrays

    arrays = Arrays(events.momenta, None, None, events.sigma)
    out = Selection(max_sum=3.0).rejected(arrays, events.molecule)["momentum sum"].mean()
    assert abs(out - 0.0293) < 4 * np.sqrt(0.0293 / 20_000)


# --- reading a part at a time --------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "h5"])
@pytest.mark.parametrize("rows", [1, 13, 400])
def test_parts_are_the_whole(tmp_path: Path, ending: str, rows: int) -> None:
    """However large the parts, the events and their numbers are those of one reading."""
    path = tmp_path / f"e.{ending}"
    flowcei.write_events(flowcei.simulate("ocs", 40, noise="1%", seed=4), path)
    whole = read_events(path)
    parts = list(open_events(path).chunks(rows))
    assert max(map(len, parts)) <= rows
    joined = flowcei.Events.concatenate(parts)
    np.testing.assert_array_equal(joined.momenta, whole.momenta)
    np.testing.assert_array_equal(joined.positions, whole.positions)
    assert joined.event_id.tolist() == list(range(40))
    assert not whole.numbered


def test_numbers_that_come_twice_are_found_across_parts(tmp_path: Path) -> None:
    """In order or not, in the same part or far apart."""
    base = flowcei.simulate("ocs", 30, seed=4)
    for ids, twice in (
        ([*range(30)], None),
        ([*range(29, -1, -1)], None),
        ([*range(29), 3], 3),
        ([*range(0, 60, 2)], None),
        ([*range(0, 58, 2), 4], 4),
        ([5, 1, *range(10, 37), 1], 1),
    ):
        path = tmp_path / "e.csv"
        events = flowcei.Events(base.molecule, base.momenta, event_id=np.array(ids))
        flowcei.write_events(events, path, overwrite=True)
        for rows in (1, 4, 30):
            if twice is None:
                assert sum(map(len, open_events(path).chunks(rows))) == 30
            else:
                with pytest.raises(DataError, match=f"event number {twice} is there twice"):
                    list(open_events(path).chunks(rows))


def test_an_event_that_cannot_be_used_is_named_by_its_row(tmp_path: Path) -> None:
    """Also in the third part of an array."""
    events = flowcei.simulate("ocs", 30, seed=4)
    momenta = events.momenta.copy()
    momenta[25, 1, 1] = np.nan
    np.save(tmp_path / "p.npy", momenta)
    source = open_events(tmp_path / "p.npy", events.molecule, Reading(columns="c o s", unit="au"))
    assert [len(part) for part in source.chunks(10)] == [10, 10, 9]
    assert "1 left out" in str(source.tally)
    assert "first: row 26" in str(source.tally)


@pytest.mark.parametrize(("unit", "comment"), [("bohr", ""), ("bohr", "positions in bohr"), ("angstrom", "")])
def test_the_unit_of_positions_in_xyz_is_told(tmp_path: Path, unit: str, comment: str) -> None:
    """By the comment, by bonds as long as bonds are, else by the energy; never angstrom without a look."""
    events = flowcei.simulate("ocs", 20, seed=4)
    assert events.positions is not None
    momentum = constants.hbar / constants.physical_constants["Bohr radius"][0]
    momentum /= np.sqrt(constants.atomic_mass * constants.e)  # sqrt(u eV), that of ASE
    lines = []
    for x, p in zip(
        events.positions * (1.0 if unit == "bohr" else 1 / ANGSTROM), events.momenta * momentum, strict=True
    ):
        lines += ["3", f"Properties=species:S:1:pos:R:3:momenta:R:3 {comment}".strip()]
        lines += [
            f"{s} {a[0]} {a[1]} {a[2]} {b[0]} {b[1]} {b[2]}" for s, a, b in zip("COS", x, p, strict=True)
        ]
    path = tmp_path / "e.xyz"
    path.write_text("\n".join(lines) + "\n")
    source = open_events(path, events.molecule)
    found = source.read()
    np.testing.assert_allclose(found.positions, events.positions, rtol=1e-6)
    np.testing.assert_allclose(found.momenta, events.momenta, rtol=1e-6)
    told = any("positions taken to be in bohr" in line for line in source.conclusions)
    assert told == (unit == "bohr" and not comment)


# --- the command ---------------------------------------------------------------------------------


def test_convert_guesses_and_converts_by_what_was_confirmed(shell: Shell) -> None:
    """The whole way of a stranger's file: guess, look, convert, check; the mapping lies in the result."""
    assert shell("convert", DATA / "ksu.csv", "--molecule", "chbrclf", "--guess", "-o", "ksu.toml") == 0
    text = Path("ksu.toml").read_text()
    assert "Br_vxf" in text
    assert "# - taken for 0" in text
    assert "velocities taken to be in m/s" in shell.err
    assert (
        shell("convert", DATA / "ksu.csv", "--molecule", "chbrclf", "--mapping", "ksu.toml", "-o", "k.h5")
        == 0
    )
    assert f"{N} events read, none left out" in shell.err
    events = read_events("k.h5")
    assert events.origin["mapping"]["momenta"]["unit"] == "m/s"
    assert events.origin["selection"] == {"read": N, "kept": N, "rejected": {}}
    assert shell("check", "k.h5") == 0
    assert shell("convert", DATA / "ksu.csv", "--molecule", "chbrclf", "-o", "again.h5") == 3
    assert not Path("again.h5").exists()


def test_convert_selects_and_says_so(shell: Shell) -> None:
    """Counts on the screen and in the file; CSV and HDF5 hold the same events."""
    words = ["convert", DATA / "headerless.dat", "--columns", "o c s", "--ker", "100..115", "--max-sum", "3"]
    assert shell(*words, "--noise", "1%", "-o", "a.h5") == 0
    assert "left out" in shell.err
    assert "momenta taken to be in 1e-22 kg m/s" in shell.err
    assert shell(*words, "--noise", "1%", "-o", "a.csv") == 0
    a, b = read_events("a.h5"), read_events("a.csv")
    np.testing.assert_array_equal(a.momenta, b.momenta)
    np.testing.assert_array_equal(a.event_id, b.event_id)
    told = a.origin["selection"]
    assert told["kept"] == len(a) == N - sum(told["rejected"].values())
    assert told["max_sum"] == 3.0
    assert shell(*words, "-o", "b.h5") == 2
    assert shell("convert", DATA / "headerless.dat", "--columns", "o c s", "--ker", "x", "-o", "b.h5") == 2
    assert shell("convert", DATA / "headerless.dat", "-o", "b.h5") == 3
    assert not Path("b.h5").exists()


def test_formats_are_found_by_content_and_can_be_forced(tmp_path: Path) -> None:
    """A name means nothing; a format that does not fit is an error."""
    path = tmp_path / "really.csv"
    path.write_bytes((DATA / "momenta.npy").read_bytes())
    assert len(read_events(path, "ocs", Reading(columns="c o s"))) == N
    with pytest.raises(DataError):
        read_events(path, "ocs", Reading(format="text", columns="c o s"))
    for name, kind in (
        ("lab.h5", "HdfTable"),
        ("indexed.parquet", "ParquetTable"),
        ("sculpt.dat", "TextTable"),
    ):
        mapping = Mapping.from_dict(
            {"tree": "coincidences", "momenta": {"unit": "au", "ions": {"c": ["a", "b", "c"]}}}
        )
        assert (
            type(open_table(OpenedFile(DATA / name), mapping if kind == "HdfTable" else None)).__name__
            == kind
        )


def test_geometries_of_another_program_are_exploded(shell: Shell, tmp_path: Path) -> None:
    """XYZ with the atoms in another order: the same momenta as without the detour."""
    made = flowcei.simulate("ocs", 5, seed=3, accuracy=1e-8)
    lines = []
    for x in made.positions / ANGSTROM:
        lines += ["3", ""] + [
            f"{s} {' '.join(map(repr, r.tolist()))}" for s, r in zip("SCO", x[[2, 0, 1]], strict=True)
        ]
    (tmp_path / "g.xyz").write_text("\n".join(lines) + "\n")
    assert shell("simulate", "ocs", "--geometries", "g.xyz", "--seed", "1", "-o", "g.h5") == 0
    events = read_events("g.h5")
    np.testing.assert_allclose(events.positions, made.positions, atol=1e-12)
    _close(events.momenta, made.momenta, 1e-7)
    assert shell("simulate", "co2", "--geometries", "g.xyz", "-o", "h.h5") == 3
    assert shell("simulate", "ocs", "--geometries", "g.xyz", "--prior", "broad", "-o", "h.h5") == 2
    (tmp_path / "bad.xyz").write_text("3\n\nS 0 0 0\nC 0 0 nan\nO 1 1 1\n")
    assert shell("simulate", "ocs", "--geometries", "bad.xyz", "-o", "h.h5") == 3
    assert not Path("h.h5").exists()


# --- what laboratories write ---------------------------------------------------------------------

_P = [f"p{a}_{k}" for k in "COS" for a in "xyz"]
_SI = "-1.2e-22,1e-23,2e-23,4e-22,3e-23,-5e-23,-2.8e-22,-4e-23,3e-23"
_AU = "-60.2,5.0,10.0,200.7,15.1,-25.1,-140.5,-20.1,15.1"


@pytest.mark.parametrize(
    ("names", "row", "unit"),
    [
        ([f"{n} [kg m/s]" for n in _P], _SI, "kg m/s"),
        ([f"p_{a}({k})" for k in "COS" for a in "xyz"], _AU, ""),
        ([f"{k}2+_p{a} (a.u.)" for k in "COS" for a in "xyz"], _AU, "hbar/bohr"),
        ([f"Mom_{k}_{a.upper()}" for k in "COS" for a in "xyz"], _AU, ""),
        ([f"v{a}_{k}/(m/s)" for k in "COS" for a in "xyz"], "-3e3,1,2,2e4,3,4,-5e3,6,7", "m/s"),
        ([f"{k}_momentum_{a}" for a in "xyz" for k in "COS"], _AU, ""),
    ],
)
def test_names_that_laboratories_give(tmp_path: Path, names: list[str], row: str, unit: str) -> None:
    """Components, ions, charges and units in the names, in any arrangement."""
    path = tmp_path / "lab.csv"
    path.write_text(",".join(names) + "\n" + row + "\n")
    mapping, _ = guessed(path, flowcei.Molecule.load("ocs"), Reading())
    for label in "cos":
        for axis, name in zip("xyz", mapping.momenta.ions[label], strict=True):
            bare = name.replace("2+", "").lower()
            assert label in bare.replace("momentum", "p").replace("mom", "p").split("[")[0]
            assert axis in bare.replace("max", "")
    if unit:
        assert mapping.momenta.unit == unit


@pytest.mark.parametrize(
    "top",
    [
        ["# Run 42", "% taken at night", ",".join(_P)],
        ["# Run 42", "# " + ",".join(_P)],
        ["sep=,", ",".join(_P)],
        [",".join(_P), ",".join(["a.u."] * 9)],
        [",".join(_P), "", ",".join(["a.u."] * 9)],
        [",".join(_P) + ","],
    ],
)
def test_lines_above_a_table(tmp_path: Path, top: list[str]) -> None:
    """Comments, titles, units, Excel's own line, commas at the end: the same two events; faults by row."""
    rows = [_AU, _AU.replace("-60.2", "-60.3")]
    if top[0].endswith("S,"):
        rows = [row + "," for row in rows]
    path = tmp_path / "lab.csv"
    path.write_text("\n".join([*top, *rows]) + "\n")
    found = read_events(path, "ocs")
    assert found.momenta[:, 0, 0].tolist() == [-60.2, -60.3]
    path.write_text("\n".join([*top, rows[0], rows[1].replace("200.7", "2D2")]) + "\n")
    with pytest.raises(DataError, match=r"row 2, column 'px_O.*Fortran"):
        read_events(path, "ocs")


@pytest.mark.parametrize("words", ["C O S", "C++ O++ S++", "12C 16O 32S", "c o s", "C2+ O2+ S2+"])
def test_ions_in_words(tmp_path: Path, words: str) -> None:
    """Rows in any order within an event are told apart by what stands there."""
    path, momenta = tmp_path / "ions.csv", np.array(list(map(float, _AU.split(",")))).reshape(3, 3)
    lines = [f"1,{words.split()[k]},{','.join(map(str, momenta[k]))}" for k in (2, 0, 1)]
    path.write_text("\n".join(["shot,ion,px,py,pz", *lines]) + "\n")
    np.testing.assert_array_equal(read_events(path, "ocs").momenta[0], momenta)


def test_words_and_masses_tell_ions_apart_in_one_column(tmp_path: Path) -> None:
    """A mapping of words and a number; a cell that is neither is no ion of the molecule."""
    rows = [f"{n},{word},{k + 1},2,{k - 3}" for n in range(2) for k, word in enumerate(("C", "15.9", "S"))]
    (tmp_path / "e.csv").write_text("\n".join(["shot,i,px,py,pz", *rows, "2,C,1,2,3", ""]))
    table = {"rows": "ion", "event": "shot", "ions": {"column": "i", "values": {"c": "C", "o": 16, "s": "S"}}}
    mapping = Mapping.from_dict(table | {"momenta": {"unit": "au", "columns": ["px", "py", "pz"]}})
    with pytest.warns(UserWarning, match="1 left out: 1 incomplete"):
        found = read_events(tmp_path / "e.csv", "ocs", Reading(mapping=mapping))
    assert found.momenta.tolist() == [[[1, 2, -3], [2, 2, -2], [3, 2, -1]]] * 2


def test_ions_that_are_not_understood_are_asked_for(shell: Shell, tmp_path: Path) -> None:
    """A wrong guess would give each ion another's momentum: refused, with a mapping to be filled in."""
    path, momenta = tmp_path / "ions.csv", np.array(list(map(float, _AU.split(",")))).reshape(3, 3)
    for column, words in (
        ("ion", "carbon oxygen sulphur"),
        ("m_over_q", "6 8 16"),
        ("ion", "1 2 3"),
        ("", ""),
    ):
        rows = [
            ",".join(["1", *([words.split()[k]] if words else []), *map(str, momenta[k])]) for k in (2, 0, 1)
        ]
        header = ",".join(["shot", *([column] if column else []), "px,py,pz"])
        path.write_text("\n".join([header, *rows]) + "\n")
        with pytest.raises(DataError, match=r"which ion is which|no column tells the ions apart"):
            read_events(path, "ocs")
        assert shell("convert", path, "--guess", "-o", "ions.toml", "--overwrite") == 0
        text = Path("ions.toml").read_text()
        assert '"?"' in text
        assert "cannot be inferred" in text
        if words:
            values = dict(zip("cos", words.split(), strict=True))
            for label, word in values.items():
                text = text.replace(f'{label} = "?"', f"{label} = {word if word.isdigit() else repr(word)}")
            Path("ions.toml").write_text(
                text.replace('event = "?"', 'event = "shot"').replace('"?"', f'"{column}"')
            )
            found = read_events(path, "ocs", Reading(mapping=read_mapping(Path("ions.toml"))))
            np.testing.assert_array_equal(found.momenta[0], momenta)
    # Numbers, in an order that is stated.
    path.write_text("shot,ion,px,py,pz\n1,3,-140.5,-20.1,15.1\n1,1,-60.2,5.0,10.0\n1,2,200.7,15.1,-25.1\n")
    found = read_events(path, "ocs", Reading(columns="c o s", unit="au"))
    np.testing.assert_array_equal(found.momenta[0], momenta)


def test_what_contradicts_the_names_is_refused(tmp_path: Path) -> None:
    """An order where names tell, a unit of velocity for momenta, a column that is there twice."""
    path = tmp_path / "lab.csv"
    path.write_text(",".join(_P) + "\n" + _AU + "\n")
    with pytest.raises(UsageError, match="leave out --columns"):
        read_events(path, "ocs", Reading(columns="s o c"))
    with pytest.raises(UsageError, match="no unit of momenta"):
        read_events(path, "ocs", Reading(unit="m/s"))


def test_a_disk_that_fills_up_leaves_nothing(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converting says what it has no room for, before anything is written."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert shell("convert", DATA / "momenta.npy", "--columns", "c o s", "-o", "x.h5") == 1
    assert "no room for" in shell.err
    assert not list(tmp_path.iterdir())


def test_convert_warns_of_energies_that_a_molecule_hardly_has(shell: Shell) -> None:
    """Four times the energy: read, as nothing else fits, and warned of."""
    np.save("p.npy", 2.0 * _made("ocs").momenta)
    assert shell("convert", "p.npy", "--columns", "c o s", "-o", "x.h5") == 0
    assert "warning (energy)" in shell.err
    assert shell("check", "x.h5") == 0
    assert "check units, charges and which ion is which" in shell.out


def test_datasets_that_name_ions_are_the_momenta(tmp_path: Path) -> None:
    """`px_c` and its like are as long as there are events, whatever else lies beside them in HDF5."""
    events = flowcei.simulate("ocs", 7, seed=1)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for ion, label in enumerate("cos"):
            for axis, name in enumerate("xyz"):
                file[f"p{name}_{label}"] = events.momenta[:, ion, axis]
        file["bins"] = np.arange(2.0)
    read = open_events(tmp_path / "e.h5", events.molecule, Reading(unit="hbar/bohr")).read()
    np.testing.assert_array_equal(read.momenta, events.momenta)
