"""Run folders, models and events that commands work on, and what is said of them.

While a training goes on its folder holds `config.toml` and, from the first epoch on,
`checkpoint.safetensors` and `metrics.csv`. `model.safetensors` comes last, and makes it a finished run.
A training that is to replace a finished run lives in `unfinished/` inside of it until then, so
that the old model can be used, and is not lost, while there is no new one.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
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
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from flowcei.events.foreign.interpretation import Reading
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
        figure = training_figure(self.write_metrics(records), model.network.options.loss)
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


def note_what_is_assumed(
    model: flowcei.Reconstructor,
    events: flowcei.Events,
    noise: str | None,
    experiment: flowcei.Experiment | None = None,
) -> None:
    """Say which noise is assumed where the user might think otherwise, and which events are odd."""
    from flowcei.reconstruction.limits import build_up_time, unlike_training

    least = model.noise.low
    if noise is None and events.sigma is None:
        note(f"noise assumed: {model.default_noise} (say --noise to change)")
    elif (
        model.sigma(events, noise, experiment) > model.stated_sigma(events, noise, experiment) * (1.0 + 1e-6)
    ).any():
        unit = f"{least:.2%}" if model.noise.relative else f"{least:g} hbar/bohr"
        note(f"noise below {unit}, the least the model knows, is taken as {unit}: its posteriors are wider")
    time, longest = build_up_time(experiment, model.molecule), model.frame.build_up
    if longest and time > longest:
        beyond = f"a build-up of {time:g} fs is beyond the {longest:g} fs that the model was trained for"
        warn(f"{beyond}: it is told {longest:g} fs, and weights or chains have to make up for it")
    if experiment is None or not experiment.assignments:  # momenta of the file may be those of other ions
        warn_of_flags(unlike_training(model, events, noise, experiment), events.event_id)


def warn_of_flags(flags: Mapping[str, NDArray[np.bool_]], event_ids: NDArray[np.int64]) -> None:
    """Warn of events that are flagged, a line a flag."""
    from flowcei.posterior.flags import FLAGS

    for name, rows in flags.items():
        if rows.any():
            flag = name.replace("_", "-")
            first = event_ids[int(rows.argmax())]
            warn(f"{int(rows.sum())} of {len(rows)} events (first: {first}): {flag}: {FLAGS[flag]}")


def read_unflagged(
    path: Path, event: int | None = None, *, keep_flagged: bool
) -> tuple[flowcei.PosteriorSamples, int | None]:
    """Samples of the events of a file whose answer may be trusted, and which of them has a number.

    Says how many are not, and why; DataError where none is left, UsageError where `event` is not there.
    """
    from flowcei.posterior.flags import counted, standing

    samples = flowcei.read_samples(path)
    warn_of_run(samples, path)
    try:
        chosen = samples.unflagged(keep_flagged=keep_flagged)
    except DataError as error:
        advice = "" if keep_flagged else "; --keep-flagged looks at them all the same"
        raise DataError(f"{error}{advice}", path=path) from error
    if samples.flags is not None and samples.flagged.any():
        lost = len(samples) - len(chosen)
        advice = f"{lost or 'none'} left out" if keep_flagged else "left out; --keep-flagged keeps them"
        warn(f"{counted(samples.flags)}: {advice}")
    for line in standing(chosen.flag_bits):
        note(line)
    return chosen, None if event is None else _row_of(event, samples, chosen, path)


def warn_of_run(samples: flowcei.PosteriorSamples, path: Path) -> None:
    """Say what `sample` found wrong with the run that samples of a file are of."""
    if samples.verdict:
        warn(f"{path}: the run, when it was sampled: {samples.verdict}", "run")


def warn_of_runs(paths: Sequence[Path]) -> None:
    """The same of files that are not read at once."""
    from flowcei.posterior.files import stream_samples

    for path in paths:
        warn_of_run(next(stream_samples(path, 1)), path)


def warn_of_motion(prior: Mapping[str, Any] | None, missing: int) -> None:
    """Say where the likelihood of atoms that move at the start is known to be off (docs/decisions/0030)."""
    if missing > 1 and (prior or {}).get("motion") is True:
        what = "of events that lack several ions the motion at the start is taken for normal noise of momenta"
        warn(f"{what}: lengths that are left open may be shifted, and up to 1.7 times too uncertain")


def warn_of_open_directions(samples: flowcei.PosteriorSamples) -> None:
    """Say of how many events many geometries give the momenta: they lack several ions, or a known time."""
    if (law := samples.build_up_prior) is not None:
        warn(f"the build-up time is {law}, and each time has its own geometry: this is that of {law.mean}")
    several = 0 if samples.lost is None else int((samples.lost.sum(axis=1) > 1).sum())
    if several:
        warn(f"{several} of {len(samples)} events lack several ions: many geometries give their momenta")


def _row_of(
    event: int, samples: flowcei.PosteriorSamples, chosen: flowcei.PosteriorSamples, path: Path
) -> int:
    rows = (chosen.event_id == event).nonzero()[0]
    if len(rows):
        return int(rows[0])
    if event in samples.event_id:
        flags = samples.flag_names[int((samples.event_id == event).argmax())]
        advice = "it has no samples" if "no-geometry" in flags else "--keep-flagged keeps it"
        raise UsageError(f"event {event} of {path} is flagged ({', '.join(flags)}); {advice}")
    raise UsageError(
        f"{path} has no event {event}; it has {samples.event_id.min()} to {samples.event_id.max()}"
    )


def read_noted(
    path: Path, molecule: flowcei.Molecule | None = None, reading: Reading | None = None
) -> flowcei.Events:
    """Read all events of a file; say what was concluded of its columns, and which events are left out."""
    from flowcei.events.source import open_events

    source = open_events(path, molecule, reading)
    events = source.read()
    source.log_reading()
    if source.tally.rejected:
        source.keep_tally()
        warn(f"{path.name}: {source.tally}", "left-out")
    return events


def is_samples(file: Path) -> bool:
    """Whether a file holds samples, in HDF5."""
    from flowcei.events.hdf import is_hdf5
    from flowcei.storage.hdf import opened

    if not is_hdf5(file):
        return False
    try:
        with opened(file) as data:
            return bool(data.attrs.get("content") == "flowcei samples")
    except DataError:
        return False  # damaged: the reader says so
