"""Every architecture by name: a new one is a file of its own and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowcei.errors import UsageError
from flowcei.models.ae_cvae import AECVAE
from flowcei.models.cinn import CINN
from flowcei.models.cvae import CVAE
from flowcei.models.latent_cinn import LatentCINN
from flowcei.models.nulls import Marginal, Mean, Nearest
from flowcei.models.point import MLP
from flowcei.models.solver import Solver

if TYPE_CHECKING:
    from flowcei.models.interface import InverseModel, ModelOptions

__all__ = ["ARCHITECTURES", "build_model", "parse_options"]

ARCHITECTURES: dict[str, type[InverseModel]] = {
    model.architecture: model
    for model in (
        CINN,
        LatentCINN,
        CVAE,
        AECVAE,
        MLP,
        Solver,
        Nearest,
        Mean,
        Marginal,
    )
}
"""Name on the command line -> class."""


def build_model(
    architecture: str, width: int, condition_width: int, options: dict[str, Any] | None = None
) -> InverseModel:
    """Return an untrained model.

    Args:
        architecture: A name in `ARCHITECTURES`.
        width: Width D of x.
        condition_width: Width C of the condition.
        options: Options of the architecture; defaults for those not given.

    Raises:
        UsageError: For an unknown architecture or option.

    Example:
        >>> build_model("cinn", 6, 5, {"couplings": 2}).has_density
        True
    """
    parsed = parse_options(architecture, options or {})
    return ARCHITECTURES[architecture](width, condition_width, parsed)


def parse_options(architecture: str, given: dict[str, Any]) -> ModelOptions:
    """Return all options of an architecture: those given, and defaults.

    Raises:
        UsageError: For an unknown architecture or option.

    Example:
        >>> parse_options("mlp", {"hidden": 8}).to_dict()["hidden"]
        8
    """
    if architecture not in ARCHITECTURES:
        msg = f"no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}"
        raise UsageError(msg)
    return ARCHITECTURES[architecture].options_type.parse(architecture, given)
