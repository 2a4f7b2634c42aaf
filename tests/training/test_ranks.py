"""Several processes that train one model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from shell import Shell

import flowcei
from flowcei.errors import UsageError
from flowcei.models.registry import build_model
from flowcei.reconstruction.training_data import RecordedSource, fresh
from flowcei.training.checkpoint import Checkpoint, check_settings
from flowcei.training.devices import Ranks
from flowcei.training.schedule import Schedule
from flowcei.training.steps import Steps

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Threads(Ranks):
    """Ranks that are threads of this process."""

    table: list[torch.Tensor] = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

    def average(self, values: torch.Tensor) -> None:
        self.table.append(values.clone())
        self.barrier.wait()
        values[:] = sum(self.table) / len(self.table)
        self.barrier.wait()


@pytest.mark.parametrize("clip", [1e9, 1e-2])
def test_the_mean_gradient_of_ranks_is_that_of_their_rows_together(clip: float) -> None:
    """Two ranks with 32 rows each, one process with 64, and autograd alone: gradients and steps."""
    x, c = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(1))
    schedule, models = Schedule(clip=clip), []
    for _ in range(4):
        torch.manual_seed(2)
        models.append(build_model("cinn", 3, 3, {"couplings": 2, "hidden": 8}))
    plain = models.pop()
    optimiser = torch.optim.AdamW(plain.parameters(), lr=3e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    plain.loss(x, c).mean().backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), clip)
    optimiser.step()
    alone, table, barrier = Steps(models[0], schedule, CPU), list[torch.Tensor](), threading.Barrier(2)

    def work(rank: int) -> None:
        steps = Steps(models[1 + rank], schedule, CPU, _Threads(rank, 2, table, barrier))
        steps.differentiate(x[rank::2], c[rank::2], stop=rank == 1)
        stopped.append(steps.stopped)
        steps.move(3e-3, 0.9)

    stopped: list[bool] = []
    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    alone.differentiate(x, c, stop=False)
    alone.move(3e-3, 0.9)
    for thread in threads:
        thread.join()
    assert stopped == [True, True]
    for model in models:
        for own, expected in zip(model.parameters(), plain.parameters(), strict=True):
            if expected.grad is None:  # a permutation
                continue
            assert own.grad is not None
            torch.testing.assert_close(own.grad, expected.grad, rtol=1e-4, atol=1e-7)
            moved = expected.grad.abs() > 1e-4  # AdamW takes a step as long for any gradient
            torch.testing.assert_close(own[moved], expected[moved], rtol=1e-4, atol=1e-5)


def test_ranks_have_events_of_their_own() -> None:
    """Simulated ones of streams apart, and of a file every row at most once; as many each."""
    source, _, _ = fresh("ocs", None, "1%", 301, 1, None, "cinn")
    shares = [source.epoch(k, Ranks(rank, 2)) for k in (0, 1) for rank in (0, 1)]
    assert [len(events) for events in shares] == [150] * 4
    assert len(np.unique(np.concatenate([events.momenta[:, 0, 0] for events in shares]))) == 600
    recorded = RecordedSource(shares[0], shares[0], None, 1)
    rows = [recorded.epoch(0, Ranks(rank, 4)).momenta[:, 0, 0] for rank in range(4)]
    assert [len(r) for r in rows] == [37] * 4
    assert len(np.unique(np.concatenate(rows))) == 148
    assert np.isin(np.concatenate(rows), shares[0].momenta[:, 0, 0]).all()


def test_a_training_goes_on_with_as_many_ranks_only() -> None:
    """In one line, whichever way."""
    two, one = ({"seed": 1} | more for more in ({"ranks": 2}, {}))
    for was, now, said in ((two, one, "ranks is 1; the training was begun with 2"), (one, two, "ranks is 2")):
        with pytest.raises(UsageError, match=said):
            check_settings(Checkpoint(settings=was, machine={}, records=[]), now)


def test_two_processes_train_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first keeps the run and tells of it; the other says nothing. As `torchrun` starts them."""
    flowcei.write_events(flowcei.simulate("ocs", 200, noise="1%", seed=1), tmp_path / "events.h5")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = ["train", "--arch", "mlp", "--hidden", "8", "--data", str(tmp_path / "events.h5")]
    words += ["--epochs", "2", "--batch", "40", "-o", str(tmp_path / "run")]
    command = [sys.executable, "-m", "flowcei", *words]
    other = subprocess.Popen(
        command, env=os.environ | ranks | {"RANK": "1", "LOCAL_RANK": "1"}, stderr=subprocess.PIPE, text=True
    )
    for name, value in (ranks | {"RANK": "0", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    shell = Shell(monkeypatch, capsys)
    assert shell(*words) == 0, shell.err
    assert shell.err.count("epoch   2/2") == 1
    assert other.communicate(timeout=60)[1] == ""
    assert other.returncode == 0
    assert flowcei.load(tmp_path / "run" / "model.safetensors").training.epochs_run == 2
