"""Run folders and the models that commands work on.

While a training goes on its folder holds `config.toml` and, from the first epoch on,
`checkpoint.safetensors` and `metrics.csv`. `model.safetensors` comes last, and makes it a finished run.
A training that is to replace a finished run lives in `unfinished/` inside of it until then, so
that the old model can be used, and is not lost, while there is no new one.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowcei
from flowcei.cli.options import Checked
from flowcei.cli.streams import note, warn
from flowcei.errors import DataError, UsageError
from flowcei.storage.creation import atomic_text, check_output, remove_stale
from flowcei.storage.files import check_held, check_readable

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.training.schedule import EpochRecord

BUNDLED = "bundled"  # the OCS model that comes with flowcei
RUNS = Path("runs")
MODEL = "model.safetensors"
LOG = "train.log"
_CONFIG = "config.toml"
_CHECKPOINT = "checkpoint.safetensors"
_METRICS = "metrics.csv"
_ABSURD = 1e6  # epochs, or a loss
_CURVES = ["epoch", "train_loss", "validation_loss"]  # columns that are drawn
_PICTURE = "loss.png"
_UNFINISHED = "unfinished"


@dataclass(frozen=True)
class RunFolder:
    """A training's folder, by the name of the run."""

    folder: Path
    work: Path  # where the training is kept until its end: `folder`, or `unfinished/` in it
    made: tuple[Path, ...] = ()  # folders that were made for it, the outermost first

    @property
    def checkpoint(self) -> Path:
        """Where the training is kept after every epoch."""
        return self.work / _CHECKPOINT

    def read_config(self) -> dict[str, Any]:
        """The options that the training was begun with."""
        path = self.work / _CONFIG
        try:
            return dict(tomllib.loads(path.read_text("utf-8"))["train"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = "is not the configuration of a training; begin it anew with --overwrite"
            raise DataError(message, path=path) from error

    def write_metrics(self, records: Sequence[EpochRecord]) -> pd.DataFrame:
        """Write the epochs so far, and return them."""
        import pandas as pd

        table = pd.DataFrame([asdict(record) for record in records])
        with atomic_text(self.work / _METRICS) as file:
            table.to_csv(file, index=False)
        return table

    def finish(self, model: flowcei.Reconstructor, records: Sequence[EpochRecord]) -> None:
        """Write the model, and take the place of the run that is replaced.

        Killed anywhere in between, the training can be resumed and comes here again.
        """
        from flowcei.plot.style import save
        from flowcei.report.figures import training_figure

        model.training.name = self.folder.name
        figure = training_figure(self.write_metrics(records), model.sampler.options.loss)
        save(figure, self.work / _PICTURE, overwrite=True)
        model.save(self.work / MODEL, overwrite=True)
        if self.work != self.folder:
            for name in (MODEL, _METRICS, _PICTURE, _CONFIG):  # without the last it is unfinished no more
                (self.work / name).replace(self.folder / name)
            shutil.rmtree(self.work, ignore_errors=True)
        # The schedule has come to its end: nobody can go on from here, and momenta of all weights
        # and the weights of the best epoch make a checkpoint several times as large as the model.
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        self.clean()

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for path in {self.folder, self.work}:
            if path.is_dir():  # the work of a run that has taken its place is gone
                remove_stale(path)

    def discard(self) -> None:
        """Remove the folder, and those made for it, where nothing was learned."""
        if self.made:
            shutil.rmtree(self.work, ignore_errors=True)
        for parent in reversed(self.made[:-1]):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def unfinished_work(folder: Path) -> Path | None:
    """Where the unfinished training of a folder is kept, if there is one to resume."""
    if (folder / _UNFINISHED / _CONFIG).is_file():
        return folder / _UNFINISHED
    return folder if (folder / _CONFIG).is_file() and not (folder / MODEL).is_file() else None


def check_run_folder(output: Path | None, name: str, *, overwrite: bool) -> Path:
    """The folder for a new run, `output` or the next free `runs/NAME-k`, before any work is done."""
    if output is None:
        return next(path for k in count(1) if not (path := RUNS / f"{name}-{k}").exists())
    unfinished = unfinished_work(output)
    if unfinished and not overwrite:
        raise UsageError(
            f"{output} holds an unfinished training: --resume {output} goes on, --overwrite begins anew"
        )
    replaced = overwrite and (unfinished or (output / MODEL).is_file())
    empty = output.is_dir() and all(path.name.startswith(".") for path in output.iterdir())
    if output.exists() and not (empty or replaced):
        why = " (it holds no model, so --overwrite will not replace it)" if overwrite else ""
        raise UsageError(f"{output} exists{why}; use --overwrite to replace a run, or another -o")
    return output


def begin_run(folder: Path, config: dict[str, Any]) -> RunFolder:
    """Make the folder of a run, with its configuration in it; a finished run there stays until `finish`."""
    _check_no_links(folder)
    work = folder / _UNFINISHED if (folder / MODEL).is_file() else folder
    run = RunFolder(folder, work, tuple(p for p in (*reversed(work.parents), work) if not p.exists()))
    try:
        work.mkdir(parents=True, exist_ok=True)
        for name in (_CHECKPOINT, _METRICS, _PICTURE):  # of the old configuration, which goes last
            (work / name).unlink(missing_ok=True)
        with atomic_text(work / _CONFIG, durable=True) as file:
            # JSON's text and numbers are TOML's too.
            lines = [f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in config.items() if v != ""]
            file.write("[train]\n" + "".join(lines))
        run.clean()
    except BaseException as error:
        run.discard()
        if isinstance(error, OSError):
            message = f"cannot make folder {work} ({error.strerror}); name another place with -o"
            raise UsageError(message) from error
        raise
    return run


def to_resume(name: str) -> RunFolder:
    """The unfinished run meant: a folder, a name in runs/, or the newest there for ""."""
    folders = [Path(name), RUNS / name] if name else list(RUNS.glob("[!.]*"))
    runs = [RunFolder(folder, work) for folder in folders if (work := unfinished_work(folder)) is not None]
    if not runs and not name:
        raise UsageError(f"there is no unfinished training in {RUNS}")
    if not runs:
        for folder in folders:
            if (folder / MODEL).is_file():
                raise UsageError(f"the training in {folder} is complete")
        raise UsageError(f"no unfinished training {name!r}: give a run folder, or a name in {RUNS}")
    run = runs[0] if name else max(runs, key=lambda run: run.work.stat().st_mtime)
    _check_no_links(run.folder)
    return run


def _check_no_links(folder: Path) -> None:
    """Refuse a run folder, perhaps from somebody else, with a link in it: now, not after hours of work."""
    work = folder / _UNFINISHED
    if work.is_symlink():
        raise UsageError(f"{work} is a link: a run folder holds only what is its own; remove it")
    for directory in (folder, work):
        for name in (LOG, MODEL, _CONFIG, _CHECKPOINT, _METRICS, _PICTURE) if directory.is_dir() else ():
            check_output(directory / name, overwrite=True)


def find_model(name: str | None) -> Path | None:
    """Model meant: a name, or the `usual_model`; None for the bundled one."""
    if name == BUNDLED:
        return None
    if name is None:
        return usual_model()[0]
    for path in (Path(name), RUNS / name):
        if path.is_file():
            return path
        if (path / MODEL).is_file():
            return path / MODEL
        if unfinished_work(path):
            raise UsageError(
                f"the training in {path} is not finished: flowcei train --resume {path} goes on with it"
            )
    raise UsageError(f"no model {name!r}: give a .safetensors file, a run folder, or {BUNDLED!r}")


def usual_model() -> tuple[Path | None, str]:
    """The newest model in runs/, or of its ions the newest that is not poor; what is passed over, in words.

    None for the bundled one. Where nothing else is of these ions the poor one is meant.
    """
    from flowcei.storage.modelfile import bundled_model, read_model

    paths = sorted(RUNS.glob(f"*/{MODEL}"), key=lambda path: path.stat().st_mtime, reverse=True)
    passed: list[tuple[str, str]] = []
    ions: flowcei.Molecule | None = None
    with bundled_model() as bundled:
        for path in [*paths, bundled]:
            card, _ = read_model(path)
            molecule, judgement = flowcei.Molecule.from_dict(card.molecule), card.training.judgement
            ions = ions or molecule
            if not molecule.same_ions(ions):
                continue
            if judgement.get("word") == "poor":
                passed.append((path.parent.name, str(judgement.get("summary"))))
                continue
            chosen = None if path == bundled else path
            if not passed:
                return chosen, ""
            (name, verdict), more = passed[0], f" (and {len(passed) - 1} more)" if passed[1:] else ""
            return chosen, (
                f"the newer {name}{more} is passed over, {verdict}; --model {name} takes it all the same"
            )
    return paths[0], ""


MODEL_NAME = Checked(find_model, lambda _: [BUNDLED, *(path.parent.name for path in RUNS.glob(f"*/{MODEL}"))])


def load_named(name: str | None, device: str, *, say: bool = True) -> tuple[str, flowcei.Reconstructor]:
    """Model meant, and the name it goes by in tables; says what is passed over where none is named."""
    path, passed = usual_model() if name is None else (find_model(name), "")
    if passed and say:
        warn(passed)
    if path is None:
        return BUNDLED, flowcei.load(device=device)
    short = path.parent.name if path.name == MODEL else path.stem
    return short or path.stem, flowcei.load(path, device=device)


def read_metrics(name: str | None) -> pd.DataFrame | None:
    """The epochs of the training of a model, where it is in a run folder that tells; else None."""
    import pandas as pd

    model = find_model(name)
    path = None if model is None or model.name != MODEL else model.with_name(_METRICS)
    if path is None or not path.is_file():
        return None
    try:
        check_readable(path)
        check_held(path, path.stat().st_size // 8, "the table")
        table = pd.read_csv(path, usecols=_CURVES, dtype=float)
        if not len(table) or (table.abs() > _ABSURD).any(axis=None):
            raise DataError("holds no losses", path=path)
    except (ValueError, OSError) as error:
        note(f"losses of the training are not drawn: {path}: {error}")
        return None
    return table
