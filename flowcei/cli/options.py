"""Options that several commands share, so that they read and behave the same."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli.logs import NOTES
from flowcei.cli.streams import say

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import pandas as pd

    from flowcei.molecules.molecule import Molecule

_QUIET = "flowcei.quiet"
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_log = logging.getLogger(NOTES)

seed_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Of all randomness; drawn and printed if absent."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where to compute."
)
latent_option = click.option(
    "--latent",
    type=click.Choice(["prior", "training"]),
    default="prior",
    show_default=True,
    help="Latent samples from their normal prior, or from those of the training events.",
)
noise_option = click.option(
    "--noise",
    metavar="LEVEL",
    help="Detector noise of a momentum component: 1% of the rms component, or 0.5 (a.u.).",
)
judging_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the samples."
)
keep_flagged_option = click.option(
    "--keep-flagged", is_flag=True, help="Keep events whose flags say that they are not to be trusted."
)
_ION_OPTIONS = (
    click.option(
        "--isotopes",
        metavar="LIST",
        help="Of the molecule: 81Br,37Cl for all such atoms, h1=2H or h1=D for one.",
    ),
    click.option(
        "--charges", metavar="LIST", help="Of the molecule's ions: 2,2,2 in its order, or one for all."
    ),
    click.option(
        "--length-unit",
        type=click.Choice(["angstrom", "bohr"]),
        help="Of the positions in an XYZ file of a molecule.",
    ),
)
samples_option = click.option(
    "-n", "count", type=click.IntRange(min=1), default=100, show_default=True, help="Samples an event."
)


def set_quiet() -> None:
    """Say no more notes in the command that runs now, nor in those it calls."""
    click.get_current_context().meta[_QUIET] = True


def is_quiet() -> bool:
    """Return whether notes are left out."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def note(text: str) -> None:
    """Say something to the person, not to the pipe: on stderr, unless --quiet."""
    if not is_quiet():
        say(text)
    _log.info("%s", text)


def warn(text: str, code: str = "") -> None:
    """Say what is wrong, or may be, on stderr, also under --quiet."""
    line = f"warning ({code}): {text}" if code else f"warning: {text}"
    say(line)
    _log.info("%s", line)


class InputFile(click.Path):
    """A file to read, looked for before anything slow is imported."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return the path, if there is a file with something in it."""
        from flowcei.storage.files import check_readable

        del param, ctx
        path = Path(value)
        check_readable(path)
        return path


def folder_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option of a folder for results."""
    path = click.Path(path_type=Path)
    return click.option("-o", "--output", type=path, default=Path(default), show_default=True, help="Folder.")


def ions_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that settle the masses, charges and length unit of a molecule."""
    for option in reversed(_ION_OPTIONS):
        command = option(command)
    return command


def named_molecule(name: str, ions: Mapping[str, str | None]) -> Molecule:
    """Return the molecule that a name and the options of `ions_options` settle; warn of average masses.

    Raises:
        UsageError: For isotopes or charges that it cannot have.
        DataError: For a file that does not describe a molecule.
    """
    from flowcei.molecules.molecule import Molecule

    molecule = Molecule.load(name, unit=ions["length_unit"])
    if ions["isotopes"] is not None:
        molecule = molecule.with_isotopes(ions["isotopes"])
    if ions["charges"] is not None:
        molecule = molecule.with_charges(ions["charges"])
    warn_of_masses(molecule)
    return molecule


def named_or_none(name: str | None, ions: Mapping[str, str | None]) -> Molecule | None:
    """Return `named_molecule`, or None where the file is to say which molecule it is of.

    Raises:
        UsageError: Where no molecule is named, but its isotopes or charges.
        DataError: For a file that does not describe a molecule.
    """
    from flowcei.errors import UsageError

    if name is None and any(ions.values()):
        msg = "--isotopes, --charges and --length-unit are of a molecule: name it with --molecule"
        raise UsageError(msg)
    return None if name is None else named_molecule(name, ions)


def note_ions(molecule: Molecule, *facts: str) -> None:
    """Say masses, charges and what else is assumed in one line."""
    from flowcei.molecules.isotopes import described_ions

    note("; ".join([f"{molecule.name}: {described_ions(molecule)}", *facts]))


def warn_of_masses(molecule: Molecule, *, of_model: bool = False) -> None:
    """Warn of elements whose mass is that of no isotope; `of_model`: it can only be trained with another."""
    from flowcei.molecules.isotopes import average_mass_warnings

    for line in average_mass_warnings(molecule):
        warn(f"{line} of flowcei train, as the model was trained for this mass" if of_model else line, "mass")


class Duration(click.ParamType):
    """A time span: 90, 90s, 45m, 2h, 1.5d; in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, above 0."""
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([smhd]?)", str(value).strip())
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        if seconds <= 0.0:
            self.fail(f"{value!r} is no time span; write 90s, 45m, 2h or 1.5d", param, ctx)
        return seconds


def settled_seed(seed: int | None) -> int:
    """Return the seed given, or draw one and print it."""
    if seed is not None:
        return seed
    from flowcei.events.simulation import fresh_seed

    drawn = fresh_seed()
    note(f"seed {drawn}")
    return drawn


def fresh_folder(path: Path, *, overwrite: bool) -> Path:
    """Make a folder for results; an existing one that is not empty needs --overwrite.

    Raises:
        UsageError: Where it exists with something in it, or cannot be made.
    """
    from flowcei.errors import UsageError

    refuse_full_folder(path, overwrite=overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot make folder {path} ({error.strerror})"
        raise UsageError(msg) from error
    return path


def refuse_full_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder with something in it, before any work is done.

    Raises:
        UsageError: Unless it may be overwritten.
    """
    from flowcei.errors import UsageError

    if path.is_dir() and any(path.iterdir()) and not overwrite:
        msg = f"folder {path} exists; use --overwrite to replace files in it, or another -o"
        raise UsageError(msg)


def text_table(table: pd.DataFrame, digits: int = 4) -> str:
    """Return a table for a terminal, numbers with `digits` significant digits."""
    return table.to_string(float_format=lambda v: f"{v:.{digits}g}", index=table.index.name is not None)
