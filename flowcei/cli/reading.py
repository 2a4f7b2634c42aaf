"""Options that say how a file of events is to be read, and which of its events are left out."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli.options import Checked, InputFile, drift_option, option_group
from flowcei.cli.streams import warn
from flowcei.errors import UsageError
from flowcei.units import momentum_factor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.molecules.molecule import Molecule


def _window(text: str | None) -> tuple[float, float] | None:
    """KER window that `LOW..HIGH` means, eV."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError as error:
        raise UsageError(f"--ker is {text!r}; it must be LOW..HIGH in eV, such as 5..40") from error
    return low, high


# Those of `events.foreign.openedfile`, which --help must not import: it takes a second.
_FORMATS = ("text", "npy", "hdf5", "parquet", "root", "xyz")
_READING = (
    click.option("--format", type=click.Choice(_FORMATS), help="Of the file; its content says so if absent."),
    click.option(
        "--mapping",
        type=InputFile(),
        help="What the columns mean: a TOML file, as flowcei convert --guess writes it.",
    ),
    click.option(
        "--columns", default="", metavar="IONS", help="Order of the ions where a file has no names: 'o c s'."
    ),
    click.option(
        "--unit",
        type=Checked(lambda unit: unit and momentum_factor(unit)),
        default="",
        help="Of the momenta: hbar/bohr, 'kg m/s', '1e-22 kg m/s', 'u m/s', ...",
    ),
    click.option("--allow-truncated", is_flag=True, help="Read a text file whose last line has no line end."),
)
_OF_READING = ("format", "columns", "unit", "allow_truncated", "drift")
_SELECTION = (
    click.option(
        "--max-sum",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SIGMAS",
        help="Leave out events whose momenta sum to more, in standard deviations of the sum: 4 loses one "
        "true event in 882.",
    ),
    click.option(
        "--max-sum-chance",
        type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
        metavar="CHANCE",
        help="The same bound by the chance to lose a true event: 1e-4 is --max-sum 4.59.",
    ),
    click.option(
        "--ker",
        type=Checked(_window),
        metavar="LOW..HIGH",
        help="Leave out events outside this kinetic energy release, eV.",
    ),
)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of reading; the command takes a function that returns them, `reading`."""
    return option_group(*_READING)(_with_reading(command))


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of reading a run: also which events are left out, and its drift."""
    return option_group(*_READING, *_SELECTION, drift_option)(_with_reading(command))


def _with_reading(command: Callable[..., Any]) -> Callable[..., Any]:
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


def read_noted(path: Path, molecule: Molecule | None = None, reading: Reading | None = None) -> Events:
    """Read all events of a file; say what was concluded of its columns, and which events are left out."""
    from flowcei.events.source import open_events

    source = open_events(path, molecule, reading)
    events = source.read()
    source.log_reading()
    if source.tally.rejected:
        source.keep_tally()
        warn(f"{path.name}: {source.tally}", "left-out")
    return events
