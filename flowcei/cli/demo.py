"""`flowcei demo`: the commands a newcomer would type, one after the other."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

import flowcei
from flowcei.cli.options import SEED, flag, folder_option, made_folder, option, overwrite_option
from flowcei.cli.streams import note, write_results

if TYPE_CHECKING:
    from pathlib import Path

# Events that several geometries explain, of bent and stretched OCS, come late; the prior of these also is
# one from which the law of the first events can be unfolded: it is not that law.
_STEPS = """
simulate ocs -n {count} --noise 1% -o {folder}/events.csv --seed {0}
train --arch cinn --couplings 8 {long} -o {folder}/cinn --seed {1}
train --arch cvae {small} -o {folder}/cvae --seed {2}
sample --momenta {folder}/events.csv -n 100 --model {folder}/cinn -o {folder}/samples.h5 --seed {3}
spread {folder}/samples.h5 -o {folder}/spread
compare {folder}/cinn {folder}/cvae --data {folder}/events.csv -o {folder}/comparison
calibrate {folder}/cinn --data {folder}/events.csv -o {folder}/calibration
simulate ocs --prior broad --noise 1% -n {late} -o {folder}/broad.csv --seed {4}
train --prior broad --noise 1% {size} -o {folder}/broad --seed {5}
sample --momenta {folder}/broad.csv --noise 1% -n 500 --weigh --model {folder}/broad -o \
{folder}/broad.samples.h5 --seed {6}
modes {folder}/broad.samples.h5 -o {folder}/modes.csv
sample --momenta {folder}/events.csv --noise 1% -n 100 --exact --model {folder}/broad -o \
{folder}/ensemble.h5 --seed {7}
population {folder}/ensemble.h5 --truth {folder}/events.csv -o {folder}/population
"""
_QUICK = "--epochs 2 --events 2000"
_PICTURES = (
    "comparison/comparison.png",
    "spread/clouds.png",
    "calibration/coverage.png",
    "modes-event.png",
    "modes-map.png",
    "population/unfolded.png",
)


@click.command()
@folder_option("demo")
@flag("--quick", "Tiny: seconds, to see that it runs; the figures are poor.")
@option("--seed", "Of everything.", SEED, default=1)
@overwrite_option
@click.pass_context
def demo(ctx: click.Context, *, output: Path, quick: bool, seed: int, overwrite: bool) -> None:
    """Simulate, train a flow and a CVAE, sample, judge both, find every geometry, unfold a law: all on OCS.

    Each step is an ordinary command, printed as you would type it.
    """
    folder = made_folder(output, overwrite=overwrite)
    from flowcei.plot.figure import events_figure

    group = ctx.find_root().command
    # Of fewer epochs than 20, one or two of the 24 checks of `calibrate` find the flow wanting.
    sizes = (*[_QUICK] * 3, 60, 30) if quick else ("--epochs 20", "--epochs 8", "--epochs 5", 4000, 200)
    words = dict(zip(("long", "size", "small", "count", "late"), sizes, strict=True)) | {
        "folder": shlex.quote(str(folder))
    }
    for step in _STEPS.strip().splitlines():
        line = shlex.split(step.format(*range(seed, seed + 8), **words)) + ["--overwrite"] * overwrite
        note(f"\n$ flowcei {shlex.join(line)}")
        group.main(line, standalone_mode=False, prog_name="flowcei", parent=ctx.parent)
    picture = events_figure(flowcei.read_events(folder / "events.csv"))
    write_results({"events.png": picture}, folder, overwrite=overwrite)
    note("\nDone. Look at")
    for name in _PICTURES:
        note(f"  {folder / name}")
