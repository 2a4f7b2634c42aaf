"""Events: what is written is read back exactly, and a bad file is refused where it is bad."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flowcei.errors import DataError, UsageError
from flowcei.events import simulation
from flowcei.events.container import Events
from flowcei.events.extracolumns import component_names as columns
from flowcei.events.simulation import simulate
from flowcei.events.storage import read_events, write_events
from flowcei.experiment.detector import rms_component
from flowcei.molecules.molecule import Molecule

if TYPE_CHECKING:
    from collections.abc import Callable

OCS = Molecule.load("ocs")


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """Return the lines of a CSV of five OCS events: 9 positions, then 9 momenta."""
    write_events(simulate("ocs", 5, seed=1), tmp_path / "good.csv")
    return (tmp_path / "good.csv").read_text().splitlines()


def _read(folder: Path, content: str | list[str] | bytes, molecule: str | None = None) -> Events:
    path = folder / "bad.csv"
    text = "\n".join([*content, ""]) if isinstance(content, list) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_events(path, molecule)


def _refused(
    folder: Path, content: str | list[str] | bytes, *words: str, molecule: str | None = None
) -> None:
    """Assert that a file is refused in one line that names it and holds the words."""
    with pytest.raises(DataError) as caught:
        _read(folder, content, molecule)
    message = str(caught.value)
    assert message.startswith(str(folder / "bad.csv"))
    assert message.count("bad.csv") == 1
    assert "\n" not in message
    for word in words:
        assert word in message


def _with_cell(lines: list[str], row: int, column: int, cell: str) -> list[str]:
    cells = lines[row].split(",")
    cells[column] = cell
    return [*lines[:row], ",".join(cells), *lines[row + 1 :]]


def _same(found: Events, expected: Events) -> None:
    assert np.array_equal(found.momenta, expected.momenta)
    for name in ("positions", "event_id", "sigma"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        assert a is None or np.array_equal(a, b), name
    assert found.numbered == expected.numbered
    assert found.molecule.same_ions(expected.molecule)


# Momenta whose squares neither vanish nor overflow; the rest are no events.
_sizes = st.floats(-1e100, 1e100).map(lambda v: v if abs(v) > 1e-100 else 1.0)


@st.composite
def _some_events(draw: st.DrawFn) -> Events:
    n = draw(st.integers(1, 4))
    momenta = draw(arrays(np.float64, (n, 3, 3), elements=_sizes))
    momenta[:, 0, 0], momenta[:, 1, 0] = 1e100, -1e100
    free = arrays(np.float64, (n, 3, 3), elements=st.floats(allow_nan=False, allow_infinity=False))
    positive = arrays(np.float64, n, elements=st.floats(1e-300, 1e300))
    numbers = arrays(np.int64, n, elements=st.integers(-(2**53), 2**53), unique=True)
    return Events(
        OCS,
        momenta,
        draw(st.none() | free),
        event_id=draw(st.none() | numbers),
        sigma=draw(st.none() | positive),
    )


@pytest.mark.parametrize("ending", [".csv", ".h5"])
@settings(max_examples=60, deadline=None)
@given(events=_some_events())
def test_events_return_exactly(ending: str, events: Events) -> None:
    """Every finite double, to the bit, through CSV and through HDF5."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"events{ending}"
        write_events(events, path)
        _same(read_events(path), events)


@pytest.mark.parametrize("molecule", ["ocs", "co2", "ch4", "chbrclf"])
@pytest.mark.parametrize("ending", [".csv", ".h5", ".hdf5", ".CSV"])
def test_simulated_events_return_with_their_molecule(tmp_path: Path, molecule: str, ending: str) -> None:
    """Positions, momenta and sigma; HDF5 knows molecule and origin, a CSV is told."""
    events = simulate(molecule, 20, noise="1%", seed=1)
    path = tmp_path / f"events{ending}"
    write_events(events, path)
    found = read_events(path, molecule)
    _same(found, events)
    if ending.startswith(".h"):
        assert read_events(path).molecule.name == molecule
        assert read_events(path).origin == events.origin


