"""`--workers` and `--cluster`: whom a command shares its work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from flowcei.cli.options import gathered, option, option_group
from flowcei.workers.order import check_sharing, each_of

if TYPE_CHECKING:
    from flowcei.cli.options import Decorator
    from flowcei.workers.order import Each


@dataclass(frozen=True)
class Sharing:
    """The options."""

    workers: int
    cluster: str | None

    def __post_init__(self) -> None:
        check_sharing(self.workers, self.cluster)

    def each(self, *modules: str) -> Each:
        """What maps a function over blocks, until the command ends; workers begin to import at once."""
        return click.get_current_context().with_resource(each_of(self.workers, self.cluster, modules))

    @property
    def shared(self) -> bool:
        """Whether anybody is to share the work."""
        return self.workers > 1 or self.cluster is not None

    def words(self) -> list[str]:
        """The options as they are typed."""
        cluster = [] if self.cluster is None else ["--cluster", self.cluster]
        return cluster + (["--workers", str(self.workers)] if self.workers > 1 else [])


def sharing_options(command: Decorator) -> Decorator:
    """Add `--workers` and `--cluster`; the command takes them as `sharing`."""
    group = option_group(
        option(
            "--workers",
            "Processes of this machine that share the work; the result is the same.",
            click.IntRange(1, 1024),
            default=1,
        ),
        option(
            "--cluster",
            "Instead: the workers of a scheduler of Dask, such as tcp://10.0.0.1:8786 (docs/scaling.md).",
            metavar="ADDRESS",
        ),
    )
    return group(gathered(Sharing, "sharing")(command))
