"""From molecules to a trained model: what the training loop is fed, and what is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei.check.examination import unbounded
from flowcei.errors import DataError, UsageError
from flowcei.events.simulation import fresh_seed
from flowcei.experiment.detector import DEFAULT_NOISE, Noise
from flowcei.frame.kinds import FRAMES
from flowcei.frame.standardiser import Standardiser, check_varying
from flowcei.models.registry import build_model
from flowcei.reconstruction.model import Reconstructor
from flowcei.reconstruction.recorded import RecordedSource, floored, recorded
from flowcei.reconstruction.seen import trained_range
from flowcei.reconstruction.storable import check_storable, plugins_of
from flowcei.reconstruction.training_data import Charts, FreshSource
from flowcei.storage.card import versions
from flowcei.training.checkpoint import Keeping, begun_at, check_settings
from flowcei.training.loop import fit, resolve_device
from flowcei.training.schedule import EpochRecord, Schedule, best_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.events.container import Events
    from flowcei.frame.interface import Frame
    from flowcei.models.interface import InverseModel
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior


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
    path = Path(checkpoint) if checkpoint is not None else None
    begun = begun_at(path, resume=resume)
    if seed is None:
        seed = fresh_seed() if begun is None else int(begun.settings["seed"])
    level = None if noise is None else Noise.parse(noise)
    source: FreshSource | RecordedSource
    if data is None:
        level = floored(level or DEFAULT_NOISE)
        source, about = FreshSource.of(molecule, prior, level, events_per_epoch, seed)
        schedule = schedule or Schedule()
    else:
        source, level, about = recorded(data, level, seed)
        schedule = schedule or Schedule.for_rows(int(0.8 * len(data)), fresh_noise=source.draws_noise)
    pilot = source.pilot()
    framed = source.frame(frame, pilot)
    network = _seeded_network(architecture, framed, options, seed)
    tables = (Standardiser(framed.width), Standardiser(framed.condition_width))
    model = Reconstructor(pilot.molecule, framed, network, level, *tables, about)
    charts = Charts(source, model)
    _prepare(charts, pilot, data)
    settings = _settings(model) | {"seed": seed, **asdict(schedule), "data": data and _fingerprint(data)}
    if begun is not None:
        check_settings(begun, settings)
    records = fit(
        network,
        charts,
        schedule,
        seed=seed,
        device=resolve_device(device),
        keeping=Keeping(path, settings, begun, max_seconds),
        on_step=on_step,
        on_epoch=on_epoch,
    )
    model.training.seed, model.training.schedule = seed, asdict(schedule)
    _record_outcome(charts, records)
    return model


def _prepare(charts: Charts, pilot: Events, data: Events | None) -> None:
    """Fit the standardisers, and refuse before the first step what would fail after the last."""
    model, network = charts.model, charts.model.network
    x, c = charts.raw(pilot)
    model.chart_standardiser.fit(x)
    model.condition_standardiser.fit(c)
    if model.frame.invariant:
        model.training.seen = trained_range(c.double().numpy())
    if network.has_density:
        check_varying(x, model.frame.names(pilot.molecule.labels))
        if data is not None:
            _refuse_unbounded(data, model.frame)
    if packages := plugins_of(model.architecture, model.training.prior):
        model.training.plugins = packages
    check_storable(model, *charts.standardised(x, c))


def _record_outcome(charts: Charts, records: list[EpochRecord]) -> None:
    record, network = charts.model.training, charts.model.network
    record.versions, record.epochs_run = versions(), len(records)
    record.validation_loss = best_of(records).validation_loss
    record.round_trip_error = charts.round_trip_error()
    record.parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if record.parameters:
        record.rows_per_second = float(np.median([r.rows_per_second for r in records]))


def _settings(model: Reconstructor) -> dict[str, Any]:
    """Return what a training must share with the checkpoint that it goes on from, in plain values."""
    simulation = model.training.simulation
    table: dict[str, Any] = {
        "architecture": model.architecture,
        **model.network.options.to_dict(),
        "molecule": model.molecule.to_dict(),
        "noise": asdict(model.noise),
        "frame": model.frame.kind,
        "prior": model.training.prior,
        "events_per_epoch": simulation and simulation.events_per_epoch,
    }
    return json.loads(json.dumps(table))  # pairs become lists, as they are read back


def _fingerprint(data: Events) -> str:
    """Return a digest of all that training takes from events, positions and noise included."""
    digest = hashlib.sha256()
    for part in (data.momenta, data.positions, data.sigma):
        digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _refuse_unbounded(data: Events, frame: Frame) -> None:
    """Refuse data whose positions fill no volume: a flow's likelihood would grow for ever."""
    findings = unbounded(data, coordinates="chart" if frame.invariant else "raw")
    for finding in findings:
        if finding.code != "constant-columns":  # a raw frame leaves constant columns out
            todo = f"; {finding.todo}" if finding.todo else ""
            msg = f"{finding.what}: {finding.means}{todo}"
            raise DataError(msg)


def _seeded_network(
    architecture: str, frame: Frame, options: dict[str, Any] | None, seed: int
) -> InverseModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(architecture, frame.width, frame.condition_width, options)
