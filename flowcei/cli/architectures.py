"""Options of architectures: each field of their dataclasses is an option of `flowcei train` by itself."""

from __future__ import annotations

import re
from dataclasses import fields
from inspect import getdoc
from itertools import pairwise

import click

from flowcei.errors import UsageError

_OPTIONS = "flowcei.architecture_options"


class ArchitectureCommand(click.Command):
    """Has the options of the architectures too, those of plug-ins where one is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse its own options, and where others are typed, import the architectures and parse those."""
        own = {name for param in self.params for name in param.opts}
        typed = {word.partition("=")[0] for word in args if word.startswith("-")} - own - {"-", "--"}
        if typed:
            if not typed & set(ctx.help_option_names):  # a bad path is answered before torch is imported
                first = click.Context(self, ctx.parent, ignore_unknown_options=True, allow_extra_args=True)
                super().parse_args(first, list(args))
            pairs = pairwise(" ".join(args).replace("--arch=", "--arch ").split(" "))
            named = dict(pairs).get("--arch", (ctx.default_map or {}).get("arch", "cinn"))
            ctx.meta[_OPTIONS] = architecture_options(named, self.params)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name the architectures."""
        del ctx
        from flowcei.models.registry import architecture_names

        formatter.write_paragraph()
        formatter.write_text(f"Architectures: {', '.join(architecture_names())}.")

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own options and those of architectures, once some are typed or in a configuration."""
        config = ctx.default_map or {}
        if _OPTIONS not in ctx.meta and config.keys() - {param.name for param in self.params}:
            ctx.meta[_OPTIONS] = architecture_options(config.get("arch", "cinn"), self.params)
        return [*super().get_params(ctx), *ctx.meta.get(_OPTIONS, [])]


def architecture_options(architecture: str, own: list[click.Parameter]) -> list[click.Parameter]:
    """Return the options of all architectures of flowcei and of the one that is named.

    Raises:
        UsageError: For an unknown architecture, or one with an option among the command's `own`.
    """
    from flowcei.models.registry import ARCHITECTURES, find_architecture

    named = find_architecture(architecture)
    options: dict[str, click.Option] = {}
    helps: dict[str, list[str]] = {}
    for kind in dict.fromkeys([*ARCHITECTURES.values(), named]):
        for field in fields(kind.options_type):
            name = f"--{field.name.replace('_', '-')}"
            if any(name in param.opts for param in own):
                msg = f"architecture {kind.architecture!r} may not have the option {name} of flowcei train"
                raise UsageError(msg)
            choices = field.metadata.get("choices")
            value = click.Choice(choices) if choices else type(field.default)
            options.setdefault(field.name, click.Option([name], type=value))
            about = re.search(rf"^ +{field.name}: (.*?)\.?$", getdoc(kind.options_type) or "", re.MULTILINE)
            texts = helps.setdefault(field.name, [about[1] if about else ""])
            texts.append(f"{kind.architecture} {field.default}")
    for key, (about_it, *defaults) in helps.items():
        options[key].help = f"{about_it.replace('`', '')} ({', '.join(defaults)})."
    return [*options.values()]
