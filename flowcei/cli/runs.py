"""Run folders: where a training is kept, and how a model is found again."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowcei.cli.options import note
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.reconstructor import Reconstructor
    from flowcei.training import EpochRecord

__all__ = [
    "BUNDLED",
    "check_run_folder",
    "find_model",
    "load_named",
    "note_flags",
    "note_what_is_assumed",
    "write_run",
]

BUNDLED = "bundled"
"""The word for the OCS model that comes with flowcei."""

_RUNS = Path("runs")
_MODEL = "model.safetensors"


def check_run_folder(output: Path | None, name: str, *, overwrite: bool) -> Path:
    """Return the folder for a new run, before any work is done.

    Args:
        output: What the user asked for, or None for the next free `runs/NAME-k`.
        name: NAME.
        overwrite: Whether an existing run may be replaced.

    Raises:
        UsageError: For a folder that exists.
    """
    if output is None:
        k = 1
        while (_RUNS / f"{name}-{k}").exists():
            k += 1
        return _RUNS / f"{name}-{k}"
    if output.exists() and not (overwrite and (output / _MODEL).is_file()):
        known = " (it holds no model, so --overwrite will not replace it)" if overwrite else ""
        msg = f"{output} exists{known}; use --overwrite to replace a run, or another -o"
        raise UsageError(msg)
    return output


def write_run(
    model: Reconstructor,
    records: list[EpochRecord],
    config: dict[str, Any],
    folder: Path,
    *,
    overwrite: bool,
) -> None:
    """Write model, metrics and configuration; the folder appears when all of it is there."""
    import pandas as pd

    from flowcei.report.figures import training_figure
    from flowcei.report.style import save

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        temporary.chmod(0o755)
        model.card["name"] = folder.name
        model.save(temporary / _MODEL)
        metrics = pd.DataFrame([asdict(r) for r in records])
        metrics.to_csv(temporary / "metrics.csv", index=False)
        save(training_figure(metrics), temporary / "loss.png")
        lines = [f"{key} = {_toml(value)}" for key, value in config.items() if value != ""]
        (temporary / "config.toml").write_text("[train]\n" + "\n".join(lines) + "\n")
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _toml(value: str | float) -> str:
    """Return a TOML literal: JSON's text and numbers are TOML's too."""
    return json.dumps(value)


def find_model(name: str | None) -> Path | None:
    """Return the model meant: a name, or the newest in runs/; None for the bundled one.

    Raises:
        UsageError: For a name that is no file or run.
    """
    if name == BUNDLED:
        return None
    if name is None:
        models = sorted(_RUNS.glob(f"*/{_MODEL}"), key=lambda p: p.stat().st_mtime)
        return models[-1] if models else None
    for place in (Path(name), _RUNS / name):
        if place.is_file():
            return place
        if (place / _MODEL).is_file():
            return place / _MODEL
    msg = f"no model {name!r}: give a .safetensors file, a run folder, or {BUNDLED!r}"
    raise UsageError(msg)


def load_named(name: str | None, device: str) -> tuple[str, Reconstructor]:
    """Load the model meant and return the name it goes by in tables."""
    from flowcei.loading import load

    place = find_model(name)
    if place is None:
        return BUNDLED, load(device=device)
    short = place.parent.name if place.name == _MODEL else place.stem
    return short or place.stem, load(place, device=device)


def note_what_is_assumed(model: Reconstructor, events: Events, noise: str | None) -> None:
    """Say which noise is assumed where the user might think otherwise, and which events are odd."""
    least = model.noise.low
    if noise is None and events.sigma is None:
        note(f"noise assumed: {model.default_noise} (say --noise to change)")
    elif (model.sigma(events, noise) > model.stated_sigma(events, noise) * (1.0 + 1e-6)).any():
        unit = f"{least:.2%}" if model.noise.relative else f"{least:g} hbar/bohr"
        note(f"noise below {unit}, the least the model knows, is taken as {unit}: its posteriors are wider")
    note_flags(model.unlike_training(events, noise), events.numbers)


def note_flags(found: Mapping[str, NDArray[np.bool_]], ids: NDArray[np.int64]) -> None:
    """Warn of events that are flagged, a line a flag."""
    from flowcei.posterior.flags import FLAGS

    for name, rows in found.items():
        if rows.any():
            flag = name.replace("_", "-")
            first = ids[int(rows.argmax())]
            note(f"warning: {int(rows.sum())} of {len(rows)} events (first: {first}): {flag}: {FLAGS[flag]}")
