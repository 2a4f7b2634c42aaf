"""Whether a model could be stored and read again: decided before it is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei import plugins
from flowcei.errors import FlowceiError, UsageError
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.loading import load

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.models.interface import InverseModel
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.reconstruction.model import Reconstructor

_ROWS = 8  # of a comparison before and after storing
_RESERVE = ["-" * 3_000, *[0] * 500]  # what a record says when the training has ended is shorter


def check_storable(model: Reconstructor, x: Tensor, c: Tensor) -> None:
    """Store an untrained model, read it back, compare what both say of standardised x (B, D), c (B, C)."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        record = model.training.model_copy(update={"figures": {"reserve": _RESERVE}})
        try:
            replace(model, training=record).save(path)
            stored = load(path)
        except FlowceiError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix("the model cannot be stored: ")
            raise UsageError(
                f"a model trained like this could not be stored and read again: {reason}"
            ) from error
    if model.network.stored:  # without its training rows it has no answer yet
        return
    now, then = (_answers(network, x[:_ROWS], c[:_ROWS]) for network in (model.network, stored.network))
    if not torch.allclose(now, then, equal_nan=True):
        raise UsageError(
            f"a model of {model.architecture!r} read from its file answers otherwise: what it computes "
            "with must be an option, a parameter or a buffer"
        )


def check_prior(molecule: Molecule, prior: GeometryPrior) -> None:
    """Make a prior again from its own table and compare what both draw."""
    try:
        rebuilt = build_prior(molecule, prior.spec())
    except UsageError as error:
        name = type(prior).__name__
        raise UsageError(f"a model of prior {name} could not be stored and read again: {error}") from error
    first, second = (p.sample(_ROWS, np.random.default_rng(0)) for p in (prior, rebuilt))
    if not np.allclose(first, second):
        raise UsageError(f"build_prior of the spec() of {type(prior).__name__} draws other geometries")


def plugins_of(architecture: str, prior: dict[str, Any] | None) -> dict[str, str]:
    """The packages that a model needs beside flowcei, by what they are needed for."""
    names = {f"architecture {architecture}": (plugins.ARCHITECTURES, architecture)}
    if prior is not None:
        names[f"prior {prior['kind']}"] = (plugins.PRIORS, str(prior["kind"]))
    packages = {key: plugins.plugin_package(*name) for key, name in names.items()}
    return {key: package for key, package in packages.items() if package is not None}


@torch.no_grad()
def _answers(model: InverseModel, x: Tensor, c: Tensor) -> Tensor:
    """Losses and samples, with the same random numbers each time; the model is left as it was."""
    training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        losses = model.loss(x, c)
        samples = model.sample(c, 1, generator=np.random.default_rng(0))
    model.train(training)
    return torch.cat([losses.flatten(), samples.flatten()])
