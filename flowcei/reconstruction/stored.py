"""What a model file holds of a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from flowcei.storage.card import describe_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flowcei.reconstruction.model import Reconstructor
    from flowcei.storage.card import ModelCard


def parts_of(model: Reconstructor) -> dict[str, nn.Module]:
    """Modules with tensors, by the name they have in a model file."""
    tables = {"chart": model.chart_standardiser, "condition": model.condition_standardiser}
    return {"model": model.network, **tables}


def stored(model: Reconstructor) -> tuple[ModelCard, dict[str, Tensor]]:
    """Description and tensors of a model."""
    states = {name: module.state_dict() for name, module in parts_of(model).items()}
    tensors = {f"{part}.{name}": t for part, state in states.items() for name, t in state.items()}
    card = describe_model(
        model.training,
        architecture=model.architecture,
        options=model.network.options.to_dict(),
        molecule=model.molecule.to_dict(),
        frame=asdict(model.frame),
        noise=asdict(model.noise),
    )
    return card, tensors
