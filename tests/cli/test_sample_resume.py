"""`flowcei sample` into a file: whatever ends the process, nothing is lost, repeated or changed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest
from forks import Forks, kill, lives
from shell import Shell

import flowcei
import flowcei.reconstruction.sampling
from flowcei.errors import DataError, FlowceiError, StoppedError, UsageError
from flowcei.posterior.files import arrays_of, sample_to_file
from flowcei.reconstruction import answering
from flowcei.reconstruction.sampling import SamplingRequest, Survey
from flowcei.storage.creation import atomic_write
from flowcei.storage.resumable import PreallocatedFile, preallocate, unfinished_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor

N, DRAWS, BLOCK = 23, 10, 5

_WARM = """
import flowcei, flowcei.cli.sample, flowcei.reconstruction.sampling
flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 2, seed=1)
flowcei.reconstruction.sampling.ROWS = 400
"""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowcei.reconstruction.sampling, "ROWS", BLOCK * DRAWS)


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """`flow("sample", ...)` runs a command in an empty folder, with 23 events in `e.csv`."""
    monkeypatch.chdir(tmp_path)
    flowcei.write_events(flowcei.simulate("ocs", N, noise="1%", seed=31), "e.csv")
    return Shell(monkeypatch, capsys)


def _words(output: str, *more: str, seed: str | None = "1") -> list[str]:
    seeds = [] if seed is None else ["--seed", seed]
    return ["sample", "--momenta", "e.csv", "-n", str(DRAWS), "--noise", "1%", *seeds, "-o", output, *more]


@contextlib.contextmanager
def _stopped_after(blocks: int, how: Callable[[], None]) -> Iterator[None]:
    """Do something to the process when it has drawn some blocks."""
    drawn = answering.by_request
    done = 0

    def counted(*given: Any) -> PosteriorSamples:
        nonlocal done
        if done == blocks:
            how()
        done += 1
        return drawn(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "by_request", counted)
        yield


def _interrupt() -> None:
    raise KeyboardInterrupt


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _datasets(path: Path | str) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: data[()] for name, data in file.items()}


def _same(one: Path | str, other: Path | str) -> None:
    found, expected = _datasets(one), _datasets(other)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


@pytest.mark.parametrize(
    ("ending", "rules", "how"),
    [
        ("h5", (), _terminate),
        ("h5", ("--weigh",), _interrupt),
        ("h5", ("--exact",), _interrupt),
        ("csv", (), _interrupt),
        ("csv", ("--weigh",), _terminate),
        ("parquet", ("--min-ess", "8", "--budget", "80"), _interrupt),
    ],
)
def test_what_was_stopped_goes_on_to_the_same_file(
    flow: Shell, ending: str, rules: tuple[str, ...], how: Callable[[], None]
) -> None:
    """Exit code 5 and the line that says how; then the bytes of a run that nothing stopped."""
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    assert flow(*_words(f"whole.{ending}", *rules)) == 0
    said = flow.err
    with _stopped_after(3, how):
        assert flow(*_words(f"a.{ending}", *rules)) == 5
    assert "interrupted after 15 of 23 events; the same command with --resume goes on" in flow.err
    assert not Path(f"a.{ending}").exists()
    with _stopped_after(1, how):
        assert flow(*_words(f"a.{ending}", *rules, "--resume", seed=None)) == 5
    assert "after 20 of 23 events" in flow.err
    assert flow(*_words(f"a.{ending}", *rules, "--resume", seed=None)) == 0
    # What is said of all events is said of all of them.
    assert [line for line in flow.err.splitlines() if " effective " in line] == [
        line for line in said.splitlines() if " effective " in line
    ]
    assert Path(f"a.{ending}").read_bytes() == Path(f"whole.{ending}").read_bytes()
    # The same job, queued once more, has nothing to do.
    assert flow(*_words(f"a.{ending}", *rules, "--resume", seed=None)) == 0
    assert "nothing to go on with" in flow.err
    assert {p.name for p in Path().iterdir()} == {"e.csv", f"a.{ending}", f"whole.{ending}"}


def test_the_file_holds_what_the_model_draws(flow: Shell, tmp_path: Path) -> None:
    """HDF5 as `Reconstructor.sample` gives it, and CSV and Parquet as HDF5 does."""
    events = flowcei.read_events("e.csv")
    expected = flowcei.load().sample(events, DRAWS, noise="1%", seed=1, weigh=True)
    assert flow(*_words("a.h5", "--weigh")) == 0
    found = flowcei.read_samples("a.h5")
    for name, array in arrays_of(expected).items():
        np.testing.assert_array_equal(arrays_of(found)[name], array, err_msg=name)
    assert {k: v for k, v in found.origin.items() if k != "verdict"} == expected.origin
    for ending in ("csv", "parquet"):
        if ending == "parquet":
            pytest.importorskip("pyarrow")
        assert flow(*_words(f"a.{ending}", "--weigh")) == 0
        table = pd.read_csv("a.csv") if ending == "csv" else pd.read_parquet("a.parquet")
        x = table[[a + b for a in "cos" for b in "xyz"]].to_numpy().astype(np.float32)
        np.testing.assert_array_equal(x.reshape(expected.positions.shape), expected.positions)
        np.testing.assert_array_equal(table["event"], np.repeat(np.arange(N), DRAWS))
    assert flow("sample", "--momenta", "e.csv", "-n", "10", "--noise", "1%", "--seed", "1", "-o", "-") == 0
    assert flow.out.splitlines()[0].startswith("event,sample,cx")
    assert len(flow.out.splitlines()) == 1 + N * DRAWS
    assert not list(tmp_path.glob("*.partial"))


def test_parquet_says_its_units(flow: Shell) -> None:
    """Bohr, the density's, the molecule; a row group a block."""
    parquet = pytest.importorskip("pyarrow.parquet")
    assert flow(*_words("a.parquet")) == 0
    file = parquet.ParquetFile("a.parquet")
    assert file.schema_arrow.field("cx").metadata == {b"unit": b"bohr"}
    assert file.schema_arrow.field("log_prob").metadata == {b"unit": b"log(1/bohr^6)"}
    assert b'"ocs"' in file.schema_arrow.metadata[b"molecule"]
    assert file.num_row_groups == 5


