"""`flowcei help`."""

from __future__ import annotations

import click


@click.command()
@click.argument("command", required=False)
@click.pass_context
def help(ctx: click.Context, *, command: str | None) -> None:  # noqa: A001 (the name of the command)
    """Show the help of COMMAND, or of flowcei."""
    ctx.find_root().command.main(
        [*([command] if command else []), "--help"], "flowcei", standalone_mode=False
    )
