"""`flowcei convert`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli import options
from flowcei.cli.options import flag, option
from flowcei.cli.streams import note, warn
from flowcei.storage.creation import atomic_text

if TYPE_CHECKING:
    from flowcei import Molecule
    from flowcei.events.foreign.interpretation import Reading


@click.command()
@click.argument("file", type=options.INPUT)
@option("--molecule", "A built-in name, .toml or .xyz.", options.MOLECULE, default="ocs")
@options.ions_options
@flag("--guess", "Write what the columns probably mean, to be checked by you.")
@options.output_option("Events, .h5 or .csv; with --guess a .toml. NAME.events.h5 or NAME.toml if absent.")
@options.run_options
@options.noise_option
@options.overwrite_option
def convert(
    *,
    file: Path,
    molecule: str,
    guess: bool,
    output: Path | None,
    reading: Callable[[str | None], Reading],
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
    path = output or Path(f"{file.stem}.toml" if guess else f"{file.stem}.events.h5")
    options.output_path(path, overwrite=overwrite, endings=() if guess else options.EVENT_FILES, source=file)
    exploded = options.named_molecule(molecule, ions)
    if guess:
        _guess(file, exploded, path, reading(noise), overwrite=overwrite)
        return
    from flowcei.check.momenta import plausible_energy
    from flowcei.events.source import open_events
    from flowcei.events.storage import write_event_chunks

    source = open_events(file, exploded, reading(noise))
    source.log_reading()
    energy = plausible_energy(next(source.chunks()))
    if energy.severity != "note":
        warn(f"{energy.message}: {energy.means}", energy.code)
    write_event_chunks(source, path, overwrite=overwrite)
    note(f"{source.tally}")
    note(f"{source.tally.accepted} events of {exploded.name} written to {path}; next: flowcei check {path}")


def _guess(file: Path, molecule: Molecule, path: Path, reading: Reading, *, overwrite: bool) -> None:
    """Write a mapping, and say what a person should look at."""
    from flowcei.events.foreign.interpretation import guessed

    mapping, conclusions = guessed(file, molecule, reading)
    about = [
        f"What the columns of {file.name} mean, guessed for {molecule.name}. Check every line, above all",
        "units and which ion is which; then:",
        f"flowcei convert {file.name} --molecule {molecule.name} --mapping {path.name}",
        *(f"- {line}" for line in conclusions),
    ]
    with atomic_text(path, overwrite=overwrite) as text:
        text.write(mapping.to_toml("\n".join(about)))
    for line in conclusions:
        note(f"{file.name}: {line}")
    note(f"mapping written to {path}: check it, then give it as --mapping {path}")
