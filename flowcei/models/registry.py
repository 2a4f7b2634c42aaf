"""Every architecture by name, without torch: a new one is a file of its own and a line here, or a plug-in."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, cast

from flowcei import plugins
from flowcei.errors import UsageError
from flowcei.models import options as of

if TYPE_CHECKING:
    from flowcei.models.interface import InverseModel

_MODELS = "flowcei.models."

ARCHITECTURES: dict[str, tuple[str, type[of.ModelOptions] | None]] = {
    "cinn": (_MODELS + "cinn:CINN", of.CINNOptions),
    "fm": (_MODELS + "flow_matching:FlowMatching", of.FMOptions),
    "latent-cinn": (_MODELS + "variational:LatentCINN", of.LatentCINNOptions),
    "cvae": (_MODELS + "variational:CVAE", of.CVAEOptions),
    "ae-cvae": (_MODELS + "variational:AECVAE", of.CVAEOptions),
    "mlp": (_MODELS + "baselines:MLP", of.MLPOptions),
    "solver": (_MODELS + "solver:Solver", of.SolverOptions),
    "nearest": (_MODELS + "baselines:Nearest", of.NearestOptions),
    "mean": (_MODELS + "baselines:Mean", of.ModelOptions),
    "marginal": (_MODELS + "baselines:Marginal", of.ModelOptions),
}
"""Name on the command line -> class, and its options; None where they stand in the file of the class.

Those in `options.py` are in every `flowcei train --help`; the others take torch to be read, and are shown
where the architecture is named, as those of a plug-in are.
"""


def architecture_names() -> tuple[str, ...]:
    """Names of all architectures, of flowcei and of plug-ins."""
    return (*ARCHITECTURES, *plugins.plugin_names(plugins.ARCHITECTURES))


def listed_options() -> dict[str, type[of.ModelOptions]]:
    """Architectures whose options are known without importing them."""
    return {name: kind for name, (_, kind) in ARCHITECTURES.items() if kind is not None}


def options_type(architecture: str) -> type[of.ModelOptions]:
    """Options of an architecture; UsageError for an unknown name."""
    return listed_options().get(architecture) or find_architecture(architecture).options_type


def find_architecture(name: str) -> type[InverseModel]:
    """Class of an architecture, of flowcei or of a plug-in; UsageError for an unknown name."""
    if name in ARCHITECTURES:
        return cast("type[InverseModel]", EntryPoint(name, ARCHITECTURES[name][0], "").load())
    if name not in architecture_names():
        raise UsageError(f"no architecture {name!r}; there are {', '.join(architecture_names())}")
    from flowcei.models.interface import InverseModel

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
