"""Monotone rational-quadratic splines: flexible invertible functions of one variable.

C. Durkan, A. Bekasov, I. Murray and G. Papamakarios, "Neural spline flows", NeurIPS 2019;
J. A. Gregory and R. Delbourgo, IMA J. Numer. Anal. 2, 123 (1982). Inside [-bound, bound]
K bins with positive slopes at the knots, outside the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from flowcei.models.stack import LEAST_BIN, LEAST_SLOPE, UNIT


def parameter_count(bins: int) -> int:
    """Numbers that describe a spline: widths, heights and inner slopes."""
    return 3 * bins - 1


def spline(x: Tensor, parameters: Tensor, *, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Value (B, D) and log slope dy/dx (B, D) of a spline, or of its inverse, at every element of x (B, D).

    `parameters` are any numbers (B, D, 3 K - 1); all zero is the identity.
    """
    inside = x.abs() < bound
    v = torch.where(inside, x, torch.zeros_like(x))
    bins = (parameters.shape[-1] + 1) // 3
    width, height, slope = parameters.split([bins, bins, bins - 1], dim=-1)
    left, wide = _knots(width, bound)
    low, high = _knots(height, bound)
    slopes = pad(LEAST_SLOPE + softplus(slope + UNIT), (1, 1), value=1.0)
    edges = low if inverse else left
    k = (edges[..., 1:] <= v[..., None]).sum(dim=-1, keepdim=True)
    table = torch.stack([left, wide, low, high, slopes[..., :-1], slopes[..., 1:]])
    x0, w, y0, h, d0, d1 = table.gather(-1, k.expand(6, *k.shape))[..., 0]
    s = h / w
    curve = d0 + d1 - 2.0 * s
    theta = _root(v - y0, h, s, d0, curve) if inverse else (v - x0) / w
    flat = theta * (1.0 - theta)
    below = s + curve * flat
    out = x0 + theta * w if inverse else y0 + h * (s * theta**2 + d0 * flat) / below
    rise = s**2 * (d1 * theta**2 + 2.0 * s * flat + d0 * (1.0 - theta) ** 2) / below**2
    log_slope = -rise.log() if inverse else rise.log()
    return torch.where(inside, out, x), torch.where(inside, log_slope, torch.zeros_like(x))


def _knots(raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Left ends (..., K) and sizes (..., K) of bins that fill [-bound, bound]."""
    share = LEAST_BIN + (1.0 - LEAST_BIN * raw.shape[-1]) * raw.softmax(dim=-1)
    size = 2.0 * bound * share
    return pad(size.cumsum(dim=-1)[..., :-1], (1, 0)) - bound, size


def _root(rise: Tensor, h: Tensor, s: Tensor, d0: Tensor, curve: Tensor) -> Tensor:
    """Solution theta of the quadratic of a bin, in the form that does not cancel."""
    a = h * (s - d0) + rise * curve
    b = h * d0 - rise * curve
    c = -s * rise
    root = (b * b - 4.0 * a * c).clamp_min(0.0).sqrt()
    return (2.0 * c / (-b - root)).clamp(0.0, 1.0)
