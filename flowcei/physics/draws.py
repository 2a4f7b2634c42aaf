"""Random numbers, many at once: the stream of a generator gives a key, the key all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    Floats = NDArray[np.float64]


def fresh_key(rng: np.random.Generator) -> NDArray[np.uint64]:
    """The next key (2,) of a stream."""
    return rng.integers(0, 2**64, 2, np.uint64)


def standard_normal(shape: Sequence[int], rng: np.random.Generator) -> Floats:
    """Independent standard normal numbers of a shape, faster than NumPy's.

    None is beyond 8.6: between 0 and 1 the logarithm of Box and Muller begins at 2^-53.

    Example:
        >>> standard_normal((2, 3), np.random.default_rng(0)).shape
        (2, 3)
    """
    # Imported here: numba takes half a second, and a prior can be named without it.
    from flowcei.physics._random import draw_normal

    out = np.empty(shape)
    draw_normal(fresh_key(rng), out.reshape(-1))
    return out
