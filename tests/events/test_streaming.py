"""Simulation into a file: the same events as in memory, whatever happens on the way."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from forks import Forks, kill, lives

from flowcei.errors import DataError, StoppedError, UsageError
from flowcei.events.simulation import BLOCK, Simulator, make_simulator, simulate, simulate_to_file
from flowcei.events.storage import read_events
from flowcei.storage.creation import partial_path
from flowcei.storage.resumable import unfinished_seed

N = 3 * BLOCK + 100
_WARM = """
import h5py, flowcei.cli.simulate
from flowcei.events.simulation import simulate
simulate("ocs", 2, seed=1, accuracy=1e-5)
"""


def _simulator(seed: int = 5) -> Simulator:
    return make_simulator("ocs", noise="1%", seed=seed, accuracy=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_file_holds_what_simulate_returns(tmp_path: Path, threads: int) -> None:
    """Bit for bit, with any number of threads; and nothing else is left in the folder."""
    path = tmp_path / "a.h5"
    told: list[int] = []
    simulate_to_file(_simulator(), N, path, threads=threads, on_block=told.append)
    found, expected = read_events(path), simulate("ocs", N, noise="1%", seed=5, accuracy=1e-5)
    for name in ("momenta", "positions", "sigma"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.origin == expected.origin
    assert sum(told) == N
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Files can be compared by their fingerprints."""
    for name in ("a.h5", "b.h5"):
        simulate_to_file(_simulator(), N, tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_interruption_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """What was done is kept, is not computed again, and the end is what one run gives."""
    path, whole = tmp_path / "a.h5", tmp_path / "whole.h5"
    simulate_to_file(_simulator(), N, whole)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(StoppedError, match=rf"of {N} events; .* --resume"):
        simulate_to_file(_simulator(), N, path, threads=1, on_block=stop)
    assert not path.exists()
    assert unfinished_seed(path) == 5
    with h5py.File(partial_path(path)) as file:
        done = file["done"][()].astype(bool)
        assert 0 < done.sum() < 4
        np.testing.assert_array_equal(file["momenta"][:BLOCK], read_events(whole).momenta[:BLOCK])
    computed: list[int] = []

    class _Counting(Simulator):
        def rows(self, index: int, n: int) -> tuple[np.ndarray, ...]:
            computed.append(index)
            return super().rows(index, n)

    same = _simulator()
    counting = _Counting(same.molecule, same.prior, same.noise, same.seed, same.accuracy)
    told: list[int] = []
    simulate_to_file(counting, N, path, resume=True, on_block=told.append)
    assert sorted(computed) == np.flatnonzero(~done).tolist()
    assert sum(told) == N
    np.testing.assert_array_equal(read_events(path).momenta, read_events(whole).momenta)


def test_a_killed_process_leaves_a_file_that_can_be_read_and_resumed(tmp_path: Path) -> None:
    """Killed at three moments, without any chance to tidy up; then the end is right."""
    line = ["simulate", "ocs", "-n", "800000", "--seed", "3", "-o", "big.h5", "--accuracy", "1e-5"]
    partial = tmp_path / "big.h5.partial"
    kept = -1
    with Forks(tmp_path, _WARM) as server:
        for pause in (0.0, 0.1, 0.2):
            child = server.begin(*line, *(["--resume"] if partial.exists() else []))
            while not partial.exists() and lives(child):
                time.sleep(0.001)
            time.sleep(pause)
            kill(child)
            server.end()
            if not partial.exists():
                break  # a fast machine: it was all done
            with h5py.File(partial) as file:
                count = int(file["done"][()].sum())
            assert count >= kept
            kept = count
        if partial.exists():
            server.begin(*line, "--resume")
            assert server.end() == 0
    expected = simulate("ocs", BLOCK, seed=3, accuracy=1e-5)
    with h5py.File(tmp_path / "big.h5") as file:
        assert file["done"][()].all()
        np.testing.assert_array_equal(file["momenta"][:BLOCK], expected.momenta)
        assert np.isfinite(file["momenta"][-BLOCK:]).all()
        assert (np.abs(file["momenta"][-BLOCK:]).sum(axis=(1, 2)) > 0).all()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Without a word on it, with other settings, or with something else in its place."""
    path = tmp_path / "a.h5"

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        simulate_to_file(_simulator(), N, path, on_block=stop)
    with pytest.raises(UsageError, match="--resume goes on with it, --overwrite begins anew"):
        simulate_to_file(_simulator(), N, path)
    with pytest.raises(UsageError, match="was begun with seed 5, not 6"):
        simulate_to_file(_simulator(6), N, path, resume=True)
    with pytest.raises(UsageError, match=f"was begun with events {N}, not {N + 1}"):
        simulate_to_file(_simulator(), N + 1, path, resume=True)
    simulate_to_file(_simulator(6), N, path, overwrite=True)
    assert read_events(path).origin["seed"] == 6
    partial_path(path).write_bytes(b"something else")
    with pytest.raises(DataError, match="is no unfinished file of flowcei"):
        simulate_to_file(_simulator(), N, path, overwrite=True, resume=True)
