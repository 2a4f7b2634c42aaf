"""From a model file back to a reconstructor: everything is checked before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.overrides import TorchFunctionMode

from flowcei import plugins
from flowcei.errors import DataError, FlowceiError
from flowcei.experiment.detector import Noise
from flowcei.frame.kinds import frame_from_dict
from flowcei.frame.standardiser import Standardiser
from flowcei.models.registry import ARCHITECTURES, build_model, find_architecture
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.model import Reconstructor
from flowcei.reconstruction.stored import parts_of
from flowcei.storage.modelfile import bundled_model, read_model
from flowcei.training.loop import resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from flowcei.frame.interface import Frame
    from flowcei.models.interface import InverseModel
    from flowcei.storage.card import ModelCard

_MAX_WIDTH = 4096  # bound on every option, so that a lying file cannot ask for all memory
_GROUPS = {"architecture": plugins.ARCHITECTURES, "prior": plugins.PRIORS}
_CALLS = 50  # of PyTorch for each tensor of a network that is built: many times what is needed


def load(path: str | Path | None = None, *, device: str = "cpu") -> Reconstructor:
    """Load a model.

    Args:
        path: A model file or the folder of a run; the OCS model that comes with
            flowcei where None.
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
    where = resolve_device(device)
    if path is None:
        with bundled_model() as bundled:
            return _build(*read_model(bundled), bundled, where)
    place = Path(path)
    if place.is_dir():
        place = place / "model.safetensors"
    return _build(*read_model(place), place, where)


def _model(card: ModelCard, frame: Frame, tensors: dict[str, Tensor]) -> InverseModel:
    """Return an untrained model with the options of a file, if its tensors can bear them out."""
    stored = [f"model.{name}" for name in find_architecture(card.architecture).stored]
    weights = [t for name, t in tensors.items() if name.startswith("model.") and name not in stored]
    sizes = (size for t in weights for size in t.shape)
    # Options of a model without weights are no sizes: how many neighbours, how many searches.
    largest = min(_MAX_WIDTH, max(len(tensors), *sizes, 1)) if weights else _MAX_WIDTH
    sized = card.options if card.architecture in ARCHITECTURES else {}  # what a plug-in's are, it knows
    if any(not isinstance(value, str) and not 0 < value <= largest for value in sized.values()):
        msg = f"an option of the model is not in 0 to {largest}, where its tensors end"
        raise DataError(msg)
    model = build_model(card.architecture, frame.width, frame.condition_width, card.options)
    model.make_room(len(tensors.get(stored[0], ())) if stored else 0)
    return model


class _Bounded(TorchFunctionMode):
    """While it is in use, no more of PyTorch is called than a file with `count` tensors needs.

    Options such as the number of couplings say how often something is repeated: a small
    file must not keep us busy for hours before its shapes are compared.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = 1000 + _CALLS * count
        self._count = count

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Call it, and count."""
        del types
        self._left -= 1
        if self._left < 0:
            msg = f"the options ask for far more than the {self._count} tensors of the file"
            raise DataError(msg)
        return func(*args, **(kwargs or {}))


def _refuse_other_shapes(model: InverseModel, tensors: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        found = tensors.get(f"model.{name}")
        if found is None or found.shape != tensor.shape:
            what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            msg = f"tensor {name} {what}; the options ask for {tuple(tensor.shape)}"
            raise DataError(msg)


def _refuse_unsound(tensors: dict[str, Tensor], parts: dict[str, torch.nn.Module]) -> None:
    """Refuse numbers with which a model would fail later, or be wrong without a word."""
    expected = {f"{part}.{k}": v for part, module in parts.items() for k, v in module.state_dict().items()}
    for name, tensor in tensors.items():
        if name in expected and tensor.dtype != expected[name].dtype:
            msg = f"tensor {name} is of {tensor.dtype}, not of {expected[name].dtype}"
            raise DataError(msg)
        if tensor.is_floating_point():
            if not bool(torch.isfinite(tensor).all()):
                msg = f"tensor {name} holds weights that are not finite"
                raise DataError(msg)
            continue
        # FrEIA's permutations, of which some are the inverse of another.
        if not name.removesuffix("_inv").endswith(".perm"):
            continue
        inverse = tensors.get(f"{name}_inv", tensor.argsort())
        places = torch.arange(tensor.numel())
        if not torch.equal(tensor.sort().values, places) or not torch.equal(tensor.argsort(), inverse):
            msg = f"tensor {name} is no permutation"
            raise DataError(msg)
    for name in ("chart.scale", "condition.scale"):
        if not bool((tensors[name] > 0).all()):
            msg = f"tensor {name} holds deviations that are not above 0"
            raise DataError(msg)


def _refuse_unusable(card: ModelCard, molecule: Molecule, frame: Frame) -> None:
    """Refuse a description that would fail later: a prior or a trained range of something else."""
    prior, seen = card.training.get("prior"), card.training.get("seen")
    if prior is not None:
        build_prior(molecule, prior)
    known = frame.condition_width - 2
    if seen is not None and frame.invariant and len(seen["mean"]) != known:
        msg = f"the trained range is of {len(seen['mean'])} momenta, the frame has {known}"
        raise DataError(msg)


def _build(card: ModelCard, tensors: dict[str, Tensor], path: Path, device: torch.device) -> Reconstructor:
    for what, package in card.training.get("plugins", {}).items():
        group, _, name = what.partition(" ")
        if group in _GROUPS and name not in plugins.plugin_names(_GROUPS[group]):
            raise DataError(f"{group} {name!r} is a plug-in of {package}, which is not installed", path=path)
    try:
        built = _built(card, tensors)
    except (FlowceiError, RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0][:300]
        raise DataError(f"its parts do not fit together ({reason})", path=path) from error
    built.network.to(device).eval()
    return built


def _built(card: ModelCard, tensors: dict[str, Tensor]) -> Reconstructor:
    frame = frame_from_dict(card.frame.model_dump())
    molecule = Molecule.from_dict(card.molecule)
    if frame.masses != tuple(molecule.masses.tolist()):
        msg = "the frame is of another molecule"
        raise DataError(msg)
    _refuse_unusable(card, molecule, frame)
    with torch.device("meta"), _Bounded(len(tensors)):  # shapes without memory: a lying file gets none
        _refuse_other_shapes(_model(card, frame, tensors), tensors)
    with torch.random.fork_rng(devices=[]):  # first weights are drawn; the caller's state stays
        model = _model(card, frame, tensors)
    built = Reconstructor(
        molecule=molecule,
        frame=frame,
        network=model,
        noise=Noise(card.noise.low, card.noise.high, relative=card.noise.relative),
        chart_standardiser=Standardiser(frame.width),
        condition_standardiser=Standardiser(frame.condition_width),
        card=card.training,
    )
    for part, module in parts_of(built).items():
        own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
        module.load_state_dict(own, strict=True)
    _refuse_unsound(tensors, parts_of(built))
    return built
