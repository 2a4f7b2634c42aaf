"""Every architecture by name: a new one is a file of its own and a line here, or a plug-in."""

from __future__ import annotations

from typing import Any

from flowcei import plugins
from flowcei.errors import UsageError
from flowcei.models.ae_cvae import AECVAE
from flowcei.models.cinn import CINN
from flowcei.models.cvae import CVAE
from flowcei.models.interface import InverseModel
from flowcei.models.latent_cinn import LatentCINN
from flowcei.models.nulls import Marginal, Mean, Nearest
from flowcei.models.point import MLP
from flowcei.models.solver import Solver

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
"""Name on the command line -> class, of those that come with flowcei."""


def architecture_names() -> tuple[str, ...]:
    """Return the names of all architectures, of flowcei and of plug-ins."""
    return (*ARCHITECTURES, *plugins.plugin_names(plugins.ARCHITECTURES))


def find_architecture(name: str) -> type[InverseModel]:
    """Return the class of an architecture, of flowcei or of a plug-in.

    Raises:
        UsageError: For an unknown name, or a plug-in that is no architecture of that name.

    Example:
        >>> find_architecture("mlp").__name__
        'MLP'
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    kind = plugins.load_plugin(plugins.ARCHITECTURES, name)
    if kind is None:
        msg = f"no architecture {name!r}; there are {', '.join(architecture_names())}"
        raise UsageError(msg)
    if not (isinstance(kind, type) and issubclass(kind, InverseModel) and kind.architecture == name):
        msg = f"plug-in {name!r} is no subclass of InverseModel with architecture = {name!r}"
        raise UsageError(msg)
    return kind


def build_model(
    architecture: str, width: int, condition_width: int, options: dict[str, Any] | None = None
) -> InverseModel:
    """Return an untrained model.

    Args:
        architecture: A name in `ARCHITECTURES`, or of a plug-in.
        width: Width D of x.
        condition_width: Width C of the condition.
        options: Options of the architecture; defaults for those not given.

    Raises:
        UsageError: For an unknown architecture or option.

    Example:
        >>> build_model("cinn", 6, 5, {"couplings": 2}).has_density
        True
    """
    kind = find_architecture(architecture)
    return kind(width, condition_width, kind.options_type.parse(architecture, options or {}))
