"""How the kernels are compiled, and the folder of compiled code: see docs/decisions/0010."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ClassVar

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.runtime import rtsys

from flowcei.storage.kernels import cache_folder, source_digest

_log = logging.getLogger("flowcei")
_LONGEST = 120.0  # seconds that one process waits for another to compile a kernel
_PAUSE = 0.05


class _Locator(_CacheLocator):
    """Where numba looks for a kernel."""

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def ensure_cache_path(self) -> None:
        # What is stored is code: nobody else may write it.
        cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_source_stamp(self) -> str:
        return source_digest()

    def get_disambiguator(self) -> str:
        return ""

    @classmethod
    def from_function(cls, _function, _file) -> _Locator:
        return cls()


class _Implementation(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


@cache
def _announce() -> None:
    """Say once in a process what is waited for."""
    _log.info("compiling the simulator or the flow: some seconds, stored for the next run")


def _lock(file: int) -> None:
    """Lock an open file or folder, until it is closed; after `_LONGEST` go on without.

    Who has it may be stopped, and not end for days. A file system may have no locks: none is waited for.
    """
    end = time.monotonic() + _LONGEST
    with suppress(OSError):
        while time.monotonic() < end:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE)
    return None


class _KernelCache(FunctionCache):
    """A cache that can fail without harm."""

    _impl_class = _Implementation

    def __init__(self, function) -> None:
        super().__init__(function)
        self._claims: dict[Any, int] = {}

    def load_overload(self, sig, target_context) -> Any:
        overload = self._stored(sig, target_context)
        if overload is None:
            _announce()
            self._claim(sig)
            overload = self._stored(sig, target_context)  # another process may have compiled it meanwhile
            if overload is not None:
                self._release(sig)
        return overload

    def _stored(self, sig, target_context) -> Any:
        try:
            rtsys.initialize(target_context)  # alone: numba's own way imports what only compiling needs
            return self._load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001 - whatever a damaged file raises, compiling is right
            _log.debug("damaged kernels in %s are made again: %s", self.cache_path, error)
            with suppress(OSError):
                self.flush()
        return None

    def _claim(self, sig) -> None:
        """Wait until no other process compiles this; without a folder or locks nothing is waited for."""
        with suppress(OSError):
            self._impl.locator.ensure_cache_path()
            claim = os.open(self._claim_path(sig), os.O_CREAT | os.O_RDWR, 0o600)
            self._claims[sig] = claim
            _lock(claim)

    def _release(self, sig) -> None:
        if (claim := self._claims.pop(sig, None)) is not None:
            with suppress(OSError):
                os.unlink(self._claim_path(sig))  # noqa: PTH108 - as it was opened
            os.close(claim)

    def _claim_path(self, sig) -> str:
        name = f"{self._impl.filename_base} {sig}"
        return f"{self.cache_path}/{hashlib.sha256(name.encode()).hexdigest()[:16]}.claim"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the folder: of two that store at once, each would forget what the other does."""
        folder = os.open(self.cache_path, os.O_RDONLY)
        try:
            _lock(folder)
            yield
        finally:
            os.close(folder)

    def save_overload(self, sig, data) -> None:
        try:
            self._impl.locator.ensure_cache_path()
            with self._alone():
                super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            _log.warning(
                "compiled code cannot be stored in %s (%s): every start will compile anew; "
                "set FLOWCEI_CACHE_DIR to a folder that can be written",
                self.cache_path,
                error.strerror or error,
            )
        finally:
            self._release(sig)


class _Library(JITCodeLibrary):
    """LLVM's share of the work on a kernel: what it calls is taken in, and all is optimised once, together.

    numba optimises each function, and again wherever it is called. Loops are not vectorised: what is hot are
    rows of lanes, vectors already (`flowcei.physics._lanes`), and the others become many times as long.
    """

    def _optimize_functions(self, ll_module) -> None:
        ll_module.data_layout = str(self._codegen.target_data)

    def _optimize_final_module(self) -> None:
        passes = self._codegen._module_pass_manager  # noqa: SLF001
        manager, builder = passes(loop_vectorize=False)
        manager.run(self._final_module, builder)


class _Source(_Library):
    """The LLVM code of a function that becomes part of kernels: of its own it needs no machine code."""

    codegen = property(lambda self: self)  # whom numba tells where the constants of machine code are

    def _optimize_final_module(self) -> None:
        """Nothing: done where it is called."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, _name) -> int:
        return 0

    def set_env(self, _name, _env) -> None:
        """Nothing."""


class _KernelCompiler(Compiler):
    """numba's compiler with LLVM's share as above."""

    library: ClassVar[type[_Library]] = _Library

    def compile_extra(self, func) -> Any:
        collecting = gc.isenabled()
        gc.disable()  # a tenth of compiling would go into looking through what it makes
        try:
            return super().compile_extra(func)
        finally:
            if collecting:
                gc.enable()

    def define_pipelines(self) -> list:
        self.state.library = self.library(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super().define_pipelines()


class _FunctionCompiler(_KernelCompiler):
    """The same for what kernels call."""

    library = _Source


_OPTIONS = {"nogil": True, "error_model": "numpy"}


def compiled(function) -> Any:
    """Compile a function that kernels call; it becomes part of each of them."""
    # Entries for Python would take a quarter of all compiling: a call from there ends the process.
    options = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True, **_OPTIONS}
    return njit(pipeline_class=_FunctionCompiler, forceinline=True, **options)(function)


def kernel(function) -> Any:
    """Compile a function that Python calls, once for each number of ions and precision, and store it."""
    dispatcher = njit(pipeline_class=_KernelCompiler, **_OPTIONS)(function)
    dispatcher._cache = _KernelCache(function)  # noqa: SLF001 - what cache=True would do, with our cache
    # Else the first call imports what extends numba, such as awkward: to load compiled code needs none of it.
    dispatcher._compilation_chain_init_hook = lambda: None  # noqa: SLF001
    return dispatcher
