"""`flowcei convert`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli.options import (
    InputFile,
    ions_options,
    named_molecule,
    noise_option,
    note,
    overwrite_option,
    warn,
)
from flowcei.cli.reading import drift_option, note_reading, reading_options, selection_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.events.foreign.interpretation import Reading
    from flowcei.events.selection import Selection
    from flowcei.molecules.molecule import Molecule


@click.command(short_help="Turn events of another program into a file of flowcei.")
@click.argument("file", type=InputFile())
@click.option("--molecule", default="ocs", show_default=True, help="A built-in name, .toml or .xyz.")
@ions_options
@click.option("--guess", is_flag=True, help="Write what the columns probably mean, to be checked by you.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Events, .h5 or .csv; with --guess a .toml. NAME.events.h5 or NAME.toml if absent.",
)
@reading_options
@selection_options
@drift_option
@noise_option
@overwrite_option
def convert(
    *,
    file: Path,
    molecule: str,
    guess: bool,
    output: Path | None,
    reading: Callable[[], Reading],
    selection: Callable[[str | None], Selection],
    drift: str,
    noise: str | None,
    overwrite: bool,
    **ions: str | None,
) -> None:
    """Turn FILE into events as flowcei writes them, in atomic units, with the mapping kept in it.

    Text, .npy, HDF5, Parquet, ROOT and XYZ. First let flowcei guess what the columns mean,
    check what it wrote, and convert by it:

    Example: flowcei convert run7.dat --molecule ch4 --guess -o run7.toml

    Example: flowcei convert run7.dat --molecule ch4 --mapping run7.toml -o run7.h5
    """
    from flowcei.errors import UsageError
    from flowcei.storage.creation import check_output
    from flowcei.storage.files import same_file

    place = output or Path(f"{file.stem}.toml" if guess else f"{file.stem}.events.h5")
    if same_file(place, file):
        msg = f"{file} is what is converted; give -o another name"
        raise UsageError(msg)
    check_output(place, overwrite=overwrite)
    from flowcei.check.scale import plausible_energy  # after what costs nothing to refuse
    from flowcei.events.source import open_events
    from flowcei.events.storage import events_writer, write_event_chunks
    from flowcei.experiment.drift import subtract_drift

    known = named_molecule(molecule, ions)
    if guess:
        _guess(file, known, place, reading(), overwrite=overwrite)
        return
    events_writer(place)
    source = open_events(file, known, replace(reading(), selection=selection(noise)))
    subtract_drift(source, drift)
    note_reading(source)
    for finding in plausible_energy(next(source.chunks())):
        if finding.severity != "note":
            warn(f"{finding.what}: {finding.means}", finding.code)
    write_event_chunks(source, place, overwrite=overwrite)
    note(f"{source.tally}")
    note(f"{source.tally.kept} events of {known.name} written to {place}; next: flowcei check {place}")


def _guess(file: Path, molecule: Molecule, place: Path, reading: Reading, *, overwrite: bool) -> None:
    """Write a mapping, and say what a person should look at."""
    from flowcei.events.foreign.interpretation import guessed
    from flowcei.storage.creation import atomic_text

    name = molecule.name
    mapping, said = guessed(file, molecule, reading)
    about = "\n".join(
        [
            f"What the columns of {file.name} mean, guessed for {name}. Check every line, above all",
            "units and which ion is which; then:",
            f"flowcei convert {file.name} --molecule {name} --mapping {place.name}",
            *(f"- {line}" for line in said),
        ]
    )
    with atomic_text(place, overwrite=overwrite) as text:
        text.write(mapping.to_toml(about))
    for line in said:
        note(f"{file.name}: {line}")
    note(f"mapping written to {place}: check it, then give it as --mapping {place}")