def test_columns_may_come_as_they_like(tmp_path: Path, lines: list[str]) -> None:
    """Blanks after commas, row numbers without a name, any order, a BOM, other line ends."""
    expected = _read(tmp_path, lines)
    blanks = [line.replace(",", ", ") for line in lines]
    numbered = [f"{'' if k == 0 else k - 1},{line}" for k, line in enumerate(lines)]
    unnamed = [f"{'Unnamed: 0' if k == 0 else k - 1},{line}" for k, line in enumerate(lines)]
    order = np.random.default_rng(0).permutation(18)
    mixed = [",".join(np.array(line.split(","))[order]) for line in lines]
    blank_lines = [*lines[:3], "", *lines[3:], ""]
    quoted = [",".join(f'"{name}"' for name in lines[0].split(",")), *lines[1:]]
    texts: list[str | list[str] | bytes] = [blanks, numbered, unnamed, mixed, blank_lines, quoted]
    texts += [start + end.join([*lines, ""]) for start, end in (("\ufeff", "\n"), ("", "\r\n"), ("", "\r"))]
    for text in texts:
        _same(_read(tmp_path, text), expected)


def test_momenta_alone_are_events(tmp_path: Path, lines: list[str]) -> None:
    """Nine columns, no positions."""
    found = _read(tmp_path, [",".join(line.split(",")[9:]) for line in lines])
    assert found.positions is None
    assert np.array_equal(found.momenta, _read(tmp_path, lines).momenta)


def test_numbers_of_events_are_kept(tmp_path: Path, lines: list[str]) -> None:
    """A column `event` names the events; `sigma` is their noise."""
    text = [f"{'event' if k == 0 else 7 * k},{'sigma' if k == 0 else 0.5},{x}" for k, x in enumerate(lines)]
    found = _read(tmp_path, text)
    assert list(found.event_id) == [7, 14, 21, 28, 35]
    assert found.sigma is not None
    assert set(found.sigma) == {0.5}


@pytest.mark.parametrize("drop", [0, 8, 9, 17])
def test_a_missing_column_is_named(tmp_path: Path, lines: list[str], drop: int) -> None:
    """All momenta, and all positions or none."""
    name = (columns(OCS.labels) + columns(OCS.labels, "p"))[drop]
    without = [",".join(c for k, c in enumerate(line.split(",")) if k != drop) for line in lines]
    _refused(tmp_path, without, f"column '{name}'", "missing")


def test_double_and_unknown_columns_are_named(tmp_path: Path, lines: list[str]) -> None:
    """`pcx` twice, once with blanks around it; nearly a name of flowcei; no name at all."""
    for name, word in (
        ("pcx", "duplicate"),
        (" pcx ", "duplicate"),
        ("Sigma", "unknown"),
        ("PCX", "unknown"),
    ):
        text = [f"{line},{name if k == 0 else 1}" for k, line in enumerate(lines)]
        _refused(tmp_path, text, f"column '{name.strip()}'", word)
    _refused(tmp_path, [line + "," for line in lines], "unknown column")


def test_other_separators_are_found(tmp_path: Path, lines: list[str]) -> None:
    """Semicolons, tabs and blanks, and decimal commas where commas do not separate."""
    (tmp_path / "good.csv").write_text("\n".join([*lines, ""]))
    expected = read_events(tmp_path / "good.csv")
    for separator in (";", "\t", "   "):
        for decimal in (".", ","):
            cells = [[c.replace(".", decimal) for c in line.split(",")] for line in lines]
            text = "\n".join([*(separator.join(row) for row in cells), ""])
            (tmp_path / "other.csv").write_text(text)
            _same(read_events(tmp_path / "other.csv"), expected)


@pytest.mark.parametrize("row", [1, 3, 5])
@pytest.mark.parametrize("column", [0, 10, 17])
@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("x", "'x' where a number belongs"),
        ("0x10", "'0x10' where a number belongs"),
        ("1_000", "'1_000' where a number belongs"),
        ("\u0661", "where a number belongs"),
        ('"1.5"', "where a number belongs"),
        ("1.5 2", "where a number belongs"),
        ("True", "where a number belongs"),
        ("1;5", "where a number belongs"),
        ("1\0", "where a number belongs"),
    ],
)
def test_a_bad_cell_is_named(
    tmp_path: Path, lines: list[str], row: int, column: int, cell: str, word: str
) -> None:
    """File, row and column of the first cell that is no number, wherever it is."""
    name = lines[0].split(",")[column]
    _refused(tmp_path, _with_cell(lines, row, column, cell), f"row {row}, column '{name}'", word)


