"""CSV that spreadsheets do not run: text is made safe, numbers stay to the last digit."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcei.storage.cells import Words, rows_as_text, safe_cell, write_table

DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n")
starts = st.sampled_from([*DANGEROUS, "", "'", '"', " "])
texts = st.builds(
    str.__add__, starts, st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.isascii() and "_" not in cell and cell == cell.strip()


@given(texts)
def test_no_text_is_a_formula_and_all_can_be_read_back(text: str) -> None:
    """An apostrophe before what a spreadsheet would run, one kind of line break; nothing else is changed."""
    safe = safe_cell(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    assert isinstance(safe, str)
    assert safe in (text, f"'{text}")
    if safe.startswith(DANGEROUS):
        assert _is_number(safe)
    else:
        assert (safe != text) == text.startswith(DANGEROUS)
    assert safe_cell(safe) == safe


@given(st.lists(texts, min_size=1, max_size=4), st.floats(), texts)
def test_tables_go_through_csv(words: list[str], number: float, header: str) -> None:
    """Headers, index and cells; numbers beside them return as they were."""
    if header == "number":
        return
    table = pd.DataFrame({header: words, "number": number}, index=pd.Index(words, name="model"))
    file = io.StringIO(newline="")
    write_table(table, file, lineterminator="\n")
    file.seek(0)
    first, *rows = csv.reader(file)
    assert first == ["model", safe_cell(header), "number"]
    for row, word in zip(rows, words, strict=True):
        assert row[:2] == [safe_cell(word)] * 2
        assert row[2] == "" if math.isnan(number) else float(row[2]) == number


@pytest.mark.parametrize("cell", ["-1", "+2.5e-3", "-.5", "-1.", "-inf", "+nan", "-1e300", "c-o", "", "ocs"])
def test_numbers_and_plain_words_stay(cell: str) -> None:
    """Also numbers that are text."""
    assert safe_cell(cell) == cell


@pytest.mark.parametrize("cell", ["=1", "@x", "-2+3", "+cmd|' /C calc'!A0", "-1_0", "-1 ", "--1", "-٣"])
def test_formulas_do_not(cell: str) -> None:
    """What a spreadsheet would compute, though some of it looks like a number."""
    assert safe_cell(cell) == f"'{cell}"


def test_numbers_are_not_touched() -> None:
    """Not text: to the last digit, negative ones, missing ones; the table itself is not changed."""
    table = pd.DataFrame(
        {"x": [-1.0 / 3.0, np.nan], "n": [-1, 2], "flags": ["=x", None], "ok": [True, False]}
    )
    before = table.copy()
    file = io.StringIO()
    write_table(table, file, index=False, lineterminator="\n")
    assert file.getvalue() == f"x,n,flags,ok\n{-1 / 3},-1,'=x,True\n,2,,False\n"
    pd.testing.assert_frame_equal(table, before)


whole = st.integers(-(2**63), 2**63 - 1)
# Halves of the last digit, and their neighbours: where rounding is decided.
halves = st.builds(lambda n, k: (n + 0.5) / 10.0**k, st.integers(-(10**6), 10**6), st.integers(-9, 25))
numbers = st.one_of(st.floats(), st.floats(-1e6, 1e6), halves, halves.map(lambda x: np.nextafter(x, np.inf)))
rows = st.tuples(numbers, whole, st.one_of(texts, st.none()), st.booleans(), st.floats(width=32))


@settings(deadline=None)  # the first call may compile
@given(st.lists(rows, min_size=1, max_size=20), st.integers(1, 12), st.booleans())
def test_long_tables_are_written_as_pandas_does(
    cells: list[tuple[object, ...]], digits: int, header: bool
) -> None:
    """Every number to the last digit, as C's printf has it; text, truth and what is missing."""
    table = pd.DataFrame(cells, columns=["x", "n", "=text", "ok", "single, quoted"])
    table = table.astype({"single, quoted": np.float32})
    slow = io.StringIO(newline="")
    fast = rows_as_text(table, digits, header=header)
    write_table(table, slow, index=False, header=header, float_format=f"%.{digits}g", lineterminator="\n")
    assert fast == slow.getvalue()


def test_whole_numbers_of_64_bits_and_empty_tables() -> None:
    """What does not fit in 63 bits is written all the same; a table without rows has its header."""
    table = pd.DataFrame({"n": np.array([2**64 - 1, 0], dtype=np.uint64), "m": [-(2**63), 7]})
    assert rows_as_text(table, 6) == f"n,m\n{2**64 - 1},{-(2**63)}\n0,7\n"
    assert rows_as_text(pd.DataFrame({"x": np.empty(0)}), 6) == "x\n"


def test_words_that_come_again() -> None:
    """As a column of text, without a look at each row."""
    words = Words(np.array([1, 0, 1, 1, 2]), ["=a", 'b "c", d', ""])
    columns = {"x": np.arange(5.0), "word": words, "other": words, "n": np.arange(5)}
    table = pd.DataFrame({k: v.spelled if isinstance(v, Words) else v for k, v in columns.items()})
    assert rows_as_text(columns, 6) == rows_as_text(table, 6)


def test_every_table_of_flowcei_is_written_so() -> None:
    """`to_csv` is called in one place for tables with text; elsewhere of numbers alone."""
    house = Path(__file__).parents[2] / "flowcei"
    callers = {p.name for p in house.rglob("*.py") if re.search(r"\.to_csv\(", p.read_text())}
    assert "cells.py" in callers
    assert callers <= {"cells.py", "runs.py", "train.py", "storage.py"}, callers
