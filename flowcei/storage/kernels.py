"""The folder of compiled kernels: what can be told without numba (see `_compilation`)."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path


def cache_folder() -> Path:
    """Folder of compiled kernels: `FLOWCEI_CACHE_DIR`, else one in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("FLOWCEI_CACHE_DIR") or Path(base) / "flowcei") / "kernels"


@cache
def source_digest() -> str:
    """Of all kernels: numba's own stamp would not notice a change in a file that a kernel calls."""
    sources = sorted(Path(__file__).parents[1].rglob("_*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
