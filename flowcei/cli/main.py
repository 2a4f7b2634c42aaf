"""The entry point: finds a command by name, imports only that, and ends with its exit code."""

from __future__ import annotations

import logging
import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from flowcei._version import __version__
from flowcei.cli.logs import show_library_log
from flowcei.cli.options import set_quiet
from flowcei.cli.stopping import stoppable
from flowcei.cli.streams import complete_streams, say, silence
from flowcei.errors import FlowceiError, UsageError

_COMMANDS = {
    "simulate": "Simulate Coulomb explosions of a molecule.",
    "convert": "Turn events of another program into a file of flowcei.",
    "check": "Check whether a data file is sound and can bear a claim.",
    "train": "Train a model, on fresh simulations or on a file.",
    "sample": "Draw the geometries that explain measured momenta.",
    "spread": "Tabulate and draw how far posterior samples lie apart.",
    "refine": "Refine posterior samples to the exact physics.",
    "modes": "Find every geometry that explains an event, with its probability.",
    "compare": "Score models beside null models on known positions.",
    "calibrate": "Check whether the posterior of a model is right.",
    "info": "Print what a model, data or sample file says of itself.",
    "demo": "All of it on OCS, in minutes, into one folder.",
}

_INTERRUPTED = 130


class _ReaderGone(Exception):  # noqa: N818 (no error)
    """The reader of our output, such as `head`, has seen enough. click would end with 1."""


class _LazyGroup(click.Group):
    """Commands that are imported when they are called: torch takes seconds."""

    def make_context(self, *words: Any, **rest: Any) -> click.Context:  # noqa: ANN401 (of click)
        try:
            return super().make_context(*words, **rest)
        except BrokenPipeError as error:
            raise _ReaderGone from error

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return getattr(import_module(f"flowcei.cli.{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file with a table for each command."""
    if path is None:
        return
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path}: not a TOML file that can be read ({error})"
        raise UsageError(msg) from error
    for name, options in table.items():
        if name not in _COMMANDS or not isinstance(options, dict):
            msg = f"{path}: {name!r} is not a command; tables are {', '.join(_COMMANDS)}"
            raise UsageError(msg)
        command = ctx.command.get_command(ctx, name)  # type: ignore[attr-defined]
        params = command.get_params(click.Context(command, default_map=options))
        known = {str(p.name) for p in params if p.expose_value}
        for option in options:
            if option not in known:
                msg = f"{path}: {name} has no option {option!r}; it has {', '.join(sorted(known))}"
                raise UsageError(msg)
    ctx.default_map = table


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flowcei")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="TOML file with defaults: a table for each command.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but results, warnings and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say more: what the library does.")
@click.option("--traceback", is_flag=True, help="On an error, show where in the code it happened.")
def cli(*, quiet: bool, verbose: bool, traceback: bool) -> None:  # noqa: ARG001 (main looks for it)
    """Molecular geometries from the ion momenta of Coulomb explosions.

    Event by event: which geometries explain the momenta, with their probability and
    uncertainty. Start with: flowcei demo
    """
    if quiet and verbose:
        msg = "--quiet or --verbose, not both"
        raise UsageError(msg)
    if quiet:
        set_quiet()
        show_library_log(logging.WARNING)
    if verbose:
        show_library_log(logging.DEBUG)


def main() -> None:
    """Run the command line and leave with its exit code.

    0 done, 1 error, 2 usage, 3 data rejected, 4 training diverged, 5 stopped and resumable,
    130 interrupted.
    """
    complete_streams()
    show_library_log()
    trace = "--traceback" in sys.argv or os.environ.get("FLOWCEI_TRACEBACK", "") not in ("", "0")
    try:
        with stoppable():
            cli.main(prog_name="flowcei", standalone_mode=False, auto_envvar_prefix="FLOWCEI")
        sys.stdout.flush()
    except FlowceiError as error:
        _leave(error, str(error), error.exit_code, trace=trace)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _leave(error, error.format_message(), error.exit_code, trace=trace)
    except (KeyboardInterrupt, click.Abort) as error:
        _leave(error, "interrupted; nothing was left half-written", _INTERRUPTED, trace=trace)
    except (BrokenPipeError, _ReaderGone):
        pass
    except OSError as error:
        where = f"{error.filename}: " if error.filename else "output cannot be written: "
        _leave(error, f"{where}{error.strerror or error}", 1, trace=trace)
    except MemoryError as error:
        _leave(error, "out of memory; use fewer events or samples", 1, trace=trace)
    finally:
        silence([sys.stdout, sys.stderr])


def _leave(error: BaseException, message: str, code: int, *, trace: bool) -> None:
    if trace:
        raise error
    say(f"flowcei: error: {' '.join(message.split())}")
    sys.exit(code)
