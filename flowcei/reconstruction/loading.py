"""From a model file back to a reconstructor, all of it checked first."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowcei import plugins
from flowcei.errors import DataError, FlowceiError
from flowcei.experiment.detector import Noise
from flowcei.frame.kinds import frame_from_dict
from flowcei.frame.standardiser import Standardiser
from flowcei.models.fused import CompiledFlow
from flowcei.models.options import CINNOptions
from flowcei.models.registry import ARCHITECTURES
from flowcei.models.stack import cinn_claims
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.model import Reconstructor
from flowcei.storage.modelfile import bundled_model, read_model

if TYPE_CHECKING:
    from flowcei.frame.interface import Frame
    from flowcei.models.interface import InverseModel, Sampler
    from flowcei.models.stack import Claim
    from flowcei.storage.card import ModelCard, TrainingRecord
    from flowcei.storage.modelfile import Tensors

_MAX_OPTION = 4096  # a lying file may not ask for all memory: shapes are compared on `meta`, without any
_GROUPS = {"architecture": plugins.ARCHITECTURES, "prior": plugins.PRIORS}
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")  # without one of them Linux has no GPU


def load(path: str | Path | None = None, *, device: str = "cpu") -> Reconstructor:
    """Load a model.

    Args:
        path: A model file or the folder of a run; the OCS model that comes with flowcei where None.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The model, ready to sample.

    Raises:
        UsageError: For a missing file or device.
        DataError: For a file that is no model of flowcei, or damaged.

    Example:
        >>> load().molecule.name
        'ocs'
    """
    if path is None:
        with bundled_model() as bundled:
            model = load(bundled, device=device)
        model.path = None
        return model
    target = _resolved(device)
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    card, tensors = read_model(path)
    for key, package in card.training.plugins.items():
        group, _, name = key.partition(" ")
        if group in _GROUPS and name not in plugins.plugin_names(_GROUPS[group]):
            raise DataError(f"{group} {name!r} is a plug-in of {package}, which is not installed", path=path)
    try:
        model = _built(card, tensors, target)
    except (FlowceiError, RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0][:300]
        raise DataError(f"its parts do not fit together ({reason})", path=path) from error
    model.path = path.absolute()
    return model


def _resolved(device: str) -> str:
    """Device that is meant; torch, which takes two seconds to import, is asked where there may be another."""
    if device == "auto" and sys.platform == "linux" and not any(Path(file).exists() for file in _GPU_FILES):
        return "cpu"
    if device == "cpu":
        return device
    from flowcei.training.devices import resolve_device

    return str(resolve_device(device))


def _built(card: ModelCard, tensors: Tensors, device: str) -> Reconstructor:
    frame = frame_from_dict(card.frame)
    molecule = Molecule.from_dict(card.molecule)
    if frame.masses != tuple(molecule.masses.tolist()):
        raise DataError("the frame is of another molecule")
    _check_record(card.training, molecule, frame)
    claims = {f"model.{name}": claim for name, claim in _claims(card, frame, tensors)}
    for table, width in (("chart", frame.width), ("condition", frame.told_width)):
        claims |= {f"{table}.{name}": ((width,), "float64") for name in ("mean", "scale")}
    _check_claims(tensors, claims)
    _check_numbers(tensors)
    chart, condition = (
        Standardiser(*(tensors[f"{table}.{name}"].copy() for name in ("mean", "scale")))
        for table in ("chart", "condition")
    )
    sampler = _sampler(card, frame, tensors, device)
    return Reconstructor(molecule, frame, sampler, Noise.of_card(card), chart, condition, card.training)


def _claims(card: ModelCard, frame: Frame, tensors: Tensors) -> Iterable[Claim]:
    """Every tensor that the model of a file has, by its options; far more than there are: DataError."""
    own = card.options if card.architecture in ARCHITECTURES else {}  # a plug-in knows its own
    for name, value in own.items():
        if isinstance(value, int | float) and not value <= _MAX_OPTION:
            raise DataError(f"option {name} of the model is above {_MAX_OPTION}")
    if card.architecture != CompiledFlow.architecture:
        from flowcei.reconstruction.building import claims_of

        return claims_of(card, frame, tensors)
    options = CINNOptions.parse(card.architecture, card.options)
    latents = len(tensors.get("model.latents.mean", ()))
    most = 2 * len(tensors)
    claims = list(islice(cinn_claims(frame.width, frame.told_width, options, latents), most))
    if len(claims) == most:
        raise DataError(f"the options ask for far more than the {len(tensors)} tensors of the file")
    return claims


def _sampler(card: ModelCard, frame: Frame, tensors: Tensors, device: str) -> Sampler:
    """What samples from the tensors of a file: a `cinn` on the processor needs no torch."""

    def network() -> InverseModel:
        from flowcei.reconstruction.building import build_network

        return build_network(card, frame, tensors)

    if device == "cpu" and card.architecture == CompiledFlow.architecture:
        options = CINNOptions.parse(card.architecture, card.options)
        own = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        return CompiledFlow(frame.width, frame.told_width, options, own, network)
    return network().to(device)


def _check_record(record: TrainingRecord, molecule: Molecule, frame: Frame) -> None:
    """Refuse a prior or a trained range of something else, which would fail later."""
    width = 3 * len(molecule) - 6
    if record.prior is not None:
        build_prior(molecule, record.prior)
    if record.seen is not None and frame.invariant and len(record.seen.mean) != width:
        raise DataError(f"the trained range is of {len(record.seen.mean)} momenta, the frame has {width}")


def _check_claims(tensors: Tensors, claims: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Refuse tensors of other names, shapes or types than a model has."""
    for name, (shape, dtype) in claims.items():
        stored = tensors.get(name)
        if stored is None or stored.shape != shape:
            fault = "is missing" if stored is None else f"has shape {stored.shape}"
            raise DataError(f"tensor {name} {fault}; the options ask for {shape}")
        if stored.dtype.name != dtype:
            raise DataError(f"tensor {name} is of {stored.dtype}, not of {dtype}")
    if unknown := tensors.keys() - claims.keys():
        raise DataError(f"tensor {min(unknown)} belongs to no part of the model")


def _check_numbers(tensors: Tensors) -> None:
    """Refuse numbers with which a model would fail later, or be wrong without a word."""
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f":
            if not np.isfinite(tensor).all():
                raise DataError(f"tensor {name} holds weights that are not finite")
        elif name.removesuffix("_inv").endswith(".perm"):
            # FrEIA's permutations, of which some are the inverse of another.
            back = np.argsort(tensor)
            sound = np.array_equal(tensor[back], np.arange(tensor.size))
            if not sound or not np.array_equal(back, tensors.get(f"{name}_inv", back)):
                raise DataError(f"tensor {name} is no permutation")
    for name in ("chart.scale", "condition.scale"):
        if not (tensors[name] > 0).all():
            raise DataError(f"tensor {name} holds deviations that are not above 0")
