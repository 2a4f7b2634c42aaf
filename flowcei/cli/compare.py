"""`flowcei compare`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.runs import MODEL_NAME, load_named, show_left_out, unseen_events
from flowcei.cli.streams import note, show, show_json, text_table, write_results
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

    from flowcei.evaluation.comparison import Comparison
    from flowcei.models.interface import Latent

_BLOCKS = ("errors", "posterior", "run")
_NOTHING = "-"


@click.command(short_help="Score models beside null models on known positions.")
@click.argument("models", type=MODEL_NAME, nargs=-1, required=True, metavar="MODEL...")
@options.judged_data_option
@options.samples_option
@options.noise_option
@options.latent_option
@options.folder_option("comparison")
@options.judging_seed_option
@options.json_option("Print everything as JSON, and write comparison.json.")
@options.keep_flagged_option
@options.drift_option
@options.device_option
@options.overwrite_option
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
    options.check_folder(output, overwrite=overwrite)
    from flowcei.evaluation.comparison import FLOOR
    from flowcei.report.comparison import comparison_figure

    loaded = dict(load_named(name, device) for name in models)
    if len(loaded) < len(models):
        raise UsageError(f"models share a name: {', '.join(models)}; name each once")
    events, left_out = unseen_events(loaded, data, noise, drift, keep_flagged=keep_flagged)
    result = flowcei.compare(
        loaded, events, n=count, noise=noise, latent=latent, seed=seed, keep_flagged=True
    )
    folder = options.made_folder(output, overwrite=overwrite)
    results = {"comparison.csv": result.table, "comparison.png": comparison_figure(result)}
    write_results(results, folder, overwrite=overwrite)
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
    """Title and text of each block of the table: a column a model, rows without numbers left out."""
    import pandas as pd

    table = result.table
    for block in _BLOCKS:
        rows = {
            score.name + (f" ({score.unit})" if score.unit and score.unit != "bohr" else ""): [
                _with_error(row, score.name) for _, row in table.iterrows()
            ]
            for score in result.scores
            if score.block == block and not table[score.name].isna().all()
        }
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