@pytest.mark.parametrize("cell", ["", "  ", "nan", "inf", "-Infinity", "1e400", "NA", "--"])
def test_a_cell_without_a_finite_number_costs_its_event(tmp_path: Path, lines: list[str], cell: str) -> None:
    """A momentum or a position, in the first column or the last one: left out, counted, its row named."""
    for row, column in ((1, 0), (3, 10), (5, 17)):
        with pytest.warns(UserWarning, match=rf"5 events read, 1 left out: .*\(first: row {row}\)"):
            events = _read(tmp_path, _with_cell(lines, row, column, cell))
        assert events.event_id.tolist() == [k for k in range(5) if k != row - 1]
    _refused(tmp_path, [f"{lines[0]},event", *(f"{line},{cell}" for line in lines[1:])], "event")


def test_blank_lines_do_not_shift_the_row(tmp_path: Path, lines: list[str]) -> None:
    """Rows are counted over events, whatever lies between them."""
    bad = _with_cell(lines, 4, 10, "x")
    _refused(tmp_path, [*bad[:2], "", "   ", *bad[2:]], "row 4, column 'pcy'")


def test_ragged_rows_are_named(tmp_path: Path, lines: list[str]) -> None:
    """Too many or too few fields, in one row or in all of them."""
    for k in (1, 3, 5):
        longer = [*lines[:k], lines[k] + ",1", *lines[k + 1 :]]
        _refused(tmp_path, longer, f"row {k}", "19 fields where the header has 18")
        shorter = [*lines[:k], lines[k].rsplit(",", 1)[0], *lines[k + 1 :]]
        _refused(tmp_path, shorter, f"row {k}", "17 fields where the header has 18")
    # As R writes row numbers: read without a word, every column would be off by one.
    shifted = [lines[0], *(f"{k},{line}" for k, line in enumerate(lines[1:]))]
    _refused(tmp_path, shifted, "row 1", "19 fields where the header has 18")
    _refused(tmp_path, [lines[0], *(line + "," for line in lines[1:])], "row 1", "19 fields")


def test_an_event_without_energy_is_named(tmp_path: Path, lines: list[str]) -> None:
    """Momenta all zero, or too large for their squares: left out, and counted."""
    for cells, word in (("0,0,0,0,0,0,0,0,0", "kinetic energy"), ("1e300,0,0,1,0,0,1,0,0", "too large")):
        row = ",".join(lines[2].split(",")[:9]) + "," + cells
        with pytest.warns(UserWarning, match=f"1 left out: .*{word}.*row 2"):
            assert len(_read(tmp_path, [*lines[:2], row, *lines[3:]])) == 4


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ("1,2,2,3,4", ["event number 2", "twice"]),
        ("1,2,2.5,3,4", ["row 3", "whole"]),
        ("1,2,3,4,1e30", ["row 5", "whole"]),
    ],
)
def test_event_numbers_are_whole_and_their_own(
    tmp_path: Path, lines: list[str], numbers: str, words: list[str]
) -> None:
    """Fractions, repetitions and numbers beyond what a double holds."""
    text = [f"{n},{line}" for n, line in zip(["event", *numbers.split(",")], lines, strict=True)]
    _refused(tmp_path, text, "column 'event'", *words)


def test_files_of_another_kind_are_refused(tmp_path: Path, lines: list[str]) -> None:
    """Empty, header only, blank header, binary, not UTF-8, another molecule."""
    whole = "\n".join(lines)
    _refused(tmp_path, "", "empty")
    for header in (lines[0] + "\n", lines[0] + "\n\n  \n"):
        _refused(tmp_path, header, "no event")
    _refused(tmp_path, "\n" + whole, "first line must name the columns")
    _refused(tmp_path, bytes(range(256)) * 8, "UTF-8")
    _refused(tmp_path, b"\0" * 512, "binary")
    _refused(tmp_path, whole.encode("utf-16"), "UTF-8")
    _refused(tmp_path, "\n".join(lines[:3]).encode() + b"\n\xe9,1", "UTF-8")
    _refused(tmp_path, "\n".join(lines[1:]), "18 columns without names", "--mapping")
    _refused(tmp_path, whole, "column 'po1x'", "co2 with ions c, o1, o2", molecule="co2")
    _refused(tmp_path, whole, "another molecule", "another molecule", molecule="c2h2")


def test_what_is_not_there_is_refused(tmp_path: Path, lines: list[str]) -> None:
    """A missing file, a folder, a molecule nobody knows."""
    assert lines
    for path, word in ((tmp_path / "none.csv", "none.csv"), (tmp_path, "not a file")):
        with pytest.raises(UsageError, match=word):
            read_events(path)
    with pytest.raises(UsageError, match="unobtainium"):
        read_events(tmp_path / "good.csv", "unobtainium")


