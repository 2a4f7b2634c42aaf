"""The vector type of the kernels, and what happens to compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit, types

from flowcei.molecules.molecule import Molecule
from flowcei.physics._kernel import explode
from flowcei.physics._lanes import (
    LANES,
    any_positive,
    ceil,
    lanes_of,
    load,
    rsqrt,
    sqrt,
    store,
    where_greater,
)
from flowcei.physics.explosion import asymptotic_momenta


@njit
def _all_operations(rows: np.ndarray) -> tuple[int, bool, bool]:
    a, b = load(rows, 0), load(rows, 1)
    store(rows, 2, a + b * 2.0 - 1.0 / b)
    store(rows, 3, rsqrt(b))
    store(rows, 4, sqrt(b))
    store(rows, 5, ceil(a))
    store(rows, 6, where_greater(a, 0.5, b, -1.0))
    store(rows, 7, 7.0)
    return lanes_of(rows), any_positive(a - 0.9), any_positive(a - 2.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_do_arithmetic_like_numpy(dtype: type) -> None:
    """Every operation agrees with NumPy in every lane, to two units in the last place."""
    lanes = {4: 16, 8: 8}[np.dtype(dtype).itemsize]
    raw = np.zeros(9 * lanes + 64, dtype)
    skip = (-raw.ctypes.data % 64) // raw.itemsize
    rows = raw[skip : skip + 9 * lanes]
    table = rows.reshape(9, lanes)
    rng = np.random.default_rng(0)
    table[0], table[1] = rng.uniform(0.0, 1.0, lanes), 10.0 ** rng.uniform(-12, 12, lanes)
    table[0, 3] = 0.95
    a, b = table[0].copy(), table[1].copy()
    assert _all_operations(rows) == (lanes, True, False)
    eps = 2 * np.finfo(dtype).eps
    np.testing.assert_allclose(table[2], a + 2 * b - 1 / b, rtol=4 * eps)
    np.testing.assert_allclose(table[3], 1 / np.sqrt(b), rtol=eps)
    np.testing.assert_allclose(table[4], np.sqrt(b), rtol=eps)
    np.testing.assert_array_equal(table[5], np.ceil(a))
    np.testing.assert_array_equal(table[6], np.where(a > 0.5, b, -1))
    np.testing.assert_array_equal(table[7:], [[7] * lanes, [0] * lanes])
    assert len(LANES) == 2


# A kernel of one line: what is kept does not depend on what was compiled, and that of the simulator takes
# ten seconds. That it is kept, too, is tested in tests/cli/test_cli.py.
_PROGRAM = """
import logging
import numpy as np
logging.basicConfig(level=logging.INFO, format="%(message)s")
from flowcei.storage._compilation import kernel

@kernel
def twice(x):
    return 2.0 * x.sum()

print(twice(np.arange(7.0)))
"""


def _run(cache: Path) -> tuple[str, str]:
    program = cache.with_suffix(".py")
    program.write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, program],
        env=os.environ | {"FLOWCEI_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def test_compiled_code_is_kept_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    """The first process says what it waits for, the second has nothing to compile."""
    cache = tmp_path / "cache"
    first = _run(cache)
    assert first == ("42.0\n", first[1])
    assert first[1].count("compiling the simulator") == 1
    kept = sorted((cache / "kernels").iterdir())
    assert {p.suffix for p in kept} == {".nbc", ".nbi"}
    assert _run(cache) == (first[0], "")
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    again = _run(cache)
    assert again[0] == first[0]
    assert "compiling" in again[1]


def test_positions_that_cannot_be_written_compile_nothing() -> None:
    """Such as those of a memory map: of another type a kernel would be another one, seconds to compile."""
    ocs = Molecule.load("ocs")
    locked = ocs.equilibrium[None].copy()
    locked.flags.writeable = False
    asymptotic_momenta(locked, ocs.masses, ocs.charges)
    arrays = [kind for one in explode.signatures for kind in one if isinstance(kind, types.Array)]
    assert all(kind.mutable for kind in arrays)


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    """The result is there, with one line on what to do."""
    (tmp_path / "file").touch()
    result, words = _run(tmp_path / "file")
    assert result == "42.0\n"
    lines = [line for line in words.splitlines() if "cannot be stored" in line]
    assert len(lines) == 1
    assert "FLOWCEI_CACHE_DIR" in lines[0]
