"""Workers: the same answers for any number of them, in order, whoever of them dies."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks
from linear import Linear
from shell import Shell

import flowcei
from flowcei.cli import inputs
from flowcei.cli.sharing import Sharing
from flowcei.errors import DataError, StoppedError, UsageError, WorkersLostError
from flowcei.events.simulation import BLOCK, make_simulator, simulate_to_file
from flowcei.physics.threads import usable_cores
from flowcei.reconstruction import sampling
from flowcei.reconstruction.sharing import StoredModel
from flowcei.workers import cluster
from flowcei.workers.local import LocalWorkers
from flowcei.workers.order import each_of, ordered
from flowcei.workers.task import answered, program

SUPPORT = Path(tasks.__file__).parent


@pytest.fixture(autouse=True)
def _tasks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.setenv("PYTHONPATH", f"{SUPPORT}{os.pathsep}{Path(flowcei.__file__).parents[1]}")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _wait_for_end_of(worker: int) -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on without its parent")


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Each of nine blocks kills its worker once, two the process that starts workers; none is left behind."""
    with LocalWorkers(2) as workers:
        blocks = [(tmp_path, number) for number in range(9)]
        assert list(ordered(workers, tasks.square_at_last, blocks)) == [k * k for k in range(9)]
        blocks = [(tmp_path, number) for number in (10, 11)]
        assert list(ordered(workers, tasks.square_without_parent, blocks)) == [100, 121]
        numbers = set(ordered(workers, tasks.own_number, range(9)))
        assert len(numbers) <= 2
    assert len(list(tmp_path.iterdir())) == 11
    for number in numbers:
        _wait_for_end_of(number)


def test_a_worker_is_a_copy_of_what_has_imported() -> None:
    """Once, and before there is a task."""
    with each_of(2, modules=["tasks", "wave"]) as each:
        assert set(each(tasks.is_imported, ["wave"] * 4)) == {True}
        assert not any(each(tasks.is_imported, ["sunau"]))


def test_a_block_that_kills_every_worker_is_given_up() -> None:
    """Memory that is too small would be too small for ever."""
    with LocalWorkers(1) as workers, pytest.raises(WorkersLostError, match=r"5 workers .*killed.* fewer"):
        list(ordered(workers, tasks.die, [1]))


def test_errors_and_warnings_come_to_who_asked() -> None:
    """In the order of the blocks; of the error it is said where it was."""
    with LocalWorkers(1) as workers:
        results = ordered(workers, tasks.complain, [2, 0])
        with pytest.warns(UserWarning, match="number 2"):
            assert next(results) == 0.5
        with pytest.warns(UserWarning, match="number 0"), pytest.raises(ZeroDivisionError) as caught:
            next(results)
    assert "in a worker" in caught.value.__notes__[0]


def test_few_blocks_are_begun_at_a_time() -> None:
    """However many there are: memory does not grow with the file."""
    begun: list[int] = []
    numbers = (begun.append(k) or k for k in range(100))
    with LocalWorkers(1) as workers:
        results = ordered(workers, tasks.square, numbers)
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        assert len(begun) <= 5


def test_one_worker_is_this_process() -> None:
    """Nothing is started and nothing is sent."""
    with each_of() as each:
        assert each is map
    with pytest.raises(UsageError, match="not both"), each_of(2, "tcp://127.0.0.1:1"):
        pass


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """Also where that was killed, and in the middle of a block."""
    script = (
        "import tasks, pathlib\nfrom flowcei.workers.local import LocalWorkers\n"
        "with LocalWorkers(1) as w: w.submit(tasks.tell_and_sleep, pathlib.Path('pid')).result()"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path) as parent:
        deadline = time.monotonic() + 60.0
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        worker = int((tmp_path / "pid").read_text())
        parent.kill()
    _wait_for_end_of(worker)


def test_another_program_or_model_is_refused(tmp_path: Path) -> None:
    """Blocks of two programs, or of two models, do not belong in one file."""
    answer = answered(tasks.square, 3, "0.0.1 (12345678)")
    assert isinstance(answer.error, UsageError)
    assert "this is 0.0.1 (12345678); install the same there" in str(answer.error)
    assert answered(tasks.square, 3, program()).result == 9
    bundled = StoredModel.of(flowcei.load())
    assert bundled.path is None
    with pytest.raises(DataError, match="is not the model that is asked for"):
        replace(bundled, digest="0").load()
    with pytest.raises(UsageError, match=r"no file .*none.safetensors.* under the same name"):
        replace(bundled, path=tmp_path / "none.safetensors").load()


def test_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As libraries, we take OMP_NUM_THREADS threads at the most."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = usable_cores()
    for stated, count in {"1": 1, "1,2": 1, "9999": cores, "": cores, "0": cores, "many": cores}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", stated)
        assert usable_cores() == count


