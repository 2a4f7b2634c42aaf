"""The compiled rotation of many geometries, each by its own quaternion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowcei.physics._compilation import kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@kernel
def rotate(
    positions: NDArray[np.float64], quaternions: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Write positions (B, N, 3), turned by quaternions (B, 4) of any length, to `out`.

    x' = x + 2 w (u x x) + 2 u x (u x x) over the squared length, for a quaternion (u, w).
    """
    for b in range(len(positions)):
        a, e, c, w = quaternions[b, 0], quaternions[b, 1], quaternions[b, 2], quaternions[b, 3]
        scale = 2.0 / (a * a + e * e + c * c + w * w)
        for i in range(positions.shape[1]):
            x, y, z = positions[b, i, 0], positions[b, i, 1], positions[b, i, 2]
            p, q, r = e * z - c * y, c * x - a * z, a * y - e * x
            out[b, i, 0] = x + scale * (w * p + e * r - c * q)
            out[b, i, 1] = y + scale * (w * q + c * p - a * r)
            out[b, i, 2] = z + scale * (w * r + a * q - e * p)