def test_writing_replaces_nothing_unasked(tmp_path: Path) -> None:
    """An existing file stays, an unknown ending and a missing folder are refused."""
    events = simulate("ocs", 3, noise="1%", seed=1)
    for ending in ("csv", "h5"):
        path = tmp_path / f"kept.{ending}"
        path.write_text("somebody's")
        with pytest.raises(UsageError, match="exists"):
            write_events(events, path)
        assert path.read_text() == "somebody's"
        write_events(events, path, overwrite=True)
        _same(read_events(path), events)
    with pytest.raises(UsageError, match=r"\.txt"):
        write_events(events, tmp_path / "a.txt")
    with pytest.raises(UsageError, match="nowhere"):
        write_events(events, tmp_path / "nowhere" / "a.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.csv", "kept.h5"]


def _replaced(name: str, **given: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, **given)

    return edit


def _attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def _group(file: h5py.File) -> None:
    del file["momenta"]
    file.create_group("momenta")


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda file: file.__delitem__("momenta"), "no dataset /momenta"),
        (_group, "/momenta is not a dataset"),
        (_replaced("momenta", data="text"), "/momenta is not a dataset"),
        (_replaced("momenta", data=1.0), "momenta have shape"),
        (_replaced("momenta", data=np.ones((5, 4, 3))), "momenta have shape"),
        (_replaced("momenta", data=np.ones((0, 3, 3))), "no event"),
        (_replaced("momenta", data=np.zeros((5, 3, 3))), "no event is left"),
        (_replaced("momenta", shape=(10**13, 3, 3), dtype="f8", chunks=(9, 3, 3)), "damaged"),
        (_replaced("positions", data=np.ones((4, 3, 3))), "positions have shape"),
        (_replaced("sigma", data=-np.ones(5)), "sigma"),
        (_replaced("sigma", data=np.ones(4)), "sigma"),
        (_replaced("event", data=[1, 2, 3]), "event numbers have shape"),
        (_replaced("event", data=[1, 2, 3, 4, 4]), "event number 4 is there twice"),
        (_replaced("event", data=[1, 2, 3, 4, np.nan]), "row 5, column 'event'.*whole"),
        (_attribute("molecule", "not JSON"), "not JSON"),
        (_attribute("molecule", 3), "not JSON"),
        (_attribute("molecule", "[]"), "no table"),
        (_attribute("molecule", '{"symbols": ["C"]}'), "the molecule lacks"),
        (_attribute("origin", "{"), "not JSON"),
        (lambda file: file.attrs.__delitem__("molecule"), "which molecule"),
        (lambda file: file["momenta"].attrs.__setitem__("unit", "kg m/s"), "kg m/s"),
        (lambda file: file["positions"].attrs.__setitem__("unit", "angstrom"), "angstrom"),
        (lambda file: file["momenta"].attrs.__setitem__("unit", [1, 2]), "/momenta are in"),
    ],
)
def test_a_damaged_hdf5_file_is_refused(tmp_path: Path, edit: Callable[[h5py.File], None], word: str) -> None:
    """Whatever is missing, misshapen or not a number: DataError, naming file and place."""
    path = tmp_path / "bad.h5"
    write_events(simulate("ocs", 5, noise="1%", seed=1), path)
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(DataError, match=word) as caught:
        read_events(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("keep", [9, 100, 0.3, 0.7, 0.99])
def test_a_truncated_hdf5_file_is_refused(tmp_path: Path, keep: float) -> None:
    """Cut anywhere after the signature."""
    path = tmp_path / "bad.h5"
    write_events(simulate("ocs", 50, seed=1), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(DataError, match="damaged") as caught:
        read_events(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_no_other_file_is_opened(tmp_path: Path, kind: str) -> None:
    """External and soft links, external storage and virtual datasets are refused."""
    events = simulate("ocs", 5, seed=1)
    path, secret = tmp_path / "bad.h5", tmp_path / "secret.h5"
    write_events(events, path)
    write_events(events, secret)
    raw = tmp_path / "secret.bin"
    raw.write_bytes(events.momenta.tobytes())
    with h5py.File(path, "r+") as file:
        del file["momenta"]
        if kind == "external link":
            file["momenta"] = h5py.ExternalLink(str(secret), "/momenta")
        elif kind == "soft link":
            file["momenta"] = h5py.SoftLink("/positions")
        elif kind == "external storage":
            shape, size = events.momenta.shape, events.momenta.nbytes
            file.create_dataset("momenta", shape, "f8", external=[(str(raw), 0, size)])
        else:
            layout = h5py.VirtualLayout(events.momenta.shape, "f8")
            layout[...] = h5py.VirtualSource(str(secret), "momenta", events.momenta.shape)
            file.create_virtual_dataset("momenta", layout)
    with pytest.raises(DataError, match=r"/momenta (is not a dataset|lies in another file)"):
        read_events(path)


def test_an_hdf5_file_of_another_molecule_is_refused(tmp_path: Path) -> None:
    """Both are named; without a molecule of its own the file takes the one given."""
    path = tmp_path / "bad.h5"
    write_events(simulate("co2", 5, seed=1), path)
    with pytest.raises(DataError, match="events of co2, where ocs is expected"):
        read_events(path, "ocs")
    with h5py.File(path, "r+") as file:
        del file.attrs["molecule"]
    assert read_events(path, "co2").molecule.name == "co2"


@pytest.mark.parametrize(
    "given",
    [
        {"momenta": np.ones((2, 4, 3))},
        {"momenta": np.array([[[np.inf, 0, 0]] * 3])},
        {"momenta": np.ones((2, 3, 3))},
        {"positions": np.ones((4, 3, 3))},
        {"positions": np.full((5, 3, 3), np.nan)},
        {"sigma": np.ones((5, 1))},
        {"sigma": np.full(5, np.nan)},
        {"sigma": -np.ones(5)},
        {"event_id": np.arange(4)},
    ],
)
def test_arrays_that_are_no_events_are_refused(given: dict[str, np.ndarray]) -> None:
    """Shapes that do not match, numbers that are not finite, ions that do not part."""
    with pytest.raises(DataError):
        replace(simulate("ocs", 5, seed=1), **given)


def test_some_of_the_events_keep_their_numbers() -> None:
    """Rows chosen by slice or mask."""
    events = simulate("ocs", 6, noise="1%", seed=1)
    assert list(events[2:4].event_id) == [2, 3]
    assert list(events[np.array([5, 0])][:1].event_id) == [5]
    assert events[1:3].digest() != events.digest()


@pytest.mark.parametrize("molecule", ["ocs", "co2", "ch4", "chbrclf"])
def test_a_simulation_is_that_of_its_seed(molecule: str) -> None:
    """Same seed, same numbers to the bit; another seed, no event in common; no seed, a kept one."""
    one, two, other = (simulate(molecule, 50, noise="1%", seed=s) for s in (1, 1, 2))
    _same(one, two)
    assert not np.isin(one.momenta, other.momenta).any()
    free = simulate(molecule, 5, noise="1%")
    _same(simulate(molecule, 5, noise="1%", seed=free.origin["seed"]), free)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 150])
def test_a_longer_simulation_begins_the_same(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """The first k of n events are those of a call with k, across the borders of blocks."""
    monkeypatch.setattr(simulation, "BLOCK", 64)
    whole = simulate("ocs", 200, noise="0.1%..5%", seed=3)
    _same(simulate("ocs", n, noise="0.1%..5%", seed=3), whole[:n].unnumbered())
    rows = whole.momenta.reshape(200, -1)
    assert len(np.unique(rows, axis=0)) == 200


@pytest.mark.parametrize("molecule", ["ocs", "co2", "ch4", "chbrclf"])
def test_positions_are_centred_and_energy_is_conserved(molecule: str) -> None:
    """Centre of mass at 0; without noise no total momentum, and KER is the Coulomb energy."""
    events = simulate(molecule, 200, seed=4)
    x, p, mol = events.positions, events.momenta, events.molecule
    assert x is not None
    assert np.abs(np.einsum("k,bkx->bx", mol.masses / mol.masses.sum(), x)).max() < 1e-12
    assert np.abs(p.sum(axis=1)).max() < 1e-5 * np.abs(p).max()
    ker = (p**2 / (2.0 * mol.masses[:, None])).sum(axis=(1, 2))
    i, j = np.triu_indices(len(mol), 1)
    energy = (mol.charges[i] * mol.charges[j] / np.linalg.norm(x[:, i] - x[:, j], axis=-1)).sum(axis=1)
    np.testing.assert_allclose(ker, energy, rtol=1e-4)
    assert events.sigma is not None
    assert not events.sigma.any()


@pytest.mark.parametrize(("noise", "relative"), [("2%", True), ("1.5", False)])
def test_noise_has_the_level_asked_for(noise: str, *, relative: bool) -> None:
    """Noisy less noise-free momenta: mean 0, the stated deviation, the same in all directions."""
    clean, noisy = (simulate("ocs", 3000, noise=n, seed=6) for n in ("0%", noise))
    assert np.array_equal(clean.positions, noisy.positions)
    unit = rms_component(clean.momenta)[:, None, None] if relative else 1.0
    shift = (noisy.momenta - clean.momenta) / unit
    level = 0.02 if relative else 1.5
    # 3,000 events: four standard errors of a deviation are 5 %, of a mean 7 %.
    np.testing.assert_allclose(shift.std(axis=0), level, rtol=0.06)
    assert np.abs(shift.mean(axis=0)).max() < 0.08 * level
    assert shift.std() == pytest.approx(level, rel=0.015)
    said = level * (rms_component(noisy.momenta) if relative else np.ones(3000))
    np.testing.assert_allclose(noisy.sigma, said)


def test_a_range_of_noise_is_log_uniform() -> None:
    """0.1 % to 10 %: a third of the events in each half decade below 0.1^(1/3), and so on."""
    events = simulate("ocs", 3000, noise="0.1%..10%", seed=6)
    level = np.log10(events.sigma / rms_component(events.momenta))
    assert level.min() >= -3.0 - 1e-9
    assert level.max() <= -1.0 + 1e-9
    counts = np.histogram(level, bins=4, range=(-3.0, -1.0))[0] / 3000
    np.testing.assert_allclose(counts, 0.25, atol=0.04)


@pytest.mark.parametrize(
    "given", [{"n": 0}, {"n": -5}, {"molecule": "xyz"}, {"prior": "no"}, {"noise": "1 per cent"}]
)
def test_what_cannot_be_simulated_is_refused(given: dict[str, object]) -> None:
    """UsageError, before anything is drawn."""
    with pytest.raises(UsageError):
        simulate(**({"molecule": "ocs", "n": 3, "seed": 1} | given))  # type: ignore[arg-type]


def test_the_origin_makes_the_events_again() -> None:
    """Prior, noise, seed and accuracy are enough."""
    events = simulate("ocs", 20, prior="broad", noise="1%", seed=9)
    origin = events.origin
    again = simulate(
        "ocs",
        20,
        prior=origin["prior"],
        noise=origin["noise"],
        seed=origin["seed"],
        accuracy=origin["accuracy"],
    )
    _same(again, events)


def test_numbers_are_given_or_counted() -> None:
    """Counted numbers are not written; given ones replace them only where that is said."""
    counted = Events(OCS, np.eye(3)[None].repeat(4, 0))
    assert counted.event_id.tolist() == [0, 1, 2, 3]
    assert not counted.numbered
    assert "event" not in counted.to_dataframe()
    given = replace(counted, event_id=[7, 5, 3, 1], numbered=True)
    assert given.to_dataframe()["event"].tolist() == given[:].event_id.tolist() == [7, 5, 3, 1]
    assert given.unnumbered().event_id.tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="numbered=True"):
        replace(counted, event_id=[7, 5, 3, 1])
    with pytest.raises(DataError, match="numbers and others have not"):
        Events.concatenate([counted, given])


@pytest.mark.parametrize(
    "numbers",
    [[1.5, 2.0], [np.nan, 1.0], ["1", "2"], [True, False], [2**63, 1], [2**64, 1], np.array([0.5, 1])],
)
def test_event_numbers_are_whole(numbers: list) -> None:
    """What an integer does not hold is refused, and not cut off."""
    with pytest.raises(DataError, match="event_id are not an array of whole numbers"):
        Events(OCS, np.eye(3)[None].repeat(2, 0), event_id=numbers)
    assert Events(OCS, np.eye(3)[None].repeat(2, 0), event_id=[3.0, 1e15]).event_id.tolist() == [3, 10**15]


def test_what_is_stated_beside_a_table_goes_first() -> None:
    """Numbers and columns given with a DataFrame are not dropped."""
    frame = simulate("ocs", 3, seed=1).to_dataframe().assign(delay=1.0)
    events = Events(OCS, frame, event_id=[7, 8, 9], columns={"shot": [1, 2, 3]})
    assert events.event_id.tolist() == [7, 8, 9]
    assert sorted(events.columns) == ["delay", "shot"]
