"""`flowcei demo`: the commands a newcomer would type, one after the other."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from flowcei.cli.options import fresh_folder, note, overwrite_option

_PICTURES = (
    "comparison/comparison.png",
    "spread/clouds.png",
    "calibration/coverage.png",
    "modes-event.png",
    "modes-map.png",
)


@click.command(short_help="All of it on OCS, in minutes, into one folder.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder.",
)
@click.option("--quick", is_flag=True, help="Tiny: seconds, to see that it runs; the figures are poor.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of everything.")
@overwrite_option
@click.pass_context
def demo(ctx: click.Context, *, output: Path, quick: bool, seed: int, overwrite: bool) -> None:
    """Simulate, train a flow and a CVAE, sample, judge both, and find every geometry: all on OCS.

    Each step is an ordinary command, printed as you would type it.
    """
    from flowcei.cli.main import cli

    folder = fresh_folder(output, overwrite=overwrite)
    for line in _steps(folder, seed, quick=quick, overwrite=overwrite):
        note(f"\n$ flowcei {shlex.join(line)}")
        cli.main(line, standalone_mode=False, prog_name="flowcei", parent=ctx.parent)
    _draw_events(folder, overwrite=overwrite)
    note("\nDone. Look at")
    for name in _PICTURES:
        note(f"  {folder / name}")


def _steps(folder: Path, seed: int, *, quick: bool, overwrite: bool) -> list[list[str]]:
    events, samples = str(folder / "events.csv"), str(folder / "samples.h5")
    flow, cvae = str(folder / "cinn"), str(folder / "cvae")
    size = ["--epochs", "2", "--events", "2000"] if quick else ["--epochs", "8"]
    small = ["--epochs", "2", "--events", "2000"] if quick else ["--epochs", "5"]
    count = "200" if quick else "4000"
    replace = ["--overwrite"] if overwrite else []
    common = [*replace, "--seed"]
    return [
        ["simulate", "ocs", "-n", count, "--noise", "1%", "-o", events, *common, str(seed)],
        ["train", "--arch", "cinn", "--couplings", "8", *size, "-o", flow, *common, str(seed + 1)],
        ["train", "--arch", "cvae", *small, "-o", cvae, *common, str(seed + 2)],
        ["sample", "--momenta", events, "-n", "100", "--model", flow, "-o", samples, *common, str(seed + 3)],
        ["spread", samples, "-o", str(folder / "spread"), *replace],
        ["compare", flow, cvae, "--data", events, "-o", str(folder / "comparison"), *replace],
        ["calibrate", flow, "--data", events, "-o", str(folder / "calibration"), *replace],
        *_ambiguous(folder, seed + 4, size, replace),
    ]


def _ambiguous(folder: Path, seed: int, size: list[str], replace: list[str]) -> list[list[str]]:
    """Return the steps that show events which several geometries explain: bent and stretched OCS."""
    events, samples = str(folder / "broad.csv"), str(folder / "broad.samples.h5")
    wide, common = str(folder / "broad"), [*replace, "--seed"]
    noise = ["--noise", "1%"]
    prior = ["--prior", "broad", *noise]
    draw = ["--momenta", events, *noise, "-n", "500", "--weigh", "--model", wide]
    return [
        ["simulate", "ocs", *prior, "-n", "200", "-o", events, *common, str(seed)],
        ["train", *prior, *size, "-o", wide, *common, str(seed + 1)],
        ["sample", *draw, "-o", samples, *common, str(seed + 2)],
        ["modes", samples, "-o", str(folder / "modes.csv"), *replace],
    ]


def _draw_events(folder: Path, *, overwrite: bool) -> None:
    from flowcei.events.storage import read_events
    from flowcei.report.figures import events_figure
    from flowcei.report.style import save

    events = read_events(folder / "events.csv")
    save(events_figure(events), folder / "events.png", overwrite=overwrite)
