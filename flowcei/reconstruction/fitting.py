"""From molecules to a trained model: what the training loop is fed, and what is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from flowcei.check.examination import unbounded
from flowcei.errors import DataError, UsageError
from flowcei.events.simulation import Simulator, fresh_seed
from flowcei.experiment.detector import Noise
from flowcei.frame.raw import RawFrame
from flowcei.frame.recoil import RecoilFrame
from flowcei.frame.resimulation import Resimulation
from flowcei.frame.standardiser import Standardiser
from flowcei.models.registry import build_model
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.reconstruction.model import Reconstructor
from flowcei.reconstruction.recorded import (
    DEFAULT_NOISE,
    MIN_EVENTS,
    RecordedSource,
    floored,
    recorded,
    split_rows,
)
from flowcei.reconstruction.seen import TrainedRange
from flowcei.reconstruction.storable import check_prior, check_storable, plugins_of
from flowcei.storage.card import refuse_undescribable, versions
from flowcei.training.checkpoint import Checkpoint, Keeping, begun_at, refuse_other
from flowcei.training.loop import EpochRecord, Schedule, best_of, fit, resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from flowcei.events.container import Events
    from flowcei.models.interface import InverseModel

__all__ = ["DEFAULT_NOISE", "FRAMES", "split_rows", "train"]

FRAMES = ("recoil", "raw")
"""Coordinates a model may see."""

_FEW = 8  # events whose answers are compared
_PILOT = 20_000  # events that frame and standardisers are fitted on
_VALIDATION = 10_000
_TRAINING_ACCURACY = 1e-4  # of momenta in training: far below any noise, and fast


class _FreshSource:
    """Events simulated as they are needed: no epoch sees one twice."""

    def __init__(self, simulator: Simulator, per_epoch: int) -> None:
        self._simulator = simulator
        self._per_epoch = per_epoch

    def pilot(self) -> Events:
        return self._simulator.block(0, _PILOT, stream=2)

    def epoch(self, index: int) -> Events:
        return self._simulator.block(index, self._per_epoch)

    def validation(self) -> Events:
        return self._simulator.block(0, _VALIDATION, stream=1)


@dataclass
class _Charts:
    """The source as the training loop wants it: standardised charts and conditions."""

    source: _FreshSource | RecordedSource
    frame: RecoilFrame | RawFrame
    chart: Standardiser
    condition: Standardiser

    def epoch(self, index: int) -> tuple[Tensor, Tensor]:
        return self._standardised(self.source.epoch(index))

    def validation(self) -> tuple[Tensor, Tensor]:
        return self._standardised(self.source.validation())

    def raw(self, events: Events) -> tuple[Tensor, Tensor]:
        """Return chart (B, D) and condition (B, C), not standardised."""
        if events.positions is None or events.sigma is None:
            msg = "training needs events with positions"
            raise DataError(msg)
        framed = self.frame.enter(torch.from_numpy(events.momenta), torch.from_numpy(events.sigma))
        positions = torch.from_numpy(events.positions)[:, None]
        return self.frame.to_chart(positions, framed)[:, 0], framed.condition

    def _standardised(self, events: Events) -> tuple[Tensor, Tensor]:
        return self.standardised(*self.raw(events))

    def standardised(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return charts (B, D) and conditions (B, C) as the network sees them."""
        return self.chart(x), self.condition(c)


