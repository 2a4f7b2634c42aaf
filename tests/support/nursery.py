"""Kills trainings: forks them from one warm process and ends them with SIGKILL, or in other ways.

Run as a script, in an empty folder, with a number of kills at random moments. A fork costs
milliseconds where a fresh process takes seconds for its imports, and what is killed is the same:
a process that runs `flowcei train`. Prints, as JSON, how many were killed in which state.

Between two file operations a folder does not change: a process that is killed before one of them stands for
all that die since the one before.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from flowcei.cli.main import main
from flowcei.cli.runs import RunFolder, to_resume, unfinished_work
from flowcei.events.simulation import simulate
from flowcei.reconstruction.loading import load
from flowcei.storage.modelfile import read_model
from flowcei.training.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flowcei.training.schedule import EpochRecord

TRAINING = [
    "--arch", "ae-cvae", "--hidden", "8", "--latent", "2", "--depth", "1", "--seed", "3",
    "--epochs", "6", "--events", "400", "--batch", "20",
]  # fmt: skip
WARM = ("cli.train", "reconstruction.fitting", "models.variational", "evaluation.judgement", "report.figures")
RUN, REFERENCE = Path("run"), Path("reference")
# Event, file, and before which of these in one life (temporary names begin with a dot; the first model is
# written to see that it can be).
BEGINNING = ("os.mkdir run 1", "open .config.toml 1", "os.rename .config.toml 1", "open train.log 1")
REPLACING = ("os.mkdir run/unfinished 1", "os.rename .config.toml 1", "open train.log 2")
EPOCHS = (
    "open .checkpoint 2", "os.rename .checkpoint 1", "open .metrics.csv 1", "os.rename .metrics.csv 1",
    "os.rename .checkpoint 2", "os.rename .metrics.csv 2",
)  # fmt: skip
END = ("os.rename .loss.png 1", "os.rename .model.safetensors 2", "os.remove run/checkpoint 1")
END_OF_REPLACING = (
    "os.rename .model.safetensors 2", "os.rename run/unfinished/model 1", "os.rename run/unfinished/config 1",
    "os.remove checkpoint 1",
)  # fmt: skip
LEFT = {"config.toml", "train.log", "metrics.csv", "model.safetensors", "loss.png", "checkpoint.safetensors"}


def born(*words: str, before: Callable[[], None] = lambda: None) -> int:
    """Run `flowcei train` in a forked process and return its id."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.dup2(os.open("stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        torch.set_num_threads(1)
        sys.argv = ["flowcei", "-q", "train", *words]
        before()
        main()
        code = 0
    except SystemExit as leave:
        code = int(leave.code or 0)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def words_for(folder: Path) -> list[str]:
    """Return what a person would type now: begin, go on, or replace a finished run by a new one."""
    if unfinished_work(folder):
        return ["--resume", str(folder)]
    replace = ["--overwrite"] if folder.exists() else []
    return [*TRAINING, "-o", str(folder), *replace]


def killer(event: str, name: str, times: int) -> Callable[[], None]:
    """Return what makes a process kill itself just before it does something to a file so many times."""
    here, seen = str(Path.cwd()), 0

    def hook(happens: str, args: tuple) -> None:
        nonlocal seen
        if happens != event or not isinstance(args[0], str | os.PathLike):
            return
        path = os.path.abspath(args[0])  # noqa: PTH100 (Path would be audited itself)
        if path.startswith(f"{here}/{name}"):
            seen += 1
            if seen == times:
                os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


def state_of(folder: Path) -> str:
    """Check that a folder can be read, whatever happened to it, and say what it holds."""
    if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
        return "nothing"
    had_model = (folder / "model.safetensors").exists()
    if had_model:
        load(folder / "model.safetensors")
    if not unfinished_work(folder):
        if not had_model:
            sys.exit(f"{folder} is neither finished nor unfinished: {sorted(folder.iterdir())}")
        return "finished"
    run = to_resume(str(folder))
    if run.read_config()["epochs"] != 6:
        sys.exit("another configuration")
    strangers = [p.name for p in run.work.iterdir() if not p.name.startswith(".") and p.name not in LEFT]
    if set(strangers) - {"unfinished"}:
        sys.exit(f"strange files {strangers}")
    if not run.checkpoint.exists():
        return "replacing, nothing kept" if had_model else "nothing kept"
    kept = read_checkpoint(run.checkpoint)
    metrics = run.work / "metrics.csv"
    rows = len(pd.read_csv(metrics)) if metrics.exists() else 0
    moved = had_model and not metrics.exists()  # up, already
    if rows > len(kept.records) and not moved:  # fewer, where others were killed before theirs
        sys.exit(f"{rows} rows of metrics for {len(kept.records)} epochs")
    return f"{'replacing, ' if had_model else ''}{len(kept.records)} epochs kept"


