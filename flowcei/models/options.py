"""The options of every architecture, without torch: the command line imports them before anything else."""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

from flowcei import plugins
from flowcei.errors import UsageError

_DECODER_NOISE = ("learned", "fixed")


@dataclass(frozen=True)
class ModelOptions:
    """Options of an architecture: positive numbers, words, true or false, each with a default.

    Subclasses add fields; the words that one may hold stand in its metadata as `choices`.
    """

    @classmethod
    def parse(cls, architecture: str, given: dict[str, Any]) -> ModelOptions:
        """Options from those given and defaults; UsageError for an unknown name or a bad value."""
        options: dict[str, Field] = {f.name: f for f in fields(cls)}
        for name, value in given.items():
            if name not in options:
                there = ", ".join(sorted(options)) or "none"
                raise UsageError(f"architecture {architecture!r} has no option {name!r}; it has {there}")
            wanted = _expected(options[name], value)
            if wanted:
                raise UsageError(f"option {name!r} of {architecture!r} {wanted}; got {value!r}")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Options as plain numbers and words."""
        return asdict(self)


def _expected(option: Field, value: object) -> str:
    """What an option must be, where a value is not that."""
    choices, default = option.metadata.get("choices"), option.default
    if choices is not None:
        return "" if value in choices else f"is {' or '.join(choices)}"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "is true or false"
    numbers = (int,) if isinstance(default, int) else (int, float)
    positive = not isinstance(value, bool) and isinstance(value, numbers) and value > 0
    return "" if positive else f"must be positive, like {default}"


@dataclass(frozen=True)
class CINNOptions(ModelOptions):
    """Options of `cinn`.

    Attributes:
        couplings: Number of couplings.
        coupling: ``"glow"`` (affine) or ``"spline"`` (rational-quadratic).
        hidden: Width of their subnets.
        depth: Hidden layers of their subnets.
        context: Width of the conditional subnet's output.
        bins: Of each spline.
    """

    couplings: int = 8
    coupling: str = field(default="glow", metadata={"choices": ("glow", "spline")})
    hidden: int = 64
    depth: int = 2
    context: int = 16
    bins: int = 8


@dataclass(frozen=True)
class LatentCINNOptions(ModelOptions):
    """Options of `latent-cinn`.

    Attributes:
        couplings: Number of GLOW couplings.
        latent: Width of the latent, 2 or more.
        hidden: Width of all networks.
        depth: Hidden layers of encoder and decoder.
        context: Width of the conditional network's output.
        decoder_noise: ``"learned"``, or ``"fixed"``: the fixed weight of the first study.
    """

    couplings: int = 8
    latent: int = 6
    hidden: int = 128
    depth: int = 2
    context: int = 32
    decoder_noise: str = field(default="learned", metadata={"choices": _DECODER_NOISE})


@dataclass(frozen=True)
class CVAEOptions(ModelOptions):
    """Options of `cvae` and `ae-cvae`.

    Attributes:
        latent: Width of the latents.
        hidden: Width of the networks.
        depth: Hidden layers of the networks.
        decoder_noise: ``"learned"``, or ``"fixed"``: the fixed weight of the first study.
    """

    latent: int = 6
    hidden: int = 256
    depth: int = 3
    decoder_noise: str = field(default="learned", metadata={"choices": _DECODER_NOISE})


@dataclass(frozen=True)
class MLPOptions(ModelOptions):
    """Options of `mlp`.

    Attributes:
        hidden: Width of the network.
        depth: Hidden layers.
    """

    hidden: int = 256
    depth: int = 3


@dataclass(frozen=True)
class SolverOptions(ModelOptions):
    """Options of `solver`.

    Attributes:
        starts: Searches an event.
        steps: Of each, at the most.
    """

    starts: int = 20
    steps: int = 40


@dataclass(frozen=True)
class NearestOptions(ModelOptions):
    """Options of `nearest`.

    Attributes:
        neighbours: Rows whose mean is the answer; 1 is the look-up table.
    """

    neighbours: int = 1


OPTIONS: dict[str, type[ModelOptions]] = {
    "cinn": CINNOptions,
    "latent-cinn": LatentCINNOptions,
    "cvae": CVAEOptions,
    "ae-cvae": CVAEOptions,
    "mlp": MLPOptions,
    "solver": SolverOptions,
    "nearest": NearestOptions,
    "mean": ModelOptions,
    "marginal": ModelOptions,
}
"""Name of an architecture on the command line -> its options, of those that come with flowcei."""


def architecture_names() -> tuple[str, ...]:
    """Names of all architectures, of flowcei and of plug-ins."""
    return (*OPTIONS, *plugins.plugin_names(plugins.ARCHITECTURES))


def check_architecture(name: str) -> None:
    """Refuse an unknown name."""
    if name not in architecture_names():
        raise UsageError(f"no architecture {name!r}; there are {', '.join(architecture_names())}")
