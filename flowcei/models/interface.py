"""The interface of every inverse model; nothing here knows of molecules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from flowcei.errors import NoDensityError, UsageError
from flowcei.models.options import ModelOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.models.options import Latent

    Single = NDArray[np.float32]


class Simulates(Protocol):
    """The forward problem in the numbers that a model sees, float64."""

    def residual(self, x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Residual (B, R) of x (B, D) as an explanation of c (B, C): 0 where it is one."""

    def jacobian(self, x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Derivative of `residual` by x, (B, R, D)."""


class Sampler(Protocol):
    """What `Reconstructor` asks of a model, in NumPy: an `InverseModel`, or kernels that do without torch."""

    architecture: ClassVar[str]
    has_density: ClassVar[bool]
    has_latent: ClassVar[bool]
    is_point: ClassVar[bool]
    cost: ClassVar[int]

    @property
    def options(self) -> ModelOptions:
        """Options of the architecture."""

    @property
    def device(self) -> object:
        """Where it is: ``cpu``, ``cuda`` ..."""

    def draw(
        self, c: Single, n: int, *, latent: Latent, generator: np.random.Generator
    ) -> tuple[Single, Single | None]:
        """Samples (B, n, D) for conditions (B, C), and their log density (B, n) where it is exact."""

    def density(self, x: Single, c: Single, *, draws: int = 0, seed: int = 0) -> Single:
        """Log density (B,) of x (B, D) given c (B, C); with `draws` of its latents a bound, if it must be."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers by name."""

    def attach(self, simulator: Simulates) -> None:
        """Take the exact simulator."""

    def in_torch(self) -> InverseModel:
        """The same model in torch."""


class InverseModel(nn.Module, ABC):
    """A conditional distribution of x (B, D) given c (B, C), learned from pairs of both.

    Both are standardised numbers without units: `Reconstructor` makes them from momenta and positions and
    turns the answers back.

    Attributes:
        architecture: The name in the registry and on the command line.
        options_type: Its options: a frozen dataclass, each field an option of `flowcei train`.
        has_density: Whether `log_prob` is exact.
        has_latent: Whether samples are made from a latent, which may be one of training.
        is_point: Whether the answer is one x, however many samples are asked for.
        cost: Times that a sample takes longer than one of couplings, roughly: by so much fewer judge it.
        phases: Trainings that follow one another, each with its own loss.
        stored: Buffers with a row per stored training event, which `remember` fills.

    Example:
        >>> from flowcei.models.registry import build_model
        >>> model = build_model("cinn", 6, 5, {"couplings": 2})
        >>> model.architecture, model.has_density, model.phases
        ('cinn', True, 1)
    """

    architecture: ClassVar[str]
    options_type: ClassVar[type[ModelOptions]] = ModelOptions
    has_density: ClassVar[bool] = False
    has_latent: ClassVar[bool] = False
    is_point: ClassVar[bool] = False
    cost: ClassVar[int] = 1
    phases: ClassVar[int] = 1
    stored: ClassVar[tuple[str, ...]] = ()
    recordable: ClassVar[bool] = False  # whether a CUDA graph may replay `loss`: the same kernels every time

    def __init__(self, width: int, condition_width: int, options: ModelOptions) -> None:
        super().__init__()
        self.width = width
        self.condition_width = condition_width
        self.options = options

    @abstractmethod
    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the loss (B,) of each x (B, D) given its condition c (B, C)."""

    @abstractmethod
    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draw `n` samples for each condition.

        Args:
            c: (B, C); its last column says how noisy the others are.
            n: Samples of each.
            latent: ``"prior"`` draws latents from their standard normal, ``"training"``
                from the latents of the training set (the protocol of the first study).
            generator: NumPy's, not torch's: its stream does not depend on how a draw is
                cut into batches.

        Returns:
            Samples (B, n, D), and their log density (B, n) where it is exact, else None.

        Raises:
            UsageError: For latents of training that the model lacks.
        """

    def sample(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> Tensor:
        """Draw `n` samples for each condition: see `sample_with_log_prob`."""
        return self.sample_with_log_prob(c, n, latent=latent, generator=generator)[0]

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the exact log density (B,) of x (B, D) given c (B, C).

        Raises:
            NoDensityError: For architectures without one.
        """
        raise NoDensityError(f"architecture {self.architecture!r} has no exact density")

    @torch.no_grad()
    def draw(
        self, c: Single, n: int, *, latent: Latent, generator: np.random.Generator
    ) -> tuple[Single, Single | None]:
        """`sample_with_log_prob` in NumPy, wherever the model is."""
        x, density = self.sample_with_log_prob(self._here(c), n, latent=latent, generator=generator)
        return x.numpy(force=True), None if density is None else density.numpy(force=True)

    @torch.no_grad()
    def density(self, x: Single, c: Single, *, draws: int = 0, seed: int = 0) -> Single:
        """`log_prob` in NumPy, or with `draws` `iwae_bound`, where that is all there is."""
        of, bound = self.log_prob, getattr(self, "iwae_bound", None)
        if draws and not self.has_density and bound is not None:
            of = partial(bound, draws=draws, generator=np.random.default_rng(seed))
        return of(self._here(x), self._here(c)).numpy(force=True)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers by name, in NumPy; UsageError for a type that this lacks."""
        state = self.state_dict()
        try:
            return {name: tensor.numpy(force=True) for name, tensor in state.items()}
        except TypeError as error:
            raise UsageError(f"weights that cannot be stored: {error}") from error

    def in_torch(self) -> InverseModel:
        """Return itself: see `Sampler`."""
        return self

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(iter(self.state_dict().values())).device

    def _here(self, rows: Single) -> Tensor:
        return torch.from_numpy(rows).to(self.device)

    @torch.no_grad()
    def round_trip_error(self, c: Tensor) -> float:
        """Mean error of samples of a flow on their way back, one for each condition c (B, C).

        Of a sample it is the larger of two: the share by which its density differs from `log_prob`, and the
        distance of its latents from those that come back. Samples, no rows of data: where the flow takes a
        row for next to impossible its slopes magnify the rounding of single precision until it does not
        come back, and no answer depends on it.
        """
        drawn, density = self.sample_with_log_prob(c, 1, generator=np.random.default_rng(0))
        if density is None:
            raise NoDensityError(f"architecture {self.architecture!r} has no exact density")
        flow: Any = self
        x = drawn[:, 0]
        z = flow.encode(x, c)[0]
        moved = (flow.encode(flow.decode(z, c), c)[0] - z).abs().amax(dim=1)
        apart = (density[:, 0] - self.log_prob(x, c)).abs().expm1()
        return float(torch.maximum(moved, apart).mean())

    def begin_phase(self, phase: int) -> None:
        """Make ready for training number `phase`: another loss, other parameters that move."""

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep of training data, (B, D) and (B, C), what no gradient learns; called once, at the end.

        Latents for `latent="training"`, or all that a model without parameters knows.
        """

    def attach(self, simulator: Simulates) -> None:
        """Give the model the exact simulator; most do without."""

    def make_room(self, rows: int) -> None:
        """Make room in the `stored` buffers for those of a saved model, before it is loaded."""
        for name in self.stored:
            module, _, buffer = name.rpartition(".")
            holder = self.get_submodule(module)
            old: Tensor = getattr(holder, buffer)
            setattr(holder, buffer, old.new_zeros(rows, *old.shape[1:]))

    def check_latent(self, latent: Latent) -> None:
        """UsageError for latents of training where there are none."""
        if latent != "prior" and not self.has_latent:
            raise UsageError(
                f"architecture {self.architecture!r} has no latent variables; leave --latent out"
            )

    def check_condition(self, c: Tensor) -> None:
        """ValueError for a condition of another width than the model's."""
        check_width(c, self.condition_width, "the condition")


def check_width(tensor: Tensor, width: int, name: str) -> None:
    """ValueError for a batch that is not (B, width): FrEIA would take it silently."""
    if tensor.ndim != 2 or tensor.shape[1] != width:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected (B, {width})")
