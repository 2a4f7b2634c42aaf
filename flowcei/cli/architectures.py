"""A command with the options of architectures: each field of theirs is one by itself."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import click

from flowcei.errors import UsageError
from flowcei.models.registry import architecture_names, listed_options, options_type

_NAMED = "flowcei.architecture"


class ArchitectureCommand(click.Command):
    """Has the options of the architectures of flowcei too, and of a plug-in where one is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for the architecture, whose options decide what can be parsed, and parse."""
        words = " ".join(args).replace("--arch=", "--arch ").split(" ")
        named = dict(pairwise(words)).get("--arch", (ctx.default_map or {}).get("arch", "cinn"))
        if named not in listed_options() and not set(args) & set(ctx.help_option_names):
            # What else is wrong is answered before the plug-in, and torch with it, is imported.
            first = click.Context(self, ctx.parent, ignore_unknown_options=True, allow_extra_args=True)
            super().parse_args(first, list(args))
        ctx.meta[_NAMED] = named
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name the architectures."""
        del ctx
        formatter.write_paragraph()
        formatter.write_text(f"Architectures: {', '.join(architecture_names())}.")

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Own options and those of architectures."""
        named = ctx.meta.get(_NAMED) or (ctx.default_map or {}).get("arch", "cinn")
        added, own = architecture_options(named), {name for param in self.params for name in param.opts}
        for name in (param.opts[0] for param in added):
            if name in own:
                raise UsageError(f"architecture {named!r} may not have the option {name} of flowcei train")
        return [*super().get_params(ctx), *added]


def architecture_options(architecture: str) -> tuple[click.Option, ...]:
    """Options of all architectures of flowcei and of the one that is named."""
    added: dict[str, click.Option] = {}
    for name, kind in (listed_options() | {architecture: options_type(architecture)}).items():
        for field in fields(kind):
            choices = field.metadata.get("choices")
            value = click.Choice(choices) if choices else type(field.default)
            new = click.Option([f"--{field.name.replace('_', '-')}"], type=value)
            new.help = field.metadata.get("help", "")
            shared = added.setdefault(field.name, new)
            shared.help += f"{', ' if shared is not new else ' ('}{name} {field.default}"  # type: ignore[operator]
    for shared in added.values():
        shared.help += ")."  # type: ignore[operator]
    return tuple(added.values())