def train(
    architecture: str = "cinn",
    *,
    molecule: Molecule | str = "ocs",
    data: Events | None = None,
    prior: str | dict[str, Any] | GeometryPrior | None = None,
    noise: Noise | str | None = None,
    frame: str = "recoil",
    options: dict[str, Any] | None = None,
    schedule: Schedule | None = None,
    events_per_epoch: int = 100_000,
    seed: int | None = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    max_seconds: float | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Reconstructor:
    """Train a model on simulated events, or on the events of a file.

    The seed is split into independent streams: one for each epoch's events and noise, one for
    validation, for the split of a file, for the first weights and for the order of rows. The
    model depends on the arguments alone, not on the number of threads that simulate, not on
    interruptions, and not on random numbers drawn elsewhere. The batch size, the device and
    the number of torch's threads change it, since they change the order of sums.

    Args:
        architecture: A name in `flowcei.models.registry.ARCHITECTURES`, such as ``"cinn"``, or of a
            plug-in.
        molecule: What explodes, where no data are given.
        data: Events with positions; split 80 / 10 / 10 into training, validation and test.
        prior: Which geometries to simulate; the molecule's default where None.
        noise: Detector noise to train for: a level or a range, such as ``"0.1%..5%"``, which is
            the default. For data the default begins at what is measured of them, and what they
            carry already is part of it: see `flowcei.reconstruction.recorded`.
        frame: ``"recoil"``, or ``"raw"`` for the file's own coordinates, as the first study
            trained: to compare, not to use.
        options: Of the architecture, such as ``{"couplings": 8}``.
        schedule: Epochs, batch size, rates; for data `Schedule.for_rows` where None.
        events_per_epoch: Fresh events an epoch, where no data are given.
        seed: Of all randomness; drawn where None.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        checkpoint: File that keeps the training after every epoch. It stays when the training
            ends: remove it when the model is saved.
        resume: Whether to go on from the checkpoint, with the same arguments; the seed may be
            left out. The model is that of a training without interruption, to the bit.
        max_seconds: Time after which to stop; the epochs so far are in the checkpoint.
        on_step: Called after each step with its rows and its loss.
        on_epoch: Called with the record of each epoch, once it is kept.

    Returns:
        The trained model.

    Raises:
        UsageError: For an unknown architecture, option, molecule or prior; for a model that could
            not be stored; for arguments that are not those of the checkpoint.
        DataError: For data that cannot be trained on, that have changed since the checkpoint was
            made, and for a damaged checkpoint.
        TrainingDivergedError: When the loss is not finite.
        StoppedError: When the time is up.

    Example:
        >>> model = train(
        ...     "cinn",
        ...     options={"couplings": 2, "hidden": 16},
        ...     seed=1,
        ...     schedule=Schedule(epochs=1),
        ...     events_per_epoch=1000,
        ... )
        >>> model.architecture
        'cinn'
    """
    if frame not in FRAMES or (frame == "raw" and data is None):
        msg = f"frame is {' or '.join(FRAMES)}, raw only with data of a file; got {frame!r}"
        raise UsageError(msg)
    place = Path(checkpoint) if checkpoint is not None else None
    begun = begun_at(place, resume=resume)
    seed = _seed(begun) if seed is None else seed
    level = Noise.parse(noise) if isinstance(noise, str) else noise
    about: dict[str, Any]
    source: _FreshSource | RecordedSource
    if data is None:
        level = floored(level or DEFAULT_NOISE)
        source, mirror, about = _fresh(molecule, prior, level, events_per_epoch, seed)
    else:
        source, level, about = recorded(data, level, seed)
        schedule = schedule or Schedule.for_rows(int(0.8 * len(data)), fresh_noise=source.draws_noise)
        mirror = False
    schedule = schedule or Schedule()
    pilot = source.pilot()
    framed: RecoilFrame | RawFrame
    if frame == "raw" and isinstance(source, RecordedSource):
        framed = source.raw_frame()
    else:
        framed = RecoilFrame.of(pilot.molecule, torch.from_numpy(pilot.momenta), reflect=mirror)
    charts = _Charts(source, framed, Standardiser(framed.width), Standardiser(framed.condition_width))
    x, c = charts.raw(pilot)
    charts.chart.fit(x)
    charts.condition.fit(c)
    about["seen"] = TrainedRange.of(c.double().numpy()).to_dict()
    refuse_undescribable(pilot.molecule.to_dict(), about)
    model = _seeded_model(architecture, framed, options, seed)
    if model.has_density:
        charts.chart.refuse_constant(x, framed.names(pilot.molecule.labels))
        if data is not None:
            _refuse_unbounded(data, framed)
    if isinstance(framed, RecoilFrame):
        model.attach(Resimulation(pilot.molecule, framed, charts.chart, charts.condition))
    about |= plugins_of(architecture, about.get("prior"))
    parts = (pilot.molecule, framed, model, level, charts.chart, charts.condition)
    check_storable(Reconstructor(*parts, dict(about)), *charts.standardised(x[:_FEW], c[:_FEW]))
    settings = _settings(model, pilot.molecule, level, frame, about)
    settings |= {"seed": seed, **asdict(schedule), "data": None if data is None else _fingerprint(data)}
    if begun is not None:
        refuse_other(begun, settings)
    records = fit(
        model,
        charts,
        schedule,
        seed=seed,
        device=resolve_device(device),
        keeping=Keeping(place, settings, begun, max_seconds),
        on_step=on_step,
        on_epoch=on_epoch,
    )
    card = about | {
        "seed": seed,
        "schedule": asdict(schedule),
        "versions": versions(),
        "epochs_run": len(records),
        "validation_loss": best_of(records).validation_loss,
        "round_trip_error": _round_trip_error(model, charts),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    if card["parameters"]:
        card["rows_per_second"] = float(np.median([r.rows_per_second for r in records]))
    return Reconstructor(*parts, card)


def _settings(
    model: InverseModel,
    molecule: Molecule,
    noise: Noise,
    frame: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Return what a training must share with the checkpoint that it goes on from, in plain values."""
    table: dict[str, Any] = {
        "architecture": model.architecture,
        **model.options.to_dict(),
        "molecule": molecule.to_dict(),
        "noise": asdict(noise),
        "frame": frame,
        **{key: about[key] for key in ("prior", "events_per_epoch") if key in about},
    }
    return json.loads(json.dumps(table))  # pairs become lists, as they are read back


def _seed(begun: Checkpoint | None) -> int:
    return fresh_seed() if begun is None else int(begun.settings["seed"])


def _fingerprint(data: Events) -> str:
    """Return a digest of all that training takes from events, positions and noise included."""
    parts = (data.momenta, data.positions, data.sigma)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _fresh(
    molecule: Molecule | str,
    prior: str | dict[str, Any] | GeometryPrior | None,
    noise: Noise,
    per_epoch: int,
    seed: int,
) -> tuple[_FreshSource, bool, dict[str, Any]]:
    if per_epoch < MIN_EVENTS:
        msg = f"{per_epoch} events an epoch are too few; use {MIN_EVENTS} or more"
        raise UsageError(msg)
    mol = molecule if isinstance(molecule, Molecule) else Molecule.load(molecule)
    geometry = prior if isinstance(prior, GeometryPrior) else build_prior(mol, prior)
    if isinstance(prior, GeometryPrior):
        check_prior(mol, prior)
    simulator = Simulator(mol, geometry, noise, seed, _TRAINING_ACCURACY)
    name = prior if isinstance(prior, str) else None if prior else mol.default_prior
    simulation = {"events_per_epoch": per_epoch, "accuracy": _TRAINING_ACCURACY}
    simulation |= {"pilot_events": _PILOT, "validation_events": _VALIDATION}
    about = {"prior": geometry.spec(), "prior_name": name, "simulation": simulation}
    return _FreshSource(simulator, per_epoch), geometry.mirror_symmetric, about


def _refuse_unbounded(data: Events, frame: RecoilFrame | RawFrame) -> None:
    """Refuse data whose positions fill no volume: a flow's likelihood would grow for ever."""
    coordinates: Literal["chart", "raw"] = "raw" if isinstance(frame, RawFrame) else "chart"
    # A raw frame leaves constant columns out.
    found = [f for f in unbounded(data, coordinates=coordinates) if f.code != "constant-columns"]
    if found:
        msg = f"{found[0].what}: {found[0].means}" + (f"; {found[0].todo}" if found[0].todo else "")
        raise DataError(msg)


def _seeded_model(
    architecture: str, frame: RecoilFrame | RawFrame, options: dict[str, Any] | None, seed: int
) -> InverseModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(architecture, frame.width, frame.condition_width, options)


@torch.no_grad()
def _round_trip_error(model: InverseModel, charts: _Charts) -> float | None:
    """Return the largest |decode(encode(x)) - x| over validation data, standardised units."""
    if not model.has_density:
        return None
    x, c = (t.to(next(model.parameters()).device) for t in charts.validation())
    return float((model.decode(model.encode(x, c)[0], c) - x).abs().max())  # type: ignore[operator]
