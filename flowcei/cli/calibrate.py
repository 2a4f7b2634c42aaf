"""`flowcei calibrate`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.progress import Progress
from flowcei.cli.runs import MODEL_NAME, load_named, show_left_out, unseen_events
from flowcei.cli.streams import note, show, show_json, warn, write_results

if TYPE_CHECKING:
    from pathlib import Path

    from flowcei.evaluation.calibration import Calibration
    from flowcei.models.interface import Latent

_FAILED = 1
_TITLES = {
    "weights": "Importance weights",
    "sbc": "Ranks of the truth (SBC)",
    "coverage": "Coverage",
    "tarp": "All coordinates together (TARP)",
    "resimulation": "Momenta of samples, simulated again",
    "regions": "By regions of kinetic energy and angle between the two largest momenta",
}


@click.command(short_help="Check whether the posterior of a model is right.")
@click.argument("model", type=MODEL_NAME, metavar="MODEL")
@options.judged_data_option
@click.option(
    "-n", "count", type=click.IntRange(min=10), default=200, show_default=True, help="Samples an event."
)
@options.noise_option
@options.latent_option
@click.option("--weigh", is_flag=True, help="Judge the samples with their importance weights.")
@options.folder_option("calibration")
@options.judging_seed_option
@click.option("--strict", is_flag=True, help="End with exit code 1 where a check fails.")
@options.json_option("Print all as JSON, and write calibration.json.")
@options.keep_flagged_option
@options.drift_option
@options.device_option
@options.overwrite_option
def calibrate(
    *,
    model: str,
    data: Path,
    count: int,
    noise: str | None,
    latent: Latent,
    weigh: bool,
    output: Path,
    seed: int,
    strict: bool,
    as_json: bool,
    keep_flagged: bool,
    drift: str,
    device: str,
    overwrite: bool,
) -> None:
    """Check the posterior of MODEL (a run, a .safetensors file, or "bundled") on events of a file.

    Too narrow, too wide, biased? The truth among posterior samples: ranks (SBC), coverage of
    central intervals and regions of highest density, TARP, and simulated momenta. Of a file
    that the model was trained on, only its test rows are used. A right posterior fails each
    kind of check in 1 of 100 data sets. Writes calibration.csv, coverage.csv, regions.csv and
    pictures.

    Example: flowcei calibrate bundled --data test.h5
    """
    options.check_folder(output, overwrite=overwrite)
    name, loaded = load_named(model, device)
    events, left_out = unseen_events({name: loaded}, data, noise, drift, keep_flagged=keep_flagged)
    _warn_of_other_prior(loaded, events)
    how: dict[str, Any] = {"n": count, "noise": noise, "latent": latent, "seed": seed, "weigh": weigh}
    with Progress(len(events), "events") as progress:
        found = flowcei.calibrate(loaded, events, keep_flagged=True, on_events=progress.update, **how)
    folder = options.made_folder(output, overwrite=overwrite)
    _write(found, folder, overwrite=overwrite)
    if as_json:
        about = {"model": name, "data": str(data), "events": len(events), "samples": count, "seed": seed}
        about |= {"left_out": left_out, "noise": noise, "latent": latent, "weighed": weigh}
        show_json(about | found.to_dict(), folder / "calibration.json", overwrite=overwrite)
    else:
        show(f"{name}: {len(events)} events of {data}, {count} samples each, seed {seed}")
        show_left_out(left_out)
        _show(found)
    note(f"\ntables and pictures in {folder}")
    if strict and not found.passed:
        sys.exit(_FAILED)


def _warn_of_other_prior(model: flowcei.Reconstructor, events: flowcei.Events) -> None:
    """Say it where the events were drawn from another prior: then no posterior would pass."""
    trained, drawn = model.training.prior, events.origin.get("prior")
    if trained and drawn and json.dumps(trained, sort_keys=True) != json.dumps(drawn, sort_keys=True):
        warn(
            "the events were drawn from another prior than the model was trained with; "
            "a posterior that is right for its own prior fails on them"
        )


def _write(found: Calibration, folder: Path, *, overwrite: bool) -> None:
    from flowcei.report.calibration import coverage_figure, joint_figure, sbc_figure

    results = {
        "calibration.csv": found.to_dataframe(),
        "coverage.csv": found.coverage_table(),
        "regions.csv": found.regions,
        "sbc.png": sbc_figure(found),
        "coverage.png": coverage_figure(found),
        "joint.png": joint_figure(found),
    }
    write_results(results, folder, overwrite=overwrite)


def _show(found: Calibration) -> None:
    """Print a table for each kind of check, and the sum of it."""
    width = max(len(verdict.quantity) for verdict in found.verdicts)
    for check, title in _TITLES.items():
        verdicts = [verdict for verdict in found.verdicts if verdict.check == check]
        if verdicts:
            show(f"\n{title}")
        for v in verdicts:
            word = "pass" if v.passed else "FAIL"
            show(f"  {word}  {v.quantity:<{width}}  p {v.p_value:<7.2g}  {v.text}")
    for words in found.left_out:
        note(f"\nnot checked: {words}")
    show(f"\n{found.outcome}; p: for a right posterior, of all rows under one title")
