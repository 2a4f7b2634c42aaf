"""Options that several commands share. What is typed is checked here, before anything slow is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import reduce, wraps
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from flowcei.cli.streams import note, warn
from flowcei.errors import FlowceiError, UsageError
from flowcei.events.foreign import FORMATS
from flowcei.storage.creation import check_output
from flowcei.storage.files import check_readable, same_file
from flowcei.units import momentum_factor

if TYPE_CHECKING:
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.molecules.molecule import Molecule

    Command = Callable[..., Any]
    Decorator = Callable[[Command], Command]

EVENT_FILES = (".csv", ".h5", ".hdf5")
SAMPLE_FILES = (".h5", ".hdf5", ".csv", ".parquet")
_DEVICES = ("auto", "cpu", "cuda", "mps")
_OF_READING = ("format", "columns", "unit", "allow_truncated", "drift")


class Checked(click.ParamType):
    """Text that a function can read: the error that it raises, and not what it returns, is the answer.

    `values` names what may be typed, for completion in the shell, by the options that are typed already.
    """

    name = "text"

    def __init__(
        self,
        check: Callable[[str], object] = lambda _: None,
        values: Callable[[dict[str, Any]], Iterable[str]] = lambda _: (),
    ) -> None:
        self._check, self._values = check, values

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the values that begin like what is typed."""
        del param
        return [CompletionItem(name) for name in self._values(ctx.params) if name.startswith(incomplete)]

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is."""
        del param, ctx
        self._check(value)
        return value


class InputFile(click.Path):
    """A file to read, with something in it."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return the path."""
        del param, ctx
        if str(value) == "-":
            value = _stdin_as_file()
        check_readable(Path(value))
        return Path(value)


def _stdin_as_file() -> Path:
    """A file of what comes on stdin, which goes with the process: readers look at a file more than once."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with (path := folder / "stdin").open("xb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


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


def _window(text: str | None) -> tuple[float, float] | None:
    """KER window that `LOW..HIGH` means, eV."""
    if text is None:
        return None
    try:
        low, high = (float(end) for end in text.split(".."))
    except ValueError as error:
        raise UsageError(f"--ker is {text!r}; it must be LOW..HIGH in eV, such as 5..40") from error
    return low, high


def _molecule_names(_: dict[str, Any]) -> Iterable[str]:
    from flowcei.molecules.molecule import built_in_molecules

    return built_in_molecules()


def _prior_names(typed: dict[str, Any]) -> Iterable[str]:
    """Names of the priors of the molecule that is typed, or of ocs."""
    from flowcei.molecules.molecule import Molecule

    try:
        return Molecule.load(str(typed.get("molecule") or "ocs")).priors
    except FlowceiError:
        return ()


_LENGTH = click.Choice(["angstrom", "bohr"])
MOLECULE_NAME, PRIOR_NAME = Checked(values=_molecule_names), Checked(values=_prior_names)
NOISE, MOLECULE, INPUT, OUTPUT = (
    Checked(_check_noise),
    Checked(_check_molecule, _molecule_names),
    InputFile(),
    click.Path(path_type=Path),
)
COUNT, SEED = click.IntRange(min=1), click.IntRange(min=0)


def option(names: str, text: str, kind: Any = None, **more: Any) -> Decorator:  # noqa: ANN401 (of click)
    """Option with its help; a default that is not 0 or empty is shown."""
    shown = {"show_default": bool(more.get("default"))} | more
    return click.option(*names.split(), type=kind, help=text, **shown)


def flag(names: str, text: str) -> Decorator:
    """Option without a value."""
    return click.option(*names.split(), is_flag=True, help=text)


def option_group(*options: Decorator) -> Decorator:
    """Make one decorator of several options."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


