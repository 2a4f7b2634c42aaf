"""The entry point: finds a command by name, imports only that, and ends with its exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import tomllib
import warnings
from contextlib import ExitStack, contextmanager, suppress
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei import __version__
from flowcei.cli.ranks import speaks
from flowcei.cli.streams import complete_streams, log_to_stderr, say, silence, warn
from flowcei.errors import FlowceiError, UsageError, memory_advice

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUPS = {
    "Events": {
        "simulate": "Simulate Coulomb explosions of a molecule.",
        "plan": "How many events reach a wanted error, and under which resolution.",
        "convert": "Turn events of another program into a file of flowcei.",
        "check": "Check whether a data file is sound and can bear a claim.",
        "experiment": "Measure drift, source, resolution and accidents from the events.",
        "plot": "Draw events or samples: Newton plot, KER, angles, structure, ...",
    },
    "Geometries": {
        "sample": "Draw the geometries that explain measured momenta.",
        "spread": "Tabulate and draw how far posterior samples lie apart.",
        "population": "Unfold the law of bonds and angles from the samples of many events.",
        "compare-priors": "Which of some priors are the events of, and which share?",
        "refine": "Refine posterior samples to the exact physics.",
        "modes": "Find every geometry that explains an event, with its probability.",
        "report": "One page of samples, of a run or of a model, to pass on.",
    },
    "Models": {
        "train": "Train a model, on fresh simulations or on a file.",
        "models": "List the models in runs/ with their verdicts.",
        "compare": "Score models beside null models on known positions.",
        "calibrate": "Check whether the posterior of a model is right.",
    },
    "Help": {
        "demo": "All of it on OCS, in minutes, into one folder.",
        "info": "Print what a model, data or sample file, or a molecule, says of itself.",
        "molecules": "List the built-in molecules.",
        "help": "Show the help of a command.",
    },
}
_COMMANDS = {name: text for group in _GROUPS.values() for name, text in group.items()}
_INTERRUPTED = 130
_GRACE = 5.0  # seconds


class _ReaderGone(Exception):  # noqa: N818 (no error)
    """The reader of our output, such as `head`, has seen enough. click would end with 1."""


class _LazyGroup(click.Group):
    """Commands that are imported when they are called."""

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
        return _command(cmd_name) if cmd_name in _COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_spacing=3)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:  # noqa: ANN401 (of click)
        if args and args[0] not in _COMMANDS and (close := get_close_matches(args[0], _COMMANDS, 1)):
            raise click.UsageError(f"no command {args[0]!r}; did you mean {close[0]}?", ctx)
        return super().resolve_command(ctx, args)


@cache
def _command(name: str) -> click.Command:
    """Command of a name; it too has -q and -v, which are described once, in `flowcei --help`."""
    text, name = _COMMANDS[name], name.replace("-", "_")
    command: click.Command = getattr(import_module(f"flowcei.cli.{name}"), name)
    command.short_help = text
    command.params += [click.Option(names, hidden=True, **rest) for names, rest in _VERBOSITY.items()]
    return command


def _set_verbosity(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001 (of click)
    if value:
        if ctx.meta.setdefault("flowcei.verbosity", param.name) != param.name:
            raise UsageError("--quiet or --verbose, not both")
        log_to_stderr(logging.WARNING if param.name == "quiet" else logging.DEBUG)


_FLAG: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
_VERBOSITY: dict[tuple[str, ...], dict[str, Any]] = {
    ("-q", "--quiet"): _FLAG | {"help": "Say nothing but results, warnings and errors."},
    ("-v", "--verbose"): _FLAG | {"help": "Say more: what the library does."},
}


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take defaults from a TOML file with a table for each command: that of the user where none is named."""
    if path is None:
        path = _own_config()
        if not path.is_file():
            return
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file that can be read ({error})") from error
    for name, given in table.items():
        if name not in _COMMANDS or not isinstance(given, dict):
            raise UsageError(f"{path}: {name!r} is not a command; tables are {', '.join(_COMMANDS)}")
        command = _command(name)
        params = command.get_params(click.Context(command, ctx, default_map=given))
        shown = [param for param in params if param.expose_value]
        names = {
            word.lstrip("-"): str(param.name) for param in shown for word in (*param.opts, str(param.name))
        }
        table[name] = {}
        for key, value in given.items():
            if (option := key.replace("_", "-")) not in names and (option := key) not in names:
                there = ", ".join(sorted({param.opts[-1].lstrip("-") for param in shown}))
                raise UsageError(f"{path}: {name} has no option {key!r}; it has {there}")
            table[name][names[option]] = value
    ctx.default_map = table


def _own_config() -> Path:
    """The user's own file of defaults (XDG Base Directory Specification)."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "flowcei" / "config.toml"


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flowcei")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="TOML file with defaults, a table for each command; ~/.config/flowcei/config.toml if absent.",
)
@click.option("-q", "--quiet", **_VERBOSITY["-q", "--quiet"])
@click.option("-v", "--verbose", **_VERBOSITY["-v", "--verbose"])
@click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,  # `main` looks for it, as it tells of errors in the command line too
    help="On an error, show where in the code it happened.",
)
def cli() -> None:
    """Molecular geometries from the ion momenta of Coulomb explosions.

    Event by event: which geometries explain the momenta, with their probability and
    uncertainty. Start with: flowcei demo
    """


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, as of a batch system, be an interrupt like Ctrl-C; in the main thread, which hears it."""
    with ExitStack() as stack:
        with suppress(ValueError):  # not the main thread
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
            stack.callback(signal.signal, signal.SIGTERM, signal.SIG_DFL if before is None else before)
        yield


def main() -> None:
    """Run the command line and leave with its exit code.

    0 done, 1 error, 2 usage, 3 data rejected, 4 training diverged, 5 stopped and resumable,
    130 interrupted.
    """
    complete_streams()
    log_to_stderr()
    trace = "--traceback" in sys.argv or os.environ.get("FLOWCEI_TRACEBACK", "") not in ("", "0")
    leave = partial(_leave, trace=trace)
    try:
        with _stoppable(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: warn(str(message))  # a line, without our code
            cli.main(prog_name="flowcei", standalone_mode=False, auto_envvar_prefix="FLOWCEI")
        sys.stdout.flush()
    except FlowceiError as error:
        leave(error, str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        leave(error, error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        leave(error, "interrupted; nothing was left half-written", _INTERRUPTED)
    except (BrokenPipeError, _ReaderGone):
        pass
    except OSError as error:
        where = f"{error.filename}: " if error.filename else "output cannot be written: "
        leave(error, f"{where}{error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if (advice := memory_advice(error)) is None:
            raise
        leave(error, advice, 1)
    finally:
        silence([sys.stdout, sys.stderr])


def _leave(error: BaseException, message: str, code: int, *, trace: bool) -> None:
    if trace:
        raise error
    if speaks() or isinstance(error, OSError | MemoryError | RuntimeError):
        say(f"flowcei: error: {' '.join(message.split())}")
    else:
        time.sleep(_GRACE)  # torchrun ends all when one is gone: not before the other has spoken
    sys.exit(code)
