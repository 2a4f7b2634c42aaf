"""`fm`: flow matching, an ordinary differential equation from normal noise to the answer.

Y. Lipman et al., "Flow matching for generative modeling", arXiv:2210.02747 (path of optimal transport);
X. Liu, C. Gong and Q. Liu, "Flow straight and fast", arXiv:2209.03003 (rectified flow).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from flowcei.models.interface import InverseModel, check_width
from flowcei.models.networks import log_normal, mlp, rows_of_events, standard_normal
from flowcei.models.options import FMOptions, Latent

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 4096
_ITERATIONS = 200
_ROUNDING = 32.0  # of the last digit


class FlowMatching(InverseModel):
    """A velocity of x, time and condition, learned by regression; x moves with it from time 0 to time 1.

    The steps are those of the implicit midpoint rule, backwards their own inverse, and the density is that of
    the steps, from their whole Jacobian: it belongs to the samples, however few steps there are.
    """

    architecture: ClassVar[str] = "fm"
    options_type = FMOptions
    has_density: ClassVar[bool] = True
    cost: ClassVar[int] = 20

    def __init__(self, width: int, condition_width: int, options: FMOptions) -> None:
        super().__init__(width, condition_width, options)
        hidden, inputs = options.hidden, 1 + condition_width + options.context
        self.condition_net = mlp(condition_width, options.context, hidden, 2)
        self.linear_net = mlp(inputs, width * width + width, hidden, 2)
        self.velocity_net = mlp(width + inputs, width, hidden, options.depth)
        self._times = [_late(k / options.steps) for k in range(options.steps + 1)]

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the squared error (B,) of the velocity at a random time of a straight path from noise to x.

        Validation always has the same noise and times, so that epochs are compared with each other.
        """
        check_width(x, self.width, "the geometry")
        generator = None if self.training else torch.Generator().manual_seed(0)
        z = torch.randn(x.shape, generator=generator).to(x)
        t = _late(torch.rand((len(x), 1), generator=generator).to(x))
        h = torch.cat([t, self._context(c)], dim=1)
        v = self._velocity(t * x + (1.0 - t) * z, h, self.linear_net(h))
        return ((v - (x - z)) ** 2).sum(dim=1)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent z (B, D) of x (B, D) and log|det dz/dx| (B,)."""
        check_width(x, self.width, "the geometry")
        return self._moved(x, self._context(c), 1, self._times[::-1])

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return x (B, D) of the latent z (B, D)."""
        return self._moved(z, self._context(c), 1, self._times)[0]

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the exact log density (B,) of x (B, D) given c (B, C)."""
        z, log_det = self.encode(x, c)
        return log_normal(z) + log_det

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draw `n` samples (B, n, D) and their log density (B, n)."""
        self.check_latent(latent)
        z = standard_normal((len(c) * n, self.width), generator, c)
        x, log_det = self._moved(z, self._context(c), n, self._times)
        return x.reshape(len(c), n, self.width), (log_normal(z) - log_det).reshape(len(c), n)

    def _context(self, c: Tensor) -> Tensor:
        self.check_condition(c)
        return torch.cat([c, self.condition_net(c)], dim=1)

    def _velocity(self, x: Tensor, h: Tensor, linear: Tensor) -> Tensor:
        """Velocity (R, D) of x (R, D) with contexts (R, H), its linear part given as (R, D + D^2)."""
        shift, slope = linear.split([self.width, self.width**2], dim=1)
        turned = (slope.unflatten(1, (self.width, self.width)) @ x[:, :, None])[:, :, 0]
        return self.velocity_net(torch.cat([x, h], dim=1)) + shift + turned

    def _slope(self, x: Tensor, h: Tensor, linear: Tensor) -> Tensor:
        """Derivative of `_velocity` by x, (R, D, D), by the second index.

        Forwards through the layers by hand: a third faster than `torch.func`, whose first use takes a second.
        """
        out = torch.cat([x, h], dim=1)
        slope = torch.eye(out.shape[1])[: self.width].to(x).expand(len(x), -1, -1)
        for layer in self.velocity_net:
            out = layer(out)
            slope = slope @ layer.weight.T if isinstance(layer, nn.Linear) else slope * (out > 0)[:, None]
        return slope + linear[:, self.width :].unflatten(1, (self.width, self.width)).mT

    def _moved(self, x: Tensor, context: Tensor, n: int, times: list[float]) -> tuple[Tensor, Tensor]:
        """Ends of x (R, D), n rows a context (B, H), after these times, and log|det| of that map (R,)."""
        moved, totals = torch.empty_like(x), x.new_zeros(len(x))
        for rows, event in rows_of_events(len(x), n, _CHUNK, x.device):
            place, own = x[rows], context[event[0] : event[-1] + 1]
            for a, b in pairwise(times):
                h = torch.cat([own.new_full((len(own), 1), 0.5 * (a + b)), own], dim=1)
                place, log_det = self._step(place, 0.5 * (b - a), h, event - event[0])
                totals[rows] += log_det
            moved[rows] = place
        return moved, totals

    def _step(self, x: Tensor, half: float, h: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
        """One step from x (R, D) with contexts (B, H), and log|det| (R,); NaN where it has no end.

        Its middle m = x + half v(m) is found by iteration. Where that converges half dv/dm has no eigenvalue
        beyond 1, and the step does not fold.
        """
        linear, h = self.linear_net(h)[event], h[event]
        middle, moving = x, torch.arange(len(x), device=x.device)
        close = _ROUNDING * torch.finfo(x.dtype).eps
        for _ in range(_ITERATIONS):
            old = middle[moving]
            new = x[moving] + half * self._velocity(old, h[moving], linear[moving])
            middle = middle.index_copy(0, moving, new)
            moving = moving[((new - old).abs() > close * (1.0 + new.abs())).any(dim=1)]
            if not len(moving):
                break
        slope = half * self._slope(middle, h, linear)
        one = torch.eye(self.width).to(x)
        log_det = torch.linalg.slogdet(one + slope)[1] - torch.linalg.slogdet(one - slope)[1]
        return (2.0 * middle - x).index_fill(0, moving, torch.nan), log_det.index_fill(0, moving, torch.nan)


def _late(u: Any) -> Any:  # noqa: ANN401 (a number or a tensor)
    """Times in [0, 1], closer together towards the end, where the answer becomes narrow."""
    return 1.0 - (1.0 - u) ** 2
