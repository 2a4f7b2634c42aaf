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
    options, molecule = model.network.options.to_dict(), model.molecule.to_dict()
    tables = (options, molecule, asdict(model.frame), asdict(model.noise), model.card)
    states = {name: module.state_dict() for name, module in parts_of(model).items()}
    tensors = {f"{part}.{name}": t for part, state in states.items() for name, t in state.items()}
    return describe_model(model.architecture, *tables), tensors
