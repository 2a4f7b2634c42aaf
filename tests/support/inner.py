"""Functions of kernels, called from Python."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable


@cache
def from_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls a function that is `compiled` for kernels: alone it has no entry for Python."""

    @njit
    def call(*given):  # noqa: ANN002, ANN202 - numba's types
        return function(*given)

    return call