def test_without_pyarrow_parquet_is_refused_at_once(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 with the line that installs it."""
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert flow(*_words("a.parquet")) == 2
    assert "pip install flowcei[parquet]" in flow.err
    assert not Path("a.parquet.partial").exists()


def test_an_interruption_while_the_table_is_written_keeps_the_samples(
    flow: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sampled again, and no half of a CSV is left."""
    assert flow(*_words("whole.csv")) == 0
    with monkeypatch.context() as patch:
        patch.setattr("flowcei.posterior.files.write_parts", lambda *_: _interrupt())
        assert flow(*_words("a.csv")) == 5
    assert "after 23 of 23 events" in flow.err
    assert {p.name for p in Path().iterdir()} == {"e.csv", "whole.csv", "a.csv.partial"}
    with _stopped_after(0, lambda: pytest.fail("an event was sampled again")):
        assert flow(*_words("a.csv", "--resume")) == 0
    assert Path("a.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_the_unfinished_are_neither_taken_for_finished_nor_replaced(flow: Shell) -> None:
    """Their reader says how far they are; a new run asks what to do with them."""
    with _stopped_after(3, _interrupt):
        flow(*_words("a.h5"))
    with pytest.raises(DataError, match="not finished: 3 of 5 blocks are there; flowcei sample --resume"):
        flowcei.read_samples("a.h5.partial")
    assert flow("spread", "a.h5.partial") == 3
    before = Path("a.h5.partial").read_bytes()
    assert flow(*_words("a.h5")) == 2
    assert "--resume goes on with it, --overwrite begins anew" in flow.err
    # What is refused in the first block replaces nothing either.
    assert flow(*_words("a.h5", "--overwrite", "--noise", "9%")) == 2
    with _stopped_after(0, _interrupt):
        assert flow(*_words("a.h5", "--overwrite")) == 130
    assert Path("a.h5.partial").read_bytes() == before
    assert flow(*_words("a.h5", "--overwrite", seed="2")) == 0
    assert flowcei.read_samples("a.h5").origin["seed"] == 2


def test_what_differs_is_refused_by_name(flow: Shell) -> None:
    """Samples an event, seed, noise, latents, weights, model and momenta."""
    assert flow(*_words("b.h5", "--resume")) == 2
    assert "no unfinished file b.h5.partial to resume" in flow.err
    assert flow(*_words("-", "--resume")) == 2
    with _stopped_after(3, _interrupt):
        flow(*_words("a.h5"))
    before = Path("a.h5.partial").read_bytes()
    tiny = ["--epochs", "1", "--events", "1000", "--hidden", "8", "--couplings", "2", "--seed", "1"]
    assert flow("train", *tiny, "-o", "runs/t") == 0
    for words, say in (
        (("-n", "11"), "with n 10, not 11"),
        (("--seed", "2"), "with seed 1, not 2"),
        (("--noise", "2%"), "with noise 1%, not 2%"),
        (("--latent", "training"), "with latent prior, not training"),
        (("--weigh",), "with weigh False, not True"),
        (("--model", "runs/t"), "with model ocs"),
    ):
        model = () if "--model" in words else ("--model", "bundled")
        assert flow(*_words("a.h5", "--resume"), *model, *words) == 2, words
        assert say in flow.err
    events = flowcei.read_events("e.csv")
    momenta = events.momenta.copy()
    momenta[22, 0, 0] *= 1.0 + 1e-12
    flowcei.write_events(flowcei.Events(events.molecule, momenta, sigma=events.sigma), "other.csv")
    for name, say in (("other.csv", "with momenta "), ("fewer.csv", "with events 23, not 22")):
        flowcei.write_events(events[:22], "fewer.csv", overwrite=True)
        assert flow(*_words("a.h5", "--resume", "--model", "bundled"), "--momenta", name) == 2
        assert say in flow.err
    assert Path("a.h5.partial").read_bytes() == before
    Path("a.h5.partial").write_bytes(b"something else")
    assert flow(*_words("a.h5", "--resume", "--model", "bundled")) == 3
    assert "is no unfinished file of flowcei" in flow.err


def test_events_that_change_on_the_way_are_refused(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """More or fewer than were counted: DataError, and no file of its name."""
    events = flowcei.simulate("ocs", 12, noise="1%", seed=1)
    asked, path = SamplingRequest(DRAWS, 1), tmp_path / "a.h5"
    for count in (9, 10, 14, 20):
        request = tiny_cinn.describe(asked) | {"events": count, "momenta": Survey.of([events]).digest}
        with pytest.raises(DataError, match=r"changed while they were sampled|has no room"):
            sample_to_file(
                lambda start: tiny_cinn.blocks(events, asked, start=start), path, request, overwrite=True
            )
        assert not path.exists()


def test_the_seed_is_that_of_the_unfinished(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """None where there is nothing; and a stream that stops says so in Python too."""
    events, path = flowcei.simulate("ocs", 12, noise="1%", seed=1), tmp_path / "a.h5"
    asked = SamplingRequest(DRAWS, 77)
    request = tiny_cinn.describe(asked) | {"events": 12, "momenta": ""}
    assert unfinished_seed(path) is None

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="after 5 of 12"):
        sample_to_file(
            lambda start: tiny_cinn.blocks(events, asked, start=start), path, request, on_block=stop
        )
    assert unfinished_seed(path) == 77
    told: list[int] = []
    quality = sample_to_file(
        lambda start: tiny_cinn.blocks(events, asked, start=start),
        path,
        request,
        resume=True,
        on_block=told.append,
    )
    assert told == [5, 5, 2]
    assert np.array_equal(quality.event_id, np.arange(12))
    with pytest.raises(UsageError, match="exists"):
        sample_to_file(lambda start: tiny_cinn.blocks(events, asked, start=start), path, request, resume=True)


def _laid_out(path: Path, shape: tuple[int, ...], blocks: int) -> None:
    with atomic_write(path) as file:
        preallocate(file, path, {"x": (shape, np.dtype("f4"))}, blocks, lambda _: None)


def test_a_file_that_has_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that says how much it takes; no unfinished file."""

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(FlowceiError, match=r"no room for the 4e-09 GB of .*No space left"):
        _laid_out(tmp_path / "a.h5", (1,), 1)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_laid_out_otherwise_is_refused(tmp_path: Path) -> None:
    """Other arrays, too many rows, chunks, text."""
    path = tmp_path / "a.h5"
    _laid_out(path, (4, 2), 2)
    with path.open("r+b") as raw:
        file = PreallocatedFile(raw, path)
        for arrays in ({"x": np.ones((2, 3))}, {"x": np.ones((5, 2))}, {"y": np.ones((2, 2))}, {}):
            with pytest.raises(DataError, match="remove it"):
                file.put(0, 0, arrays)
        assert not file.done.any()
    with h5py.File(path, "r+") as edited:
        edited.create_dataset("z", (2,), "f4", chunks=(1,), maxshape=(None,))
    with path.open("r+b") as raw, pytest.raises(DataError, match="damaged"):
        PreallocatedFile(raw, path)
    path.write_bytes(path.read_bytes()[:700])
    with path.open("r+b") as raw, pytest.raises(DataError, match="damaged"):
        PreallocatedFile(raw, path)


def test_a_killed_process_leaves_what_can_be_read_and_resumed(tmp_path: Path) -> None:
    """Killed at three moments, without a chance to tidy up; every time all that was done is there."""
    events = flowcei.simulate("ocs", 1200, noise="1%", seed=31)
    flowcei.write_events(events, tmp_path / "e.csv")
    whole, rng = tmp_path / "whole.h5", random.Random(1)  # noqa: S311 (no secret)
    with Forks(tmp_path, _WARM) as server:

        def run(words: list[str], partial: Path | None = None, kept: int = 0) -> int:
            """Run a command, or kill it soon after another block is kept."""
            child = server.begin(*words, "--model", "bundled")
            if partial is not None:
                while _done(partial) <= kept and lives(child):
                    time.sleep(0.001)
                time.sleep(rng.uniform(0.0, 0.03))
                kill(child)
            return server.end()

        assert run(_words("whole.h5")) == 0
        expected = _datasets(whole)
        assert run(_words("whole.csv")) == 0
        for ending in ("h5", "csv"):
            path, kept = tmp_path / f"a.{ending}", 0
            partial = path.with_name(f"{path.name}.partial")
            for _ in range(3):
                if path.exists():
                    break  # a fast machine: it was all done
                run(_words(path.name, *(["--resume"] if partial.exists() else [])), partial, kept)
                if partial.exists():
                    found = _datasets(partial)
                    done = int(found["done"].sum())
                    assert kept <= done
                    assert found["done"][:done].all()
                    kept, rows = done, done * 400 // DRAWS
                    for name in set(expected) - {"done"}:
                        assert np.array_equal(found[name][:rows], expected[name][:rows]), name
            if partial.exists():
                assert run(_words(path.name, "--resume")) == 0
            assert path.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
            assert not partial.exists()


def _done(partial: Path) -> int:
    """Return how many blocks are there; -1 where there is no file yet, or one that is being written."""
    try:
        # Without a lock: it would fail while the other process writes, or make that fail.
        with h5py.File(partial, locking=False) as file:
            return int(file["done"][()].sum())
    except (OSError, KeyError):
        return -1
