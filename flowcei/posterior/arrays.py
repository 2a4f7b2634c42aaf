"""Short names of array types, for annotations."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Reals: TypeAlias = NDArray[np.floating]
Bools: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = NDArray[np.intp]
Numbers: TypeAlias = NDArray[np.int64]
