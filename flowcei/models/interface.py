"""What every inverse model must do; nothing here knows of molecules.

A model maps a condition c (B, C) to a distribution over x (B, D). Both are standardised
numbers without units: the reconstructor makes them from momenta and positions and turns
the answers back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from flowcei.errors import NoDensityError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Latent = Literal["prior", "training"]


class Simulates(Protocol):
    """The forward problem in the numbers that a model sees, float64."""

    def residual(self, x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far x (B, D) is from explaining c (B, C): (B, R), 0 where it does."""

    def jacobian(self, x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the derivative of `residual` by x, (B, R, D)."""


@dataclass(frozen=True)
class ModelOptions:
    """Options of an architecture: positive numbers, words, true or false, each with a default.

    Subclasses add fields; the words that one may hold stand in its metadata as `choices`.
    """

    @classmethod
    def parse(cls, architecture: str, given: dict[str, Any]) -> ModelOptions:
        """Build the options from those given, defaults for the rest.

        Raises:
            UsageError: For an option the architecture does not have, or a bad value.
        """
        known: dict[str, Any] = {f.name: f for f in fields(cls)}
        for name, value in given.items():
            if name not in known:
                msg = (
                    f"architecture {architecture!r} has no option {name!r}; "
                    f"it has {', '.join(sorted(known)) or 'none'}"
                )
                raise UsageError(msg)
            default, choices = known[name].default, known[name].metadata.get("choices")
            if choices is not None:
                if value not in choices:
                    msg = f"option {name!r} of {architecture!r} is {' or '.join(choices)}; got {value!r}"
                    raise UsageError(msg)
            elif isinstance(default, bool):
                if not isinstance(value, bool):
                    msg = f"option {name!r} of {architecture!r} is true or false; got {value!r}"
                    raise UsageError(msg)
            elif isinstance(value, bool) or not isinstance(value, type(default) | int) or value <= 0:
                msg = f"option {name!r} of {architecture!r} must be positive, like {default}; got {value!r}"
                raise UsageError(msg)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain numbers and words."""
        return asdict(self)


class InverseModel(nn.Module, ABC):
    """A conditional distribution of x given c, learned from pairs of both.

    Attributes:
        architecture: The name in the registry and on the command line.
        has_density: Whether `log_prob` is exact.
        has_latent: Whether samples are made from a latent, which may be one of training.
        is_point: Whether the answer is one x, however many samples are asked for.
        phases: Trainings that follow one another, each with its own loss.
        stored: Buffers with a row per stored training event, which `remember` fills.
    """

    architecture: ClassVar[str]
    options_type: ClassVar[type[ModelOptions]]
    has_density: ClassVar[bool] = False
    has_latent: ClassVar[bool] = False
    is_point: ClassVar[bool] = False
    phases: ClassVar[int] = 1
    stored: ClassVar[tuple[str, ...]] = ()

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
        msg = f"architecture {self.architecture!r} has no exact density"
        raise NoDensityError(msg)

    def begin_phase(self, phase: int) -> None:
        """Make ready for training number `phase`: another loss, other parameters that move."""

    def remember(self, x: Tensor, c: Tensor) -> None:
        """Keep of training data, (B, D) and (B, C), what no gradient learns; called once, at the end.

        Latents for `latent="training"`, or all that a model without parameters knows.
        """

    def make_room(self, rows: int) -> None:
        """Make room in the `stored` buffers for those of a saved model, before it is loaded."""
        for name in self.stored:
            module, _, buffer = name.rpartition(".")
            holder = self.get_submodule(module)
            old: Tensor = getattr(holder, buffer)
            setattr(holder, buffer, old.new_zeros(rows, *old.shape[1:]))

    def attach(self, simulator: Simulates) -> None:
        """Give the model the exact simulator; most do without."""

    def refuse_latent(self, latent: Latent) -> None:
        """Refuse latents of training where there are none.

        Raises:
            UsageError: Where `latent` is not ``"prior"``.
        """
        if latent != "prior" and not self.has_latent:
            msg = f"architecture {self.architecture!r} has no latent variables; leave --latent out"
            raise UsageError(msg)


class PointModel(InverseModel):
    """A model whose answer is one x: subclasses say which with `predict`."""

    is_point: ClassVar[bool] = True

    @abstractmethod
    def predict(self, c: Tensor) -> Tensor:
        """Return the answer (B, D) to c (B, C)."""

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the mean squared error (B,)."""
        check_width(x, self.width, "the target")
        return ((self.predict(c) - x) ** 2).mean(dim=1)

    def sample_with_log_prob(
        self, c: Tensor, n: int, *, latent: Latent = "prior", generator: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Return the one answer `n` times, (B, n, D)."""
        del generator
        self.refuse_latent(latent)
        return self.predict(c)[:, None].repeat(1, n, 1), None


def check_width(tensor: Tensor, width: int, name: str) -> None:
    """Refuse a batch of another width: FrEIA would take it silently.

    Raises:
        ValueError: Saying what came and what was expected.
    """
    if tensor.ndim != 2 or tensor.shape[1] != width:
        msg = f"{name} has shape {tuple(tensor.shape)}; expected (B, {width})"
        raise ValueError(msg)