def gathered(kind: type, name: str) -> Decorator:
    """Hand options to a command as one dataclass, whose fields they are."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def wrapped(**given: Any) -> Any:  # noqa: ANN401
            own = {field.name: given.pop(field.name) for field in fields(kind)}
            return command(**{name: kind(**own)}, **given)

        return wrapped

    return decorate


molecule_option = option(
    "--molecule",
    "A built-in name, .toml or .xyz; ocs if absent and the file does not say.",
    MOLECULE,
)
seed_option = option("--seed", "Of all randomness; drawn and printed if absent.", SEED)
overwrite_option = flag("--overwrite", "Replace files that exist.")
device_option = option(
    "--device", "Where to compute.", Checked(_check_device), default="auto", metavar="|".join(_DEVICES)
)
latent_option = option(
    "--latent",
    "Latent samples from their normal prior, or from those of the training events.",
    click.Choice(["prior", "training"]),
    default="prior",
)
noise_option = option(
    "--noise",
    "Detector noise of a momentum component: 1% of the rms component, or 0.5 (a.u.).",
    NOISE,
    metavar="LEVEL",
)
drift_option = option(
    "--drift",
    "Momentum of the beam to subtract, hbar/bohr, or its velocity, '560,0,0 m/s'; auto measures it.",
    Checked(_check_drift),
    default="auto",
    metavar="auto|none|X,Y,Z",
)
length_option = option("--length-unit", "Of lengths shown; angstrom if absent.", _LENGTH, default="angstrom")
keep_flagged_option = flag("--keep-flagged", "Keep events whose flags say that they are not to be trusted.")
ions_options = option_group(
    option(
        "--isotopes", "Of the molecule: 81Br,37Cl for all such atoms, h1=2H or h1=D for one.", metavar="LIST"
    ),
    option("--charges", "Of the molecule's ions: 2,2,2 in its order, or one for all.", metavar="LIST"),
    option("--length-unit", "Of the positions in an XYZ file of a molecule.", _LENGTH),
)
_READING = (
    option("--format", "Of the file; its content says so if absent.", click.Choice(FORMATS)),
    option("--mapping", "What the columns mean: a TOML file, as flowcei convert --guess writes it.", INPUT),
    option("--columns", "Order of the ions where a file has no names: 'o c s'.", default="", metavar="IONS"),
    option(
        "--unit",
        "Of the momenta: hbar/bohr, 'kg m/s', '1e-22 kg m/s', 'u m/s', ...",
        Checked(lambda unit: unit and momentum_factor(unit)),
        default="",
    ),
    flag("--allow-truncated", "Read a text file whose last line has no line end."),
)
_SELECTION = (
    option(
        "--max-sum",
        "Leave out events whose momenta sum to more, in standard deviations of the sum: 4 loses one true "
        "event in 882.",
        click.FloatRange(min=0, min_open=True),
        metavar="SIGMAS",
    ),
    option(
        "--max-sum-chance",
        "The same bound by the chance to lose a true event: 1e-4 is --max-sum 4.59.",
        click.FloatRange(min=0, max=1, min_open=True, max_open=True),
        metavar="CHANCE",
    ),
    option(
        "--ker",
        "Leave out events outside this kinetic energy release, eV.",
        Checked(_window),
        metavar="LOW..HIGH",
    ),
)


def samples_option(count: int = 100, least: int = 1) -> Decorator:
    """Option of the number of samples."""
    return option("-n count", "Samples an event.", click.IntRange(min=least), default=count)


def output_option(text: str) -> Decorator:
    """Option of a file for results."""
    return option("-o --output", text, OUTPUT)


def folder_option(default: str) -> Decorator:
    """Option of a folder for results."""
    return option("-o --output", "Folder.", OUTPUT, default=Path(default))


def json_option(text: str = "As JSON.") -> Decorator:
    """Option of a table as JSON: see `show_json`."""
    return flag("--json as_json", text)


def reading_options(command: Command) -> Command:
    """Add the options of reading; the command takes a function that returns them, `reading`."""
    return option_group(*_READING)(_with_reading(command))


def run_options(command: Command) -> Command:
    """Add the options of reading a run: also which events are left out, and its drift."""
    return option_group(*_READING, *_SELECTION, drift_option)(_with_reading(command))


def _with_reading(command: Command) -> Command:
    @wraps(command)
    def wrapped(
        *,
        mapping: Path | None,
        max_sum: float | None = None,
        max_sum_chance: float | None = None,
        ker: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if max_sum is not None and max_sum_chance is not None:
            raise UsageError("--max-sum and --max-sum-chance are one bound; give one of them")
        given = {name: options.pop(name) for name in _OF_READING if name in options}

        def reading(noise: str | None = None) -> Reading:  # once paths were looked at: the import takes 1 s
            from flowcei.events.foreign.interpretation import Reading
            from flowcei.events.foreign.mapping import read_mapping
            from flowcei.events.selection import Selection, sum_bound
            from flowcei.experiment.detector import Noise

            bound = max_sum if max_sum_chance is None else sum_bound(max_sum_chance)
            level = Noise.parse(noise) if noise and bound is not None else None
            columns = None if mapping is None else read_mapping(mapping)
            return Reading(mapping=columns, selection=Selection(bound, level, _window(ker)), **given)

        return command(reading=reading, **options)

    return wrapped


def named_molecule(name: str, ions: Mapping[str, str | None], prior: str | None = None) -> Molecule:
    """Molecule of a name and the options of `ions_options`, which has a prior; warns of average masses."""
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


def settled_seed(seed: int | None, unfinished: Path | None = None) -> int:
    """Seed given, or that of an unfinished file, or one that is drawn and said."""
    if seed is None and unfinished is not None:
        from flowcei.storage.resumable import unfinished_seed

        seed = unfinished_seed(unfinished)
    if seed is None:
        from flowcei.events.simulation import fresh_seed

        seed = fresh_seed()
        note(f"seed {seed}")
    return seed


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


def check_folder(path: Path, *, overwrite: bool) -> Path:
    """Refuse a folder with something in it, unless it may be overwritten."""
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UsageError(f"folder {path} exists; use --overwrite to replace files in it, or another -o")
    return path


def made_folder(path: Path, *, overwrite: bool) -> Path:
    """Folder for results, made where it is missing: see `check_folder`."""
    try:
        check_folder(path, overwrite=overwrite).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make folder {path} ({error.strerror})") from error
    return path
