"""`flowcei compare`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

import flowcei
from flowcei.cli.judging import Judging, judging_options
from flowcei.cli.options import length_option
from flowcei.cli.runs import MODEL_NAME
from flowcei.cli.streams import note, show, text_table
from flowcei.units import compact

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.cli.sharing import Sharing
    from flowcei.evaluation.comparison import Comparison

_FLOOR = "floor"  # its row, as `evaluation.comparison` names it
_VAGUE = 0.25  # relative error of the floor beyond which a file alone has it
_NOTHING = "-"
_SIGNS = {"angstrom": "\u00c5", "^2": "\u00b2"}  # a table of five columns fits 80 characters with these


@click.command()
@click.argument("models", type=MODEL_NAME, nargs=-1, required=True, metavar="MODEL...")
@judging_options("comparison", "Print everything as JSON, and write comparison.json.")
@length_option
def compare(*, models: tuple[str, ...], judging: Judging, sharing: Sharing, length_unit: str) -> None:
    """Score each MODEL (a run, a .safetensors file, or "bundled") on the events of a file.

    Of a file that a model was trained on, only its test rows are used. Writes
    comparison.csv, with 95 % intervals, and comparison.png; prints the table.

    Example: flowcei compare runs/ocs-cinn-1 runs/ocs-cvae-1 --data test.h5
    """
    each = sharing.each("flowcei.evaluation.scoring", "flowcei.reconstruction.sharing")
    loaded = judging.load(models)
    from flowcei.evaluation.comparison import experiment_of
    from flowcei.report.judging import comparison_figure

    judged = judging.events(loaded)
    result = flowcei.compare(loaded, judged[0], each=each, **judging.sampling)
    results = {"comparison.csv": result.table, "comparison.png": comparison_figure(result, length_unit)}
    judging.write(results, {"interval": 0.95} | result.to_dict(), judged)
    if not judging.as_json:
        show("0.123(4): half the 95 % interval is 0.004; comparison.csv has all, in bohr")
        for title, block in _blocks(result, length_unit):
            show(f"\n{text_table(block.rename_axis(title))}")
        if experiment_of(judged[0], judging.stated, judging.noise) is not None:
            show(
                "\nmodels are told one level of noise, the rms; floor and resimulation are of the experiment"
            )
        if _FLOOR in result.table.index:
            show(
                "\nfloor: the least that a flat prior allows; a model's prior may know more."
                "\nIts means that few geometries carry, which momenta hardly fix, are left out."
            )
    note(f"\ntable and picture in {judging.output}")


def _blocks(result: Comparison, length: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and text of each block of the table: a column a model, rows without numbers left out."""
    import pandas as pd

    table = result.table
    for block in ("errors", "posterior", "run"):
        rows = {}
        for score in result.scores:
            if score.block == block and not table[score.name].isna().all():
                unit, scale = score.shown_in(length)
                for word, sign in _SIGNS.items():
                    unit = unit.replace(word, sign)
                name = f"{score.name} ({unit})" if unit else score.name
                rows[name] = [_with_error(row, score.name, scale) for _, row in table.iterrows()]
        text = pd.DataFrame.from_dict(rows, orient="index", columns=[*table.index])
        yield block, text.loc[:, (text != _NOTHING).any()]


def _with_error(row: pd.Series, name: str, scale: float) -> str:
    value = float(row[name]) / scale
    if math.isnan(value):
        return _NOTHING
    if f"{name}_low" not in row:
        return f"{value:,.0f}"
    half = (float(row[f"{name}_high"]) - float(row[f"{name}_low"])) / 2.0 / scale
    if row.name == _FLOOR and half > _VAGUE * abs(value):  # carried by a few geometries: the file has it
        return _NOTHING
    return compact(value, half)
