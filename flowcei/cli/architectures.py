"""Options of architectures that other packages bring: they are options of `flowcei train` by themselves."""

from __future__ import annotations

from dataclasses import fields

import click

from flowcei.errors import UsageError

__all__ = ["ArchitectureCommand", "plugin_options"]

_ARCH = "flowcei.arch"


class ArchitectureCommand(click.Command):
    """Has the options of the architecture too where that is a plug-in: no list could hold them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note which architecture is named, then parse."""
        for word, following in zip(args, [*args[1:], ""], strict=True):
            if word == "--arch" or word.startswith("--arch="):
                ctx.meta[_ARCH] = word.partition("=")[2] or following
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own options and those of a plug-in that is named."""
        params = super().get_params(ctx)
        return [*params, *plugin_options(ctx.meta.get(_ARCH, ""), params)]


def plugin_options(architecture: str, params: list[click.Parameter]) -> list[click.Parameter]:
    """Return the options of a plug-in that no other architecture has.

    Args:
        architecture: As typed after ``--arch``.
        params: Those that the command has itself.

    Raises:
        UsageError: For one that the command has for something else.
    """
    from flowcei import plugins

    if architecture not in plugins.plugin_names(plugins.ARCHITECTURES):
        return []  # a list of names: nothing is imported for those that come with flowcei
    from flowcei.models.registry import ARCHITECTURES, find_architecture

    shared = {field.name for kind in ARCHITECTURES.values() for field in fields(kind.options_type)}
    options: list[click.Parameter] = []
    for field in fields(find_architecture(architecture).options_type):
        if field.name in shared:
            continue
        if field.name in {param.name for param in params}:
            msg = f"architecture {architecture!r} may not have the option {field.name!r} of flowcei train"
            raise UsageError(msg)
        choices = field.metadata.get("choices")
        kind = click.Choice(choices) if choices else type(field.default)
        name = f"--{field.name.replace('_', '-')}"
        options.append(click.Option([name], type=kind, help=f"Of {architecture} ({field.default})."))
    return options
