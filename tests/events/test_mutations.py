"""Random and mutated files: a reader returns events that are finite and right, or says why it does not."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import corpus_hdf
import numpy as np
from corpus import base, mapping_toml, molecule_toml, small, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcei import check_file
from flowcei.errors import FlowceiError
from flowcei.events.container import Events
from flowcei.events.extracolumns import component_names as columns
from flowcei.events.foreign.interpretation import Reading, guessed
from flowcei.events.foreign.mapping import Mapping, read_mapping
from flowcei.events.selection import Selection
from flowcei.events.source import open_events
from flowcei.molecules.molecule import Molecule

OCS = Molecule.load("ocs")
READINGS = (
    Reading(),
    Reading(columns="c o s"),
    Reading(columns="c o s", unit="m/s"),
    Reading(unit="kg m/s", selection=Selection()),
    Reading(selection=Selection(ker=(1.0, 500.0))),
)
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.sampled_from(
    ["1e400", "nan", "-inf", "", "0x1", "1_0", "1e308", "-1e-320", "2,5", '"1"', " 7 ", "+3"]
)
PIECES = st.one_of(
    NUMBERS.map(str.encode),
    st.sampled_from(
        [b",", b";", b"\t", b" ", b"\n", b"\r", b"\r\n", b'"', b"#", b"\0", b"\xef\xbb\xbf", b"\xff"]
    ),
    st.binary(max_size=12),
    st.text(max_size=8).map(lambda s: s.encode("utf-8", "replace")),
)


@st.composite
def mutated(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """Draw a file with up to six slices deleted, replaced, doubled or cut off."""
    content = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(0, 6))):
        first = draw(st.integers(0, len(content)))
        last = min(len(content), first + draw(st.integers(0, 40)))
        piece = draw(st.one_of(PIECES, st.just(content[first:last] * 2)))
        content = content[:first] + piece + content[last:]
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 9)) == 0 else content


def _sound(path: Path, reading: Reading) -> Events | None:
    """Return the events of a file, which must be finite; None where it is refused."""
    try:
        events = open_events(path, OCS, reading).read()
    except FlowceiError:
        return None
    assert len(events)
    assert np.isfinite(events.momenta).all()
    return events


@many
@given(
    content=st.one_of(st.binary(max_size=300), mutated(small("events"))), reading=st.sampled_from(READINGS)
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, reading: Reading) -> None:
    """By all readings; the guess of what columns mean does not stumble either."""
    path = tmp_path / "e.csv"
    path.write_bytes(content)
    _sound(path, reading)
    with suppress(FlowceiError):
        guessed(path, OCS, reading)


@many
@given(content=mutated([text().encode(), text(end="\r\n").encode(), text(end="\r").encode()]))
def test_a_mutated_table_is_never_misread(tmp_path: Path, content: bytes) -> None:
    """Where it is read, its numbers are those that Python finds in its cells."""
    path = tmp_path / "e.csv"
    path.write_bytes(content)
    events = _sound(path, Reading())
    if events is None:
        return
    lines = [line for line in content.decode("utf-8-sig").replace("\r", "\n").split("\n") if line.strip()]
    if lines[0].startswith("#") or any(c in lines[0] for c in '"; \t'):
        return
    rows = [
        dict(zip(map(str.strip, lines[0].split(",")), line.split(","), strict=True)) for line in lines[1:]
    ]
    expected = np.array(
        [[float(row[name].strip() or "nan") for name in columns(OCS.labels, "p")] for row in rows]
    )
    numbers = [int(float(row["event"])) if "event" in rows[0] else k for k, row in enumerate(rows)]
    read = np.isin(numbers, events.event_id)  # the others are left out since they cannot be used
    np.testing.assert_allclose(events.momenta.reshape(-1, 9), expected[read], rtol=1e-14)
    with np.errstate(over="ignore", invalid="ignore"):
        usable = np.isfinite((expected**2).sum(axis=1)) & (expected.reshape(-1, 3, 3) != 0).any(axis=2).all(
            axis=1
        )
    assert not usable[~read].any()


@settings(many, max_examples=60)
@given(
    content=mutated(
        [
            text().encode(),
            b"".join(
                (Path(__file__).parents[2] / "examples/data/study.csv")
                .read_bytes()
                .splitlines(keepends=True)[:8]
            ),
        ]
    )
)
def test_a_check_survives_whatever_bytes_a_file_holds(tmp_path: Path, content: bytes) -> None:
    """Also numbers that are extreme, and positions on top of each other."""
    path = tmp_path / "e.csv"
    path.write_bytes(content)
    try:
        report = check_file(path, OCS)
    except FlowceiError:
        return
    json.dumps(report.to_dict())
    assert report.verdict


TOML = st.one_of(
    st.text(max_size=200).map(lambda s: s.encode("utf-8", "replace")),
    mutated([*small("mapping"), *small("molecule"), mapping_toml(), molecule_toml()]),
)


@many
@given(content=TOML)
def test_any_mapping_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    """And what was read comes back from what is written of it, and reads a table or not."""
    path, table = tmp_path / "m.toml", tmp_path / "e.csv"
    path.write_bytes(content)
    table.write_text(text())
    try:
        mapping = read_mapping(path)
    except FlowceiError:
        return
    path.write_text(mapping.to_toml("about"), encoding="utf-8")
    assert read_mapping(path) == mapping
    _sound(table, Reading(mapping=mapping))


@many
@given(content=TOML)
def test_any_molecule_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    """And what was read comes back from its table."""
    path = tmp_path / "m.toml"
    path.write_bytes(content)
    try:
        molecule = Molecule.load(path)
    except FlowceiError:
        return
    assert Molecule.from_dict(json.loads(json.dumps(molecule.to_dict()))).same_ions(molecule)


ATOMS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    st.sampled_from(
        ["c", "o", "s", "pcx", "hbar/bohr", "bohr", "ion", "event", "C", "u", 10**400, 2**63, -1]
    ),
)
JSON = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, table: dict[str, Any]) -> dict[str, Any]:
    """Draw a sound table with up to three entries, at any depth, replaced by anything."""
    whole = json.loads(json.dumps(table))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = whole
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is None:
                break
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(JSON)
            break
    return whole


@many
@given(table=st.one_of(JSON, changed(OCS.to_dict())))
def test_any_table_of_a_molecule_is_taken_or_refused(tmp_path: Path, table: Any) -> None:
    """In Python and as the attribute of an HDF5 file."""
    try:
        molecule = Molecule.from_dict(table)
    except FlowceiError:
        molecule = None
    if molecule is not None:
        assert np.isfinite(molecule.masses).all()
        assert len(set(molecule.labels)) == len(molecule)
    try:
        with corpus_hdf.hdf(tmp_path / "e.h5", molecule=json.dumps(table)):
            pass
        open_events(tmp_path / "e.h5")
    except FlowceiError:
        pass


ROWS_OF_IONS = {
    "rows": "ion",
    "event": "event",
    "ions": {"column": "pcx", "values": {"c": 1.0, "o": "2", "s": 3}},
    "channel": {"column": "pcy", "value": 1},
    "momenta": {"unit": "m/s", "columns": ["pcx", "pcy", "pcz"]},
    "positions": {"unit": "bohr", "columns": ["pcx", "pcy", "pcz"]},
}
ROWS_OF_EVENTS = Mapping.from_dict(
    {"sigma": "event", "momenta": {"unit": "au", "ions": {k: [f"p{k}{a}" for a in "xyz"] for k in "cos"}}}
).to_dict()


@many
@given(table=st.one_of(JSON, changed(ROWS_OF_IONS), changed(ROWS_OF_EVENTS)))
def test_any_table_of_a_mapping_is_taken_or_refused(tmp_path: Path, table: Any) -> None:
    """And reads a table, or not."""
    path = tmp_path / "e.csv"
    path.write_text(text())
    try:
        mapping = Mapping.from_dict(table)
    except FlowceiError:
        return
    assert Mapping.from_dict(mapping.to_dict()) == mapping
    _sound(path, Reading(mapping=mapping))


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, base().momenta)
    return buffer.getvalue()


@settings(many, max_examples=150)
@given(content=mutated([_npy(), *(content for content in small("events", 10_000) if content[:2] == b"3\n")]))
def test_mutated_arrays_and_structures_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    """Headers of .npy are Python text, comments of XYZ name columns: both may say anything."""
    path = tmp_path / "e.dat"
    path.write_bytes(content)
    _sound(path, Reading(columns="c o s", unit="au"))