def refuse_other(folder: Path, *, killed: bool = False) -> None:
    """Compare a finished run with the reference: weights and metrics, to the bit; and what else is there."""
    pairs = [read_model(place / "model.safetensors") for place in (folder, REFERENCE)]
    (card, tensors), (other, expected) = pairs
    timeless = [
        {k: v for k, v in c.training.to_dict().items() if k not in ("name", "rows_per_second")}
        for c in (card, other)
    ]
    same = tensors.keys() == expected.keys() and timeless[0] == timeless[1]
    if not same or not all(np.array_equal(tensors[k], expected[k]) for k in expected):
        sys.exit("the model is not that of an uninterrupted training")
    tables = [pd.read_csv(place / "metrics.csv") for place in (folder, REFERENCE)]
    one, two = (table.drop(columns=["seconds", "rows_per_second"]) for table in tables)
    if not one.equals(two):
        sys.exit("the metrics are not those of an uninterrupted training")
    left = {p.name for p in folder.iterdir()}
    if not killed and left != LEFT - {"checkpoint.safetensors"}:
        sys.exit(f"files left over: {left}")


def at_random_moments(kills: int, life: float) -> Counter:
    """Kill trainings at moments spread over the whole life of one."""
    moments, seen, lives = np.random.default_rng(5), Counter[str](), 0
    while sum(seen.values()) < kills:
        lives += 1
        if lives > 20 * kills:
            sys.exit("almost nothing could be killed")
        child = born(*words_for(RUN))
        time.sleep(moments.uniform(0.0, 0.5 * life))  # the other half is the verdict
        os.kill(child, signal.SIGKILL)  # a dead child is there until it is waited for
        code = ended(child)
        if code not in (0, -signal.SIGKILL):
            sys.exit(f"ended with {code}: {Path('stderr.txt').read_text()}")
        state = state_of(RUN)
        if code:
            seen[state] += 1
        if state == "finished":
            refuse_other(RUN, killed=code != 0)
            if lives % 2:
                shutil.rmtree(RUN)
    return seen


def before_operations(moments: Iterable[str], *, replace: bool) -> list[str]:
    """Kill one training again and again, each life a little later than the one before; then let it end."""
    shutil.rmtree(RUN, ignore_errors=True)
    if replace:
        shutil.copytree(REFERENCE, RUN)
    states = []
    for moment in moments:
        event, name, times = moment.split()
        code = ended(born(*words_for(RUN), before=killer(event, name, int(times))))
        if code != -signal.SIGKILL:
            sys.exit(f"ended with {code}, not before {moment}: {Path('stderr.txt').read_text()}")
        states.append(state_of(RUN))
        if replace and not (RUN / "model.safetensors").exists():
            sys.exit(f"the old model is lost before {moment}")
    if states[-1] != "finished" and ended(born(*words_for(RUN))):
        sys.exit(f"cannot go on ({states}): {Path('stderr.txt').read_text()}")
    if state_of(RUN) != "finished":
        sys.exit(f"not finished ({states})")
    refuse_other(RUN, killed=states[-1] == "finished")
    return states


def terminated() -> dict[str, object]:
    """End a training with SIGTERM, as a batch system does, after two epochs; let it go on."""
    shutil.rmtree(RUN, ignore_errors=True)
    write = RunFolder.write_metrics

    def stop(self: RunFolder, records: Sequence[EpochRecord]) -> pd.DataFrame:
        table = write(self, records)
        if len(records) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return table

    code, said = apart("terminated", lambda: setattr(RunFolder, "write_metrics", stop))
    if ended(born(*words_for(RUN))):
        sys.exit(f"cannot go on: {Path('stderr.txt').read_text()}")
    refuse_other(RUN)
    shutil.rmtree(RUN)
    return {"code": code, "said": said}


def limited() -> dict[str, object]:
    """Let the system refuse the first checkpoint, which is larger than a model."""
    shutil.rmtree(RUN, ignore_errors=True)
    before = set(Path.cwd().iterdir())
    most = int(1.1 * (REFERENCE / "model.safetensors").stat().st_size)
    code, said = apart("limited", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    left = set(Path.cwd().iterdir()) - before
    return {"code": code, "said": said, "left": [p.name for p in left if p.name != "limited"]}


def apart(name: str, before: Callable[[], None]) -> tuple[int, str]:
    """Begin a training whose words go to a file of its own; return its code and them."""

    def both() -> None:
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 2)
        before()

    code = ended(born(*TRAINING, "-o", str(RUN), before=both))
    return code, Path(name).read_text()


if __name__ == "__main__":
    for accuracy in (1e-4, 1e-6):  # loads compiled code
        simulate("ocs", 10, seed=1, accuracy=accuracy)
    for name in WARM:  # once here, not in every life
        importlib.import_module(f"flowcei.{name}")
    # The file of the losses is written as ever, but drawing it would be a fifth of a life.
    Figure.savefig = lambda _, file, **__: file.write(b"picture")  # type: ignore[method-assign]
    for _ in range(2):  # the first compiles what no cache has: lives would seem ten times as long as they are
        shutil.rmtree(REFERENCE, ignore_errors=True)
        began = time.perf_counter()
        if ended(born(*TRAINING, "-o", str(REFERENCE))):
            sys.exit(Path("stderr.txt").read_text())
        life = time.perf_counter() - began
    found = {"life": life, "states": at_random_moments(int(sys.argv[1]), life)}
    found |= {"terminated": terminated(), "limited": limited()}
    found["operations"] = before_operations((*BEGINNING, *EPOCHS, *END), replace=False)
    found["replacing"] = before_operations((*REPLACING, *EPOCHS[1:3], *END_OF_REPLACING), replace=True)
    found["s"] = time.perf_counter() - began
    sys.stdout.write(json.dumps(found))
