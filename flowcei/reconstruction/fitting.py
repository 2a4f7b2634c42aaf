"""From molecules to a trained model: what the training loop is fed, and what is kept."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowcei.check.file import unbounded
from flowcei.errors import DataError, UsageError
from flowcei.events.simulation import fresh_seed
from flowcei.frame.kinds import FRAMES
from flowcei.frame.standardiser import Standardiser, check_varying
from flowcei.models.registry import build_model
from flowcei.reconstruction.efficiency import UNTIL_SECONDS, Round, Until, fresh_events, rules_for
from flowcei.reconstruction.framing import charts_of
from flowcei.reconstruction.limits import trained_range
from flowcei.reconstruction.model import Reconstructor
from flowcei.reconstruction.sampling import bar_of_events
from flowcei.reconstruction.storable import check_storable, plugins_of
from flowcei.reconstruction.training_data import Charts, RecordedSource, fresh, recorded
from flowcei.storage.card import versions
from flowcei.training.checkpoint import Keeping, begun_at, check_settings
from flowcei.training.devices import Ranks, resolve_device
from flowcei.training.loop import fit
from flowcei.training.schedule import EpochRecord, Schedule, best_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tqdm import tqdm

    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.build_up import BuildUpPrior
    from flowcei.physics.priors import GeometryPrior
    from flowcei.reconstruction.training_data import FreshSource, TrainingRules
    from flowcei.storage.card import TrainingRecord
    from flowcei.training.checkpoint import Checkpoint


def train(
    architecture: str = "cinn",
    *,
    molecule: Molecule | str = "ocs",
    data: Events | None = None,
    prior: str | dict[str, Any] | GeometryPrior | None = None,
    noise: Noise | str | None = None,
    build_up: BuildUpPrior | str | None = None,
    frame: str = "recoil",
    options: dict[str, Any] | None = None,
    schedule: Schedule | None = None,
    events_per_epoch: int | None = None,
    rules: TrainingRules | None = None,
    seed: int | None = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    until: float | None = None,
    max_seconds: float | None = None,
    progress: bool = False,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Reconstructor:
    """Train a model on simulated events, or on the events of a file.

    The seed is split into independent streams: one for each epoch's events and noise, one for
    validation, for the split of a file, for the first weights and for the order of rows. The
    model depends on the arguments alone, not on the number of threads that simulate, not on
    interruptions, and not on random numbers drawn elsewhere. The batch size, the device and
    the number of torch's threads change it, since they change the order of sums.

    Where torch has a process group (`torchrun`, with `torch.distributed.init_process_group`) every rank calls
    this with the same arguments: events of an epoch and rows of a step are those of all ranks together.

    Args:
        architecture: A name in `flowcei.models.registry.ARCHITECTURES`, such as ``"cinn"``, or of a plug-in.
        molecule: What explodes, where no data are given.
        data: Events with positions; split 80 / 10 / 10 into training, validation and test.
        prior: Which geometries to simulate; the molecule's default where None.
        noise: Detector noise to train for: a level or a range, ``"0.1%..5%"``, or of each axis of the lab,
            ``"0.1%..5%/axis"``, which is the default near an equilibrium (else the former). For data the
            default begins at what is measured of them, and what they carry already is part of it: see
            `flowcei.reconstruction.training_data`.
        build_up: Range of times in which charges appear, ``"0..15fs"``, to train for: the model is told
            the time, that of an `Experiment`; at once where None.
        frame: ``"recoil"``, or ``"raw"`` for the file's own coordinates, as the first study
            trained: to compare, not to use.
        options: Of the architecture, such as ``{"couplings": 8}``; what is not given is chosen by
            `flowcei.reconstruction.defaults`, as the next three.
        schedule: Epochs, batch size, rates; for data `Schedule.for_rows` where None.
        events_per_epoch: Fresh events an epoch, where no data are given.
        rules: How many events fit the frame and choose the best epoch.
        seed: Of all randomness; drawn where None.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        checkpoint: File that keeps the training after every epoch. It stays when the training
            ends: remove it when the model is saved.
        resume: Whether to go on from the checkpoint, with the same arguments; the seed may be
            left out. The model is that of a training without interruption, to the bit.
        until: Median efficiency (0 to 1) of samples of fresh events, or of validation rows, to train for,
            with a 10th percentile of a fifth: after the epochs of the schedule follow rounds, each twice as
            long as the last with a cycle of rates of its own, until it is there, a round brings nothing, or
            the time is up.
        max_seconds: Time after which to stop; the epochs so far are in the checkpoint. With `until`,
            900 where None, the training ends up to 15 s before, so that there is time for a verdict, with the
            best model so far, of one step at the least; what comes before that is not cut short.
        progress: Whether to show a bar.
        on_step: Called after each step with its rows and its loss.
        on_epoch: Called with the record of each epoch, once it is kept.
        on_round: Called with the efficiency after each round.

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
    began, path = time.perf_counter(), None if checkpoint is None else Path(checkpoint)
    _check_asked(frame, data, max_seconds, build_up, kept=path is not None or until is not None)
    begun, ranks = begun_at(path, resume=resume), Ranks.current()
    seed = ranks.agreed(_settled_seed(seed, begun), resolve_device(device))  # the checkpoint has been read
    of_file = None if data is None else recorded(data, noise, seed)
    source, level, record = of_file or fresh(
        molecule, prior, noise, events_per_epoch, seed, rules, architecture, build_up
    )
    network, schedule = (architecture, source.options | (options or {})), schedule or source.schedule()
    charts = _prepared(source, frame, network, level, record, seed, data)
    settings = _settings(charts.model, data, until, ranks.count) | {"seed": seed, **asdict(schedule)}
    rounds = _until(charts.model, source, until, seed, max_seconds, schedule, on_round, began)
    check_settings(begun, settings)
    with _bar(source.rows, schedule, begun, endless=rounds is not None, show=progress) as bar:
        records = fit(
            charts.model.network,
            charts,
            schedule,
            seed=seed,
            device=resolve_device(device),
            keeping=Keeping(path, settings, begun, rounds.seconds_left if rounds else max_seconds),
            on_step=partial(_step, bar, on_step),
            on_epoch=on_epoch,
            more=rounds,
        )
    return _finished(charts, records, schedule, seed)


