"""From a model file back to a reconstructor, all of it checked first; and whether one could be stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from flowcei import plugins
from flowcei.errors import DataError, FlowceiError, UsageError
from flowcei.experiment.detector import Noise
from flowcei.frame.kinds import frame_from_dict
from flowcei.frame.standardiser import Standardiser
from flowcei.models.registry import ARCHITECTURES, build_model, find_architecture
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.model import Reconstructor
from flowcei.storage.modelfile import bundled_model, read_model
from flowcei.training.devices import resolve_device

if TYPE_CHECKING:
    from torch import Tensor

    from flowcei.frame.interface import Frame
    from flowcei.models.interface import InverseModel
    from flowcei.physics.priors import GeometryPrior
    from flowcei.storage.card import ModelCard, TrainingRecord

_MAX_OPTION = 4096  # a lying file may not ask for all memory: shapes are compared on `meta`, without any
_GROUPS = {"architecture": plugins.ARCHITECTURES, "prior": plugins.PRIORS}
_ROWS = 8  # of a comparison before and after storing
_RESERVE = ["-" * 3_000, *[0] * 500]  # what a record says when the training has ended is shorter
_CALLS = 50  # of PyTorch for each tensor of a network that is built: many times what is needed


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
    target = resolve_device(device)
    if path is None:
        with bundled_model() as bundled:
            model = load(bundled, device=device)
        model.path = None
        return model
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    card, tensors = read_model(path)
    for key, package in card.training.plugins.items():
        group, _, name = key.partition(" ")
        if group in _GROUPS and name not in plugins.plugin_names(_GROUPS[group]):
            raise DataError(f"{group} {name!r} is a plug-in of {package}, which is not installed", path=path)
    try:
        model = _built(card, tensors)
    except (FlowceiError, RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0][:300]
        raise DataError(f"its parts do not fit together ({reason})", path=path) from error
    model.network.to(target).eval()
    model.path = path.absolute()
    return model


def _built(card: ModelCard, tensors: dict[str, Tensor]) -> Reconstructor:
    frame = frame_from_dict(card.frame)
    molecule = Molecule.from_dict(card.molecule)
    if frame.masses != tuple(molecule.masses.tolist()):
        raise DataError("the frame is of another molecule")
    _check_record(card.training, molecule, frame)
    with torch.device("meta"), _Bounded(len(tensors)):  # shapes without memory: a lying file gets none
        for name, tensor in _network(card, frame, tensors).state_dict().items():
            stored = tensors.get(f"model.{name}")
            if stored is None or stored.shape != tensor.shape:
                fault = "is missing" if stored is None else f"has shape {tuple(stored.shape)}"
                raise DataError(f"tensor {name} {fault}; the options ask for {tuple(tensor.shape)}")
    with torch.random.fork_rng(devices=[]):  # first weights are drawn; the caller's state stays
        network = _network(card, frame, tensors)
    model = Reconstructor(
        molecule=molecule,
        frame=frame,
        network=network,
        noise=Noise.of_card(card),
        chart_standardiser=Standardiser(frame.width),
        condition_standardiser=Standardiser(frame.told_width),
        training=card.training,
    )
    _check_tensors(tensors, model.stored()[1])
    for part, module in model.modules().items():
        prefix = f"{part}."
        state = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        module.load_state_dict(state, strict=True)
    return model


def _check_record(record: TrainingRecord, molecule: Molecule, frame: Frame) -> None:
    """Refuse a prior or a trained range of something else, which would fail later."""
    width = 3 * len(molecule) - 6
    if record.prior is not None:
        build_prior(molecule, record.prior)
    if record.seen is not None and frame.invariant and len(record.seen.mean) != width:
        raise DataError(f"the trained range is of {len(record.seen.mean)} momenta, the frame has {width}")


def _network(card: ModelCard, frame: Frame, tensors: dict[str, Tensor]) -> InverseModel:
    """An untrained network with the options of a file, if its tensors can bear them out."""
    stored = [f"model.{name}" for name in find_architecture(card.architecture).stored]
    own = card.options if card.architecture in ARCHITECTURES else {}  # a plug-in knows its own
    for name, value in own.items():
        if isinstance(value, int | float) and not value <= _MAX_OPTION:
            raise DataError(f"option {name} of the model is above {_MAX_OPTION}")
    network = build_model(card.architecture, frame.width, frame.told_width, card.options)
    network.make_room(len(tensors.get(stored[0], ())) if stored else 0)
    return network


class _Bounded(TorchFunctionMode):
    """No more of PyTorch is called than a file with `count` tensors needs."""

    # Options such as the number of couplings say how often something is repeated: a small file must not keep
    # us busy for hours before its shapes are compared.
    def __init__(self, count: int) -> None:
        super().__init__()
        self._count, self._calls = count, 1000 + _CALLS * count

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        del types
        self._calls -= 1
        if self._calls < 0:
            raise DataError(f"the options ask for far more than the {self._count} tensors of the file")
        return func(*args, **(kwargs or {}))


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse numbers with which a model would fail later, or be wrong without a word."""
    for name, tensor in tensors.items():
        if name in expected and tensor.dtype != expected[name].dtype:
            raise DataError(f"tensor {name} is of {tensor.dtype}, not of {expected[name].dtype}")
        if tensor.is_floating_point():
            if not bool(torch.isfinite(tensor).all()):
                raise DataError(f"tensor {name} holds weights that are not finite")
        elif name.removesuffix("_inv").endswith(".perm"):
            # FrEIA's permutations, of which some are the inverse of another.
            inverse, order = tensors.get(f"{name}_inv", tensor.argsort()), torch.arange(tensor.numel())
            if not torch.equal(tensor.sort().values, order) or not torch.equal(tensor.argsort(), inverse):
                raise DataError(f"tensor {name} is no permutation")
    for name in ("chart.scale", "condition.scale"):
        if not bool((tensors[name] > 0).all()):
            raise DataError(f"tensor {name} holds deviations that are not above 0")


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
