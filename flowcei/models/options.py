"""The options of every architecture, without torch: the command line imports them before anything else."""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

from flowcei.errors import UsageError

Latent = Literal["prior", "training"]


def option(default: Any, about: str, *choices: str) -> Any:  # noqa: ANN401 (a field is of any type)
    """Field of an architecture's options: its default, its help, and the words that it may hold."""
    return field(default=default, metadata={"help": about, "choices": choices})


@dataclass(frozen=True)
class ModelOptions:
    """Options of an architecture: positive numbers, words, true or false, each with a default.

    Subclasses add fields, each a `dataclasses.field` or an `option`, whose help `flowcei train` shows.

    Attributes:
        loss: What the loss is, with its unit, for who reads its mean; nothing where nobody said.
        whitened: Whether near an equilibrium charts are whitened for it, which takes an exact density.
        wide: Defaults of others of its options where a prior is wide, and charts are whitened.
        few: Those of three ions near an equilibrium, whose whitened charts leave little to learn.
    """

    loss: ClassVar[str] = ""
    whitened: ClassVar[bool] = False
    wide: ClassVar[dict[str, Any]] = {}
    few: ClassVar[dict[str, Any]] = {}

    @classmethod
    def parse(cls, architecture: str, given: dict[str, Any]) -> Self:
        """Options from those given and defaults; UsageError for an unknown name or a bad value."""
        options: dict[str, Field] = {f.name: f for f in fields(cls)}
        for name, value in given.items():
            if name not in options:
                names = ", ".join(sorted(options)) or "none"
                raise UsageError(f"architecture {architecture!r} has no option {name!r}; it has {names}")
            if expected := _expected(options[name], value):
                raise UsageError(f"option {name!r} of {architecture!r} {expected}; got {value!r}")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Options as plain numbers and words."""
        return asdict(self)


def _expected(option: Field, value: object) -> str:
    """What an option must be, where a value is not that."""
    choices, default = option.metadata.get("choices"), option.default
    if choices:
        return "" if value in choices else f"is {' or '.join(choices)}"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "is true or false"
    numbers = (int,) if isinstance(default, int) else (int, float)
    positive = not isinstance(value, bool) and isinstance(value, numbers) and value > 0
    return "" if positive else f"must be positive, like {default}"


_NLL = "negative log density (nat)"
_BOUND = "bound on the negative log density (nat)"
_DECODER_NOISE = option(
    "learned", '"learned", or "fixed": the fixed weight of the first study', "learned", "fixed"
)


@dataclass(frozen=True)
class CINNOptions(ModelOptions):
    """Options of `cinn`."""

    loss: ClassVar[str] = _NLL
    whitened: ClassVar[bool] = True
    # CHBrClF 0.72 / 0.19 where affine ones have 0.54 / 0.09; twice as many take thrice as long to sample.
    wide: ClassVar[dict[str, Any]] = {"couplings": 4, "coupling": "spline", "hidden": 128, "bins": 4}
    # OCS has the same efficiency with 64, water too, and takes twice as long to sample.
    few: ClassVar[dict[str, Any]] = {"hidden": 32}

    couplings: int = option(8, "Number of couplings")
    coupling: str = option("glow", '"glow" (affine) or "spline" (rational-quadratic)', "glow", "spline")
    hidden: int = option(64, "Width of their subnets")
    depth: int = option(2, "Hidden layers of their subnets")
    context: int = option(16, "Width of the conditional subnet's output")
    bins: int = option(8, "Of each spline")


@dataclass(frozen=True)
class CVAEOptions(ModelOptions):
    """Options of `cvae` and `ae-cvae`."""

    loss: ClassVar[str] = _BOUND
    latent: int = option(6, "Width of the latents")
    hidden: int = option(256, "Width of the networks")
    depth: int = option(3, "Hidden layers of the networks")
    decoder_noise: str = _DECODER_NOISE


@dataclass(frozen=True)
class LatentCINNOptions(ModelOptions):
    """Options of `latent-cinn`."""

    loss: ClassVar[str] = _BOUND
    couplings: int = option(8, "Number of GLOW couplings")
    latent: int = option(6, "Width of the latent, 2 or more")
    hidden: int = option(128, "Width of all networks")
    depth: int = option(2, "Hidden layers of encoder and decoder")
    context: int = option(32, "Width of the conditional network's output")
    decoder_noise: str = _DECODER_NOISE


@dataclass(frozen=True)
class FMOptions(ModelOptions):
    """Options of `fm`."""

    loss: ClassVar[str] = "squared error of the velocity"
    steps: int = option(12, "Steps of the flow from noise to a sample")
    hidden: int = option(128, "Width of the networks")
    depth: int = option(3, "Hidden layers of the velocity")
    context: int = option(16, "Width of the conditional network's output")


@dataclass(frozen=True)
class MLPOptions(ModelOptions):
    """Options of `mlp`."""

    loss: ClassVar[str] = "mean squared error"
    hidden: int = option(256, "Width of the network")
    depth: int = option(3, "Hidden layers")


@dataclass(frozen=True)
class SolverOptions(ModelOptions):
    """Options of `solver`."""

    starts: int = option(20, "Searches an event")
    steps: int = option(40, "Of each, at the most")


@dataclass(frozen=True)
class NearestOptions(ModelOptions):
    """Options of `nearest`."""

    neighbours: int = option(1, "Rows whose mean is the answer; 1 is the look-up table")