def _settled_seed(seed: int | None, begun: Checkpoint | None) -> int:
    if seed is not None:
        return seed
    return fresh_seed() if begun is None else int(begun.settings["seed"])


def _bar(rows: int, schedule: Schedule, begun: Checkpoint | None, *, endless: bool, show: bool) -> tqdm:
    """Bar of so many rows an epoch, of which some are done."""
    done = rows * len(begun.records) if begun is not None else 0
    return bar_of_events(None if endless else rows * schedule.epochs, show=show, done=done)


def _check_asked(
    frame: str,
    data: Events | None,
    max_seconds: float | None,
    build_up: BuildUpPrior | str | None,
    *,
    kept: bool,
) -> None:
    """UsageError for a frame or a time that cannot be."""
    if data is not None and build_up is not None:
        raise UsageError("a build-up to train for is simulated; events of data have theirs: leave it out")
    if frame not in FRAMES or (frame == "raw" and data is None):
        raise UsageError(f"frame is {' or '.join(FRAMES)}, raw only with data of a file; got {frame!r}")
    if max_seconds is not None and not (max_seconds > 0 and kept):
        raise UsageError(f"max_seconds is {max_seconds}; it must be positive, with a checkpoint or until")


def _prepared(
    source: FreshSource | RecordedSource,
    kind: str,
    network: tuple[str, dict[str, Any] | None],
    noise: Noise,
    record: TrainingRecord,
    seed: int,
    data: Events | None,
) -> Charts:
    """Untrained model with its standardisers; what would fail after the last step is refused now."""
    pilot = source.pilot()
    frame = source.frame(kind, pilot)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = build_model(network[0], frame.width, frame.told_width, network[1])
    x, framed = charts_of(frame, pilot)
    tables = Standardiser.of(x), Standardiser.of(framed.told)
    model = Reconstructor(pilot.molecule, frame, built, noise, *tables, record)
    charts = Charts(source, model)
    if frame.invariant:
        model.training.seen = trained_range(framed.condition, len(pilot.molecule))
    if built.has_density:
        check_varying(x, frame.names(pilot.molecule.labels))
        for line in unbounded(data, coordinates="chart" if frame.invariant else "raw") if data else ():
            if line.code != "constant-columns":  # a raw frame leaves constant columns out
                todo = f"; {line.todo}" if line.todo else ""
                raise DataError(f"{line.message}: {line.means}{todo}")
    if packages := plugins_of(model.architecture, model.training.prior):
        model.training.plugins = packages
    check_storable(model, *charts.standardised(x, framed))
    return charts


def _until(
    model: Reconstructor,
    source: FreshSource | RecordedSource,
    wanted: float | None,
    seed: int,
    seconds: float | None,
    schedule: Schedule,
    on_round: Callable[[Round], None] | None,
    began: float,
) -> Until | None:
    """What decides after each round whether another follows, where an efficiency is wanted."""
    if wanted is None:
        return None
    rules = rules_for(source.rows * schedule.epochs)
    held_out = isinstance(source, RecordedSource)  # of a file the rows that choices are made on
    return Until(
        model,
        source.validation() if held_out else fresh_events(model, rules.events, seed),
        wanted,
        rules,
        seed,
        UNTIL_SECONDS if seconds is None else seconds,
        on_round or (lambda _: None),
        source.rows,
        began,
    )


def _step(bar: tqdm, on_step: Callable[[int, float], None] | None, rows: int, loss: float) -> None:
    bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
    bar.update(rows)
    if on_step is not None:
        on_step(rows, loss)


def _finished(charts: Charts, epochs: list[EpochRecord], schedule: Schedule, seed: int) -> Reconstructor:
    """The model, with the record of its training."""
    record, network = charts.model.training, charts.model.network
    record.seed, record.schedule, record.versions = seed, asdict(schedule), versions()
    record.epochs_run, record.validation_loss = len(epochs), best_of(epochs).validation_loss
    record.round_trip_error = charts.round_trip_error()
    record.parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if record.parameters:
        record.rows_per_second = float(np.median([epoch.rows_per_second for epoch in epochs]))
    return charts.model


def _settings(model: Reconstructor, data: Events | None, until: float | None, ranks: int) -> dict[str, Any]:
    """What a training must share with the checkpoint that it goes on from, in plain values."""
    simulation = model.training.simulation
    table: dict[str, Any] = {
        "architecture": model.architecture,
        **model.sampler.options.to_dict(),
        "molecule": model.molecule.to_dict(),
        "noise": asdict(model.noise),
        **({"build_up": model.frame.build_up} if model.frame.build_up else {}),
        "frame": model.frame.kind,
        "prior": model.training.prior,
        **({} if simulation is None else simulation.model_dump()),
        "data": None if data is None else _digest(data),
        **({} if until is None else {"until": until}),
        **({"ranks": ranks} if ranks > 1 else {}),
    }
    return json.loads(json.dumps(table))  # pairs become lists, as they are read back


def _digest(data: Events) -> str:
    """Digest of all that training takes from events, positions and noise included."""
    digest = hashlib.sha256()
    for array in (data.momenta, data.positions, data.sigma):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
