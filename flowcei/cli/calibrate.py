"""`flowcei calibrate`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli.judging import Judging, judging_options
from flowcei.cli.options import flag, option
from flowcei.cli.progress import Progress
from flowcei.cli.runs import MODEL_NAME
from flowcei.cli.streams import note, show, warn

if TYPE_CHECKING:
    from flowcei.cli.sharing import Sharing
    from flowcei.evaluation.calibration import Calibration

_FAILED = 1
_PICTURES = ("sbc", "coverage", "joint")
_CANVAS = "matplotlib.backends.backend_agg"  # finds fonts


@click.command()
@click.argument("model", type=MODEL_NAME, metavar="MODEL")
@judging_options("calibration", "Print all as JSON, and write calibration.json.", count=200, least=10)
@flag("--weigh", "Judge the samples with their importance weights.")
@flag("--exact", "Judge samples of the exact posterior, as sample --exact draws them.")
@option(
    "--missing",
    "Take so many ions away from each event, at random; with --exact and a known source.",
    click.IntRange(min=0),
    default=0,
)
@flag("--strict", "End with exit code 1 where a check fails.")
def calibrate(
    *, model: str, judging: Judging, sharing: Sharing, weigh: bool, exact: bool, missing: int, strict: bool
) -> None:
    """Check the posterior of MODEL (a run, a .safetensors file, or "bundled") on events of a file.

    Too narrow, too wide, biased? The truth among posterior samples: ranks (SBC), coverage of
    central intervals and regions of highest density, TARP, and simulated momenta. Of a file
    that the model was trained on, only its test rows are used. A right posterior fails each
    kind of check in 1 of 100 data sets. Writes calibration.csv, coverage.csv, regions.csv and
    pictures. Of an experiment --weigh or --exact are judged.

    Example: flowcei calibrate bundled --data test.h5
    """
    each = sharing.each("flowcei.evaluation.calibration", "flowcei.report.judging", _CANVAS)
    ((name, loaded),) = (models := judging.load([model])).items()
    judged = events, _ = judging.events(models)
    _warn_of_other_prior(loaded, events)
    if "experiment" in events.origin and not (weigh or exact):
        warn(f"{judging.data} is of an experiment: --weigh or --exact judges answers that know of it")
    with Progress(len(events), "events") as progress:
        how: dict[str, Any] = {"weigh": weigh, "exact": exact, "missing": missing, "each": each}
        how["on_events"] = progress.update
        result = flowcei.calibrate(loaded, events, **how, **judging.sampling)
    results = {
        "calibration.csv": result.to_dataframe(),
        "coverage.csv": result.coverage_table(),
        "regions.csv": result.regions,
    }
    pictures = each(_picture, ((name, result) for name in _PICTURES))
    results |= {f"{name}.png": png for name, png in zip(_PICTURES, pictures, strict=True)}
    judging.write(
        results,
        {"model": name, "weighed": weigh, "exact": exact, "missing": missing} | result.to_dict(),
        judged,
    )
    if not judging.as_json:
        _show(result)
    note(f"\ntables and pictures in {judging.output}")
    if strict and not result.passed:
        sys.exit(_FAILED)


def _picture(task: tuple[str, Calibration]) -> bytes:
    """One of the figures of a calibration as PNG: with workers each draws one."""
    from flowcei.plot.style import png
    from flowcei.report import judging

    return png(getattr(judging, f"{task[0]}_figure")(task[1]))


def _warn_of_other_prior(model: flowcei.Reconstructor, events: flowcei.Events) -> None:
    """Say it where the events were drawn from another prior: then no posterior would pass."""
    trained, drawn = model.training.prior, events.origin.get("prior")
    if trained and drawn and json.dumps(trained, sort_keys=True) != json.dumps(drawn, sort_keys=True):
        warn(
            "the events were drawn from another prior than the model was trained with; "
            "a posterior that is right for its own prior fails on them"
        )


def _show(result: Calibration) -> None:
    """Print a table for each kind of check, and the sum of it."""
    from flowcei.evaluation.verdicts import CHECKS

    width = max(len(verdict.quantity) for verdict in result.verdicts)
    for check, title in CHECKS.items():
        verdicts = [verdict for verdict in result.verdicts if verdict.check == check]
        if verdicts:
            show(f"\n{title}")
        for v in verdicts:
            word = "pass" if v.passed else "FAIL"
            show(f"  {word}  {v.quantity:<{width}}  p {v.p_value:<7.2g}  {v.text}")
    for words in result.left_out:
        note(f"\nnot checked: {words}")
    show(f"\n{result.outcome}; p: for a right posterior, of all rows under one title")
