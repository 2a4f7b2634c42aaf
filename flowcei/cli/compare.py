"""`flowcei compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli.options import (
    device_option,
    fresh_folder,
    latent_option,
    noise_option,
    note,
    overwrite_option,
    refuse_full_folder,
    samples_option,
    text_table,
)

if TYPE_CHECKING:
    from flowcei.models.interface import Latent


@click.command(short_help="Score models beside null models on known positions.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Events with positions, .csv or .h5."
)
@samples_option
@noise_option
@latent_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("comparison"),
    show_default=True,
    help="Folder.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the samples.")
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
    device: str,
    overwrite: bool,
) -> None:
    """Score each MODEL (a run, a .safetensors file, or "bundled") on the events of a file.

    Of a file that a model was trained on, only its test rows are used. Writes
    comparison.csv and comparison.png; prints the table.

    Example: flowcei compare runs/ocs-cinn-1 runs/ocs-cvae-1 --data test.h5
    """
    from flowcei.cli.runs import load_named, note_what_is_assumed
    from flowcei.errors import UsageError
    from flowcei.evaluation.comparison import compare as run
    from flowcei.evaluation.comparison import unseen
    from flowcei.events.storage import read_events
    from flowcei.files import whole_file
    from flowcei.report.figures import comparison_figure
    from flowcei.report.style import save

    loaded = dict(load_named(name, device) for name in models)
    if len(loaded) < len(models):
        msg = f"models share a name: {', '.join(models)}; name each once"
        raise UsageError(msg)
    first = next(iter(loaded.values()))
    events = read_events(data, first.molecule)
    refuse_full_folder(output, overwrite=overwrite)
    for name, model in loaded.items():
        fewer = unseen(model, events)
        if len(fewer) < len(events):
            note(f"{name} was trained on {data}: only its {len(fewer)} test events are used")
            events = fewer
    for model in loaded.values():
        note_what_is_assumed(model, events, noise)
    table = run(loaded, events, n=count, noise=noise, latent=latent, seed=seed)
    folder = fresh_folder(output, overwrite=overwrite)
    with whole_file(folder / "comparison.csv", overwrite=overwrite) as path:
        table.to_csv(path, float_format="%.6g")
    save(comparison_figure(table), folder / "comparison.png", overwrite=overwrite)
    click.echo(f"{len(events)} events of {data}, {count} samples each, seed {seed}; lengths in bohr\n")
    click.echo(text_table(table.T.rename_axis("score"), digits=3))
    note(f"\ntable and picture in {folder}")