def test_workers_that_are_gone_leave_what_can_be_resumed(tmp_path: Path) -> None:
    """Exit code 5, and the same file in the end."""
    simulator, path, n = make_simulator("ocs", seed=5), tmp_path / "a.h5", 4 * BLOCK + 1
    simulate_to_file(simulator, n, tmp_path / "b.h5")

    def lost(function: Callable[[Any], Any], blocks: Iterable[Any]) -> Iterator[Any]:
        yield from map(function, list(blocks)[:1])
        raise WorkersLostError("the workers are gone")

    with pytest.raises(StoppedError, match=r"gone: after 32768 of 32769 events; .* --resume goes on"):
        simulate_to_file(simulator, n, path, each=lost)
    simulate_to_file(simulator, n, path, resume=True)
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_simulated_events_are_the_same(shell: Shell) -> None:
    """To the byte; what is not made in blocks says so."""
    words = ["simulate", "ocs", "-n", str(5 * BLOCK), "--noise", "1%", "--seed", "3"]
    assert shell(*words, "-o", "one.h5") == 0
    assert shell(*words, "-o", "two.h5", "--workers", "2") == 0
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()
    assert shell(*words, "-o", "two.csv", "--workers", "2") == 2
    assert "--workers and --cluster share events of a prior, written to .h5" in shell.err


def _by_mail(function: Callable[[Any], Any], blocks: Iterable[Any]) -> Iterator[Any]:
    """Tasks and answers as another process has them, without the seconds that one needs to start."""
    for block in blocks:
        sent = pickle.loads(pickle.dumps((function, block)))  # noqa: S301 (our own)
        yield pickle.loads(pickle.dumps(answered(*sent, program()))).result  # noqa: S301


def test_samples_are_the_same(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, with the verdict on all of them, which draws too, their modes and refined ones."""
    monkeypatch.setattr(sampling, "ROWS", 50)
    monkeypatch.setattr(inputs, "SAMPLES_AT_ONCE", 100)
    assert shell("simulate", "ocs", "-n", "23", "--noise", "1%", "--seed", "3", "-o", "e.h5") == 0
    words = ["sample", "--momenta", "e.h5", "-n", "10", "--weigh", "--seed", "1", "-o"]
    assert shell(*words, "one.h5") == 0
    assert shell("modes", "one.h5", "-o", "one.csv") == 0
    assert shell("refine", "one.h5", "-o", "one.refined.h5") == 0
    monkeypatch.setattr(Sharing, "each", lambda *_: _by_mail)
    assert shell(*words, "two.h5") == 0
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()
    assert shell("modes", "two.h5", "-o", "two.csv") == 0
    assert Path("one.csv").read_bytes() == Path("two.csv").read_bytes()
    assert shell("refine", "two.h5", "-o", "two.refined.h5") == 0
    assert Path("one.refined.h5").read_bytes() == Path("two.refined.h5").read_bytes()


def test_judgements_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is said but the rate of sampling."""
    monkeypatch.setattr(sampling, "ROWS", 500)
    model, events = flowcei.load(), flowcei.simulate("ocs", 60, noise="1%", seed=3)
    one, two = (flowcei.calibrate(model, events, n=20, weigh=True, each=each) for each in (map, _by_mail))
    assert one.to_dict() == two.to_dict()
    tables = [flowcei.compare({"a": model}, events, n=20, each=each).table for each in (map, _by_mail)]
    one, two = (table.drop(columns=[c for c in table if c.startswith("sampling_rate")]) for table in tables)
    assert one.equals(two)


def test_laws_are_the_same() -> None:
    """Every law, and those of events drawn with replacement, to the last bit."""
    rng, truth = np.random.default_rng(1), Linear()
    drawn = truth.samples(truth.measured(200, rng), 60, rng)
    for words in ({}, {"coordinates": ["c-s"], "law": "free"}):
        one, two = (
            flowcei.population(drawn, **words, bootstrap=4, check=False, each=each)  # type: ignore[arg-type]
            for each in (map, _by_mail)
        )
        assert one.to_dict() == two.to_dict()
        tables = one.to_dataframe(), two.to_dataframe()
        assert tables[0].equals(tables[1])
        assert tables[0].filter(like="p05").notna().any(axis=None)  # of the draws


def test_a_cluster_that_cannot_be_reached(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; without Dask it says what to install."""
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    assert shell("simulate", "ocs", "-o", "a.h5", "--cluster", "tcp://127.0.0.1:9") == 2
    assert "no scheduler of Dask answers at tcp://127.0.0.1:9" in shell.err or "flowcei[cluster]" in shell.err
    assert not list(Path().iterdir())


def test_a_cluster_makes_the_same(tmp_path: Path) -> None:
    """A scheduler and a worker of Dask in this process."""
    distributed = pytest.importorskip("distributed")
    simulator = make_simulator("ocs", seed=5)
    simulate_to_file(simulator, 3 * BLOCK, tmp_path / "one.h5")
    how = {"processes": False, "dashboard_address": None, "n_workers": 1, "threads_per_worker": 1}
    with distributed.LocalCluster(**how) as local, each_of(1, local.scheduler_address) as each:
        simulate_to_file(simulator, 3 * BLOCK, tmp_path / "two.h5", each=each)
        with pytest.raises(ZeroDivisionError), pytest.warns(UserWarning, match="number 0"):
            list(each(tasks.complain, [0]))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
