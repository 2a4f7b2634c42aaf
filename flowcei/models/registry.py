"""Every architecture by name: a new one is a file of its own, its options and a line here, or a plug-in."""

from __future__ import annotations

from typing import Any

from flowcei import plugins
from flowcei.errors import UsageError
from flowcei.models.baselines import MLP, Marginal, Mean, Nearest
from flowcei.models.cinn import CINN
from flowcei.models.interface import InverseModel
from flowcei.models.latent_cinn import LatentCINN
from flowcei.models.options import check_architecture
from flowcei.models.solver import Solver
from flowcei.models.variational import AECVAE, CVAE

_MODELS = (CINN, LatentCINN, CVAE, AECVAE, MLP, Solver, Nearest, Mean, Marginal)

ARCHITECTURES: dict[str, type[InverseModel]] = {model.architecture: model for model in _MODELS}
"""Name on the command line -> class, of those that come with flowcei."""


def find_architecture(name: str) -> type[InverseModel]:
    """Class of an architecture, of flowcei or of a plug-in; UsageError for an unknown name."""
    check_architecture(name)
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    kind = plugins.load_plugin(plugins.ARCHITECTURES, name)
    if not (isinstance(kind, type) and issubclass(kind, InverseModel) and kind.architecture == name):
        raise UsageError(f"plug-in {name!r} is no subclass of InverseModel with architecture = {name!r}")
    return kind


def build_model(
    architecture: str, width: int, condition_width: int, options: dict[str, Any] | None = None
) -> InverseModel:
    """Untrained model of x (B, width) given c (B, condition_width); UsageError for unknown names."""
    kind = find_architecture(architecture)
    return kind(width, condition_width, kind.options_type.parse(architecture, options or {}))
