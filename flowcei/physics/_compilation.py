"""How the kernels are compiled, and where the compiled code is kept.

numba's own cache looks only at the file of the function it keeps: a change in a file that
this one calls would go unnoticed. It also refuses to work at all where it finds no folder
that can be written. Here one folder holds the kernels of all users of an account's flowcei,
its key covers the sources of every kernel, and where the folder fails, so does only the
keeping.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

_log = logging.getLogger("flowcei")


def cache_folder() -> Path:
    """Return the folder of compiled kernels: `FLOWCEI_CACHE_DIR`, else one in the user's cache.

    Example:
        >>> cache_folder().name
        'kernels'
    """
    given = os.environ.get("FLOWCEI_CACHE_DIR")
    if given:
        return Path(given) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~").expanduser() / ".cache") / "flowcei" / "kernels"


@cache
def _source_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("_*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Locator(_CacheLocator):
    """Where numba looks for a kernel."""

    def get_cache_path(self):
        return str(cache_folder())

    def ensure_cache_path(self):
        # What is kept is code: nobody else may write it.
        Path(self.get_cache_path()).mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_source_stamp(self):
        return _source_digest()

    def get_disambiguator(self):
        return ""

    @classmethod
    def from_function(cls, _function, _file):
        return cls()


class _Implementation(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


@cache
def _announce() -> None:
    """Say once in a process what is waited for."""
    _log.info("compiling the simulator for this number of ions: some seconds, stored for the next run")


class _KernelCache(FunctionCache):
    """A cache that can fail without harm."""

    _impl_class = _Implementation

    def load_overload(self, sig, target_context):
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001 - whatever a damaged file raises, compiling is right
            _log.debug("damaged kernels in %s are made again: %s", self.cache_path, error)
            found = None
            with suppress(OSError):
                self.flush()
        if found is None:
            _announce()
        return found

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            _log.warning(
                "compiled code cannot be stored in %s (%s): every start will compile anew; "
                "set FLOWCEI_CACHE_DIR to a folder that can be written",
                self.cache_path,
                error.strerror or error,
            )


def compiled(function):
    """Compile a function that kernels call; it becomes part of each of them."""
    return njit(nogil=True, error_model="numpy", forceinline=True)(function)


def kernel(function):
    """Compile a function that Python calls, once for each number of ions and precision, and keep it."""
    dispatcher = njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _KernelCache(function)  # noqa: SLF001 - what cache=True would do, with our cache
    return dispatcher
