"""Options that several commands share. What is typed is checked here, before anything slow is imported."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli.streams import note, warn
from flowcei.errors import UsageError
from flowcei.storage.creation import check_output
from flowcei.storage.files import check_readable, same_file

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from flowcei.molecules.molecule import Molecule

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

EVENT_FILES = (".csv", ".h5", ".hdf5")
"""Endings of files that events are written to."""

SAMPLE_FILES = (".h5", ".hdf5", ".csv", ".parquet")
"""Endings of files that samples are written to."""

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DEVICES = ("auto", "cpu", "cuda", "mps")
OUTPUT = click.Path(path_type=Path)
SEED = click.IntRange(min=0)


class Checked(click.ParamType):
    """Text that a function can read: the error that it raises, and not what it returns, is the answer."""

    name = "text"

    def __init__(self, check: Callable[[str], object]) -> None:
        self._check = check

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is."""
        del param, ctx
        self._check(value)
        return value


class InputFile(click.Path):
    """A file to read, with something in it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return the path."""
        del param, ctx
        check_readable(Path(value))
        return Path(value)


class Duration(click.ParamType):
    """A time span: 90, 90s, 45m, 2h, 1.5d; in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, above 0."""
        matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([smhd]?)", str(value).strip())
        seconds = float(matched[1]) * _SECONDS[matched[2]] if matched else 0.0
        if seconds <= 0.0:
            self.fail(f"{value!r} is no time span; write 90s, 45m, 2h or 1.5d", param, ctx)
        return seconds


def _check_noise(text: str) -> None:
    from flowcei.experiment.detector import Noise

    Noise.parse(text)


def _check_molecule(text: str) -> None:
    from flowcei.molecules.molecule import Molecule

    if Path(text).suffix.lower() == ".xyz":  # its reader is slow to import
        check_readable(Path(text))
    else:
        Molecule.load(text)


def _check_drift(text: str) -> None:
    from flowcei.experiment.drift import parse_drift
    from flowcei.molecules.molecule import Molecule

    if text != "auto":
        parse_drift(text, Molecule.load("ocs"))  # a velocity needs some mass


def _check_device(text: str) -> None:
    if text.split(":", maxsplit=1)[0] not in _DEVICES:
        raise UsageError(f"no device {text!r}; there are {', '.join(_DEVICES)}")


NOISE, MOLECULE = Checked(_check_noise), Checked(_check_molecule)

molecule_option = click.option(
    "--molecule",
    type=MOLECULE,
    help="A built-in name, .toml or .xyz; ocs if absent and the file does not say.",
)
seed_option = click.option("--seed", type=SEED, help="Of all randomness; drawn and printed if absent.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
device_option = click.option(
    "--device",
    type=Checked(_check_device),
    default="auto",
    show_default=True,
    metavar="|".join(_DEVICES),
    help="Where to compute.",
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
    type=NOISE,
    metavar="LEVEL",
    help="Detector noise of a momentum component: 1% of the rms component, or 0.5 (a.u.).",
)
drift_option = click.option(
    "--drift",
    type=Checked(_check_drift),
    default="auto",
    show_default=True,
    metavar="auto|none|X,Y,Z",
    help="Momentum of the beam to subtract, hbar/bohr, or its velocity, '560,0,0 m/s'; auto measures it.",
)
judging_seed_option = click.option("--seed", type=SEED, default=0, show_default=True, help="Of the samples.")
judged_data_option = click.option(
    "--data", required=True, type=InputFile(), help="Events with positions, .csv or .h5."
)
keep_flagged_option = click.option(
    "--keep-flagged", is_flag=True, help="Keep events whose flags say that they are not to be trusted."
)
samples_option = click.option(
    "-n", "count", type=click.IntRange(min=1), default=100, show_default=True, help="Samples an event."
)


def option_group(*options: Decorator) -> Decorator:
    """Make one decorator of several options."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


ions_options = option_group(
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


def output_option(text: str) -> Decorator:
    """Option of a file for results."""
    return click.option("-o", "--output", type=OUTPUT, help=text)


def folder_option(default: str) -> Decorator:
    """Option of a folder for results."""
    return click.option(
        "-o", "--output", type=OUTPUT, default=Path(default), show_default=True, help="Folder."
    )


def json_option(text: str = "As JSON.") -> Decorator:
    """Option of a table as JSON: see `show_json`."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def named_molecule(name: str, ions: Mapping[str, str | None], prior: str | None = None) -> Molecule:
    """Molecule of a name and the options of `ions_options`; warns of average masses.

    UsageError also where it has no such prior.
    """
    from flowcei.molecules.molecule import Molecule

    molecule = Molecule.load(name, unit=ions["length_unit"])
    if ions["isotopes"] is not None:
        molecule = molecule.with_isotopes(ions["isotopes"])
    if ions["charges"] is not None:
        molecule = molecule.with_charges(ions["charges"])
    if prior is not None:
        molecule.prior_table(prior)
    warn_of_masses(molecule)
    return molecule


def named_or_none(
    name: str | None, ions: Mapping[str, str | None], prior: str | None = None
) -> Molecule | None:
    """`named_molecule`, or None where the file is to say which molecule it is of."""
    if name is None and any(ions.values()):
        raise UsageError("--isotopes, --charges and --length-unit are of a molecule: name it with --molecule")
    return None if name is None else named_molecule(name, ions, prior)


def note_ions(molecule: Molecule, *facts: str) -> None:
    """Say masses, charges and what else is assumed in one line."""
    from flowcei.molecules.isotopes import described_ions

    note("; ".join([f"{molecule.name}: {described_ions(molecule)}", *facts]))


def warn_of_masses(molecule: Molecule, *, of_model: bool = False) -> None:
    """Warn of elements whose mass is that of no isotope; `of_model`: it can only be trained with another."""
    from flowcei.molecules.isotopes import average_mass_warnings

    for line in average_mass_warnings(molecule):
        warn(f"{line} of flowcei train, as the model was trained for this mass" if of_model else line, "mass")


def settled_seed(seed: int | None) -> int:
    """Seed given, or one that is drawn and said."""
    if seed is not None:
        return seed
    from flowcei.events.simulation import fresh_seed

    drawn = fresh_seed()
    note(f"seed {drawn}")
    return drawn


def output_path(
    path: Path, *, overwrite: bool, endings: Sequence[str] = (), source: Path | None = None
) -> Path:
    """Path of a file to write, not `source`, with one of the endings; `-` is stdout. UsageError else."""
    if source is not None and same_file(path, source):
        raise UsageError(f"{source} is what is read; give -o another name")
    if str(path) != "-":
        if endings and path.suffix.lower() not in endings:
            raise UsageError(f"{path} is to be written as {' or '.join(endings)}; give -o such an ending")
        check_output(path, overwrite=overwrite)
    return path


def check_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder with something in it, unless it may be overwritten."""
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UsageError(f"folder {path} exists; use --overwrite to replace files in it, or another -o")


def made_folder(path: Path, *, overwrite: bool) -> Path:
    """Folder for results, made where it is missing: see `check_folder`."""
    check_folder(path, overwrite=overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make folder {path} ({error.strerror})") from error
    return path
