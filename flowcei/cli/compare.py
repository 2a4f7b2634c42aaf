"""`flowcei compare`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from flowcei.cli.options import (
    InputFile,
    device_option,
    folder_option,
    fresh_folder,
    judging_seed_option,
    keep_flagged_option,
    latent_option,
    noise_option,
    note,
    overwrite_option,
    refuse_full_folder,
    samples_option,
    text_table,
)
from flowcei.cli.reading import drift_option
from flowcei.cli.streams import show

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

    from flowcei.evaluation.comparison import Comparison
    from flowcei.models.interface import Latent

_BLOCKS = ("errors", "posterior", "run")
_NOTHING = "-"


@click.command(short_help="Score models beside null models on known positions.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", required=True, type=InputFile(), help="Events with positions, .csv or .h5.")
@samples_option
@noise_option
@latent_option
@folder_option("comparison")
@judging_seed_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, and write comparison.json.")
@keep_flagged_option
@drift_option
@device_option
@overwrite_option
def compare(
    *,
    models: tuple[str, ...],
    data: Path,
    count: int,
    noise: str | None,
    latent: Latent,
    output: Path,
    seed: int,
    as_json: bool,
    keep_flagged: bool,
    drift: str,
    device: str,
    overwrite: bool,
) -> None:
    """Score each MODEL (a run, a .safetensors file, or "bundled") on the events of a file.

    Of a file that a model was trained on, only its test rows are used. Writes
    comparison.csv, with 95 % intervals, and comparison.png; prints the table.

    Example: flowcei compare runs/ocs-cinn-1 runs/ocs-cvae-1 --data test.h5
    """
    from flowcei.cli.runs import find_model, load_named, show_json, show_left_out, unseen_events

    for name in models:  # before torch, which takes seconds
        find_model(name)
    refuse_full_folder(output, overwrite=overwrite)
    from flowcei.errors import UsageError
    from flowcei.evaluation.comparison import FLOOR
    from flowcei.evaluation.comparison import compare as run
    from flowcei.report.comparison import comparison_figure
    from flowcei.report.style import save
    from flowcei.storage.cells import write_table
    from flowcei.storage.creation import atomic_text

    loaded = dict(load_named(name, device) for name in models)
    if len(loaded) < len(models):
        msg = f"models share a name: {', '.join(models)}; name each once"
        raise UsageError(msg)
    events, left_out = unseen_events(loaded, data, noise, drift, keep_flagged=keep_flagged)
    result = run(loaded, events, n=count, noise=noise, latent=latent, seed=seed, keep_flagged=True)
    folder = fresh_folder(output, overwrite=overwrite)
    with atomic_text(folder / "comparison.csv", overwrite=overwrite) as file:
        write_table(result.table, file, float_format="%.6g")
    save(comparison_figure(result), folder / "comparison.png", overwrite=overwrite)
    if as_json:
        about = {"data": str(data), "events": len(events), "samples": count, "seed": seed}
        about |= {"left_out": left_out, "noise": noise, "latent": latent, "interval": 0.95}
        show_json(about | result.to_dict(), folder / "comparison.json", overwrite=overwrite)
    else:
        show(f"{len(events)} events of {data}, {count} samples each, seed {seed}; lengths in bohr")
        show_left_out(left_out)
        show("±: half of the 95 % interval; all columns and their ends are in comparison.csv")
        for title, block in _blocks(result):
            show(f"\n{text_table(block.rename_axis(title))}")
        if FLOOR in result.table.index:
            show(
                "\nfloor: the least that a flat prior allows; a model's prior may know more. A few "
                "geometries that\nthe momenta hardly fix can carry its means: compare medians."
            )
    note(f"\ntable and picture in {folder}")


def _blocks(result: Comparison) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield title and text of each part of the table: a column a model, rows without numbers left out."""
    import pandas as pd

    table = result.table
    for block in _BLOCKS:
        rows = {}
        for score in result.scores:
            if score.block == block and not table[score.name].isna().all():
                unit = f" ({score.unit})" if score.unit and score.unit != "bohr" else ""
                rows[score.name + unit] = [_with_error(row, score.name) for _, row in table.iterrows()]
        text = pd.DataFrame.from_dict(rows, orient="index", columns=[*table.index])
        yield block, text.loc[:, (text != _NOTHING).any()]


def _with_error(row: pd.Series, name: str) -> str:
    value = float(row[name])
    if math.isnan(value):
        return _NOTHING
    if f"{name}_low" not in row:
        return f"{value:,.0f}"
    half = (float(row[f"{name}_high"]) - float(row[f"{name}_low"])) / 2.0
    return f"{value:.3g} ± {half:.1g}"
