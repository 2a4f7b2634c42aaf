"""Commands that `torchrun` starts as several processes: the first keeps files and tells of the work."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from flowcei.cli.streams import log_to_stderr


@contextmanager
def in_ranks(device: str) -> Iterator[bool]:
    """Join the other ranks of `torchrun`, if there are any; whether this is the first, which alone speaks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from flowcei.training.devices import joined

    with joined(device) as ranks:
        if not ranks.first:
            log_to_stderr(logging.CRITICAL)
        yield ranks.first


def speaks() -> bool:
    """Whether this process says what is wrong for all of its machine, which have the same command line."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
