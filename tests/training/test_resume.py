"""A training that was interrupted is, to the bit, the one that was not; a bad checkpoint is refused."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import torch
from quick import FEW

from flowcei.errors import DataError, FlowceiError, StoppedError, UsageError
from flowcei.events.simulation import simulate
from flowcei.reconstruction.fitting import train
from flowcei.training import loop as training
from flowcei.training.checkpoint import CHECKPOINT_VERSION, Checkpoint, read_checkpoint, write_checkpoint
from flowcei.training.schedule import EpochRecord, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.reconstruction.model import Reconstructor

OPTIONS: dict[str, dict[str, Any]] = {
    "cinn": {"couplings": 2, "hidden": 8, "context": 2},
    "ae-cvae": {"hidden": 8, "latent": 2, "depth": 1},
}
SCHEDULE = Schedule(epochs=5, batch=50)
architectures = pytest.mark.parametrize("architecture", sorted(OPTIONS))


class _Stop(Exception):  # noqa: N818 (not an error of flowcei's)
    """Stands for whatever ends a training."""


@pytest.fixture(scope="module")
def recorded() -> Events:
    """Return a small file of events."""
    return simulate("ocs", 260, noise="1%", seed=2)


def _train(architecture: str, data: Events | None = None, **rest: Any) -> Reconstructor:
    given: dict[str, Any] = {"options": OPTIONS[architecture], "schedule": SCHEDULE, "seed": 4}
    return train(architecture, data=data, events_per_epoch=210, rules=FEW, **(given | rest))


def _timeless(records: list[EpochRecord]) -> list[EpochRecord]:
    return [replace(r, seconds=0.0, rows_per_second=0.0) for r in records]


def _assert_same(one: Reconstructor, two: Reconstructor) -> None:
    tensors, expected = one.network.state_dict(), two.network.state_dict()
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name
    cards = [{k: v for k, v in m.training.to_dict().items() if k != "rows_per_second"} for m in (one, two)]
    assert cards[0] == cards[1]


@architectures
@pytest.mark.parametrize("from_file", [True, False])
def test_a_training_interrupted_after_every_epoch_is_the_same(
    architecture: str, tmp_path: Path, recorded: Events, *, from_file: bool
) -> None:
    """Weights, latents, losses, rates and card; `ae-cvae` goes on in both of its phases."""
    data, place = recorded if from_file else None, tmp_path / "c.safetensors"
    whole: list[EpochRecord] = []
    expected = _train(architecture, data, on_epoch=whole.append)
    parts: list[EpochRecord] = []

    def stop(record: EpochRecord) -> None:
        parts.append(record)
        raise _Stop

    for epoch in range(SCHEDULE.epochs):
        with pytest.raises(_Stop):
            _train(architecture, data, checkpoint=place, resume=epoch > 0, on_epoch=stop)
        torch.rand(epoch + 1)  # what the process draws meanwhile changes nothing
    _assert_same(_train(architecture, data, checkpoint=place, resume=True, seed=None), expected)
    assert _timeless(parts) == _timeless(whole)
    assert [r.phase for r in parts] == ([1, 1, 2, 2, 2] if architecture == "ae-cvae" else [1] * 5)
    assert all(a.seconds < b.seconds for a, b in zip(parts, parts[1:], strict=False))


@architectures
@pytest.mark.parametrize("step", [1, 5, 8, 12, 25])
def test_a_training_interrupted_within_an_epoch_is_the_same(
    architecture: str, step: int, tmp_path: Path
) -> None:
    """Five steps an epoch: what was done of the epoch is done again."""
    place, expected, steps = tmp_path / "c.safetensors", _train(architecture), count(1)

    def stop(*_: object) -> None:
        if next(steps) == step:
            raise _Stop

    with pytest.raises(_Stop):
        _train(architecture, checkpoint=place, on_step=stop)
    assert len(read_checkpoint(place).records) == (step - 1) // 5
    _assert_same(_train(architecture, checkpoint=place, resume=True), expected)


def test_patience_is_remembered(tmp_path: Path) -> None:
    """The rate is mad from the start: the training ends by patience, also after an interruption."""
    wild: dict[str, Any] = {"schedule": Schedule(epochs=30, batch=20, learning_rate=0.5, patience=2)}
    whole: list[EpochRecord] = []
    expected = _train("ae-cvae", on_epoch=whole.append, **wild)
    assert len(whole) < 30
    place = tmp_path / "c.safetensors"

    def stop(_: EpochRecord) -> None:
        raise _Stop

    for _ in whole:
        with pytest.raises(_Stop):
            _train("ae-cvae", checkpoint=place, resume=place.exists(), on_epoch=stop, **wild)
    _assert_same(_train("ae-cvae", checkpoint=place, resume=True, on_epoch=stop, **wild), expected)


def test_when_the_time_is_up_the_epochs_so_far_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by a second a look; each call gets 20 of them; no two results."""
    seconds = count()
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(seconds)))
    expected, place, kept, said = _train("cinn"), tmp_path / "c.safetensors", [], []
    model = None
    while model is None:
        try:
            model = _train("cinn", checkpoint=place, resume=place.exists(), max_seconds=20.0)
        except StoppedError as stop:
            kept.append(len(read_checkpoint(place).records))
            said.append(str(stop))
    assert said == [f"the time is up: {n} of 5 epochs are saved" for n in kept]
    assert kept == sorted(set(kept))
    assert len(kept) > 1
    _assert_same(model, expected)


def test_a_limit_needs_a_checkpoint(tmp_path: Path) -> None:
    """Else all would be lost."""
    for given in ({"max_seconds": 5.0}, {"max_seconds": 0.0, "checkpoint": tmp_path / "c.safetensors"}):
        with pytest.raises(UsageError, match="max_seconds"):
            _train("cinn", **given)


def test_a_checkpoint_is_resumed_only_where_it_is_meant(tmp_path: Path) -> None:
    """There and not meant, meant and not there, or meant and not named."""
    place = tmp_path / "c.safetensors"
    with pytest.raises(UsageError, match="no file"):
        _train("cinn", checkpoint=place, resume=True)
    with pytest.raises(UsageError, match="needs the checkpoint"):
        _train("cinn", resume=True)
    _train("cinn", checkpoint=place)
    with pytest.raises(UsageError, match="unfinished"):
        _train("cinn", checkpoint=place)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"seed": 5}, "seed is 5; the training was begun with 4"),
        ({"schedule": Schedule(epochs=6, batch=50)}, "epochs is 6; the training was begun with 5"),
        ({"schedule": Schedule(epochs=5, batch=20)}, "batch is 20"),
        ({"options": OPTIONS["cinn"] | {"hidden": 9}}, "hidden is 9"),
        ({"prior": "stretched"}, "prior is"),
        ({"molecule": "co2"}, "molecule is"),
        ({"noise": "1%"}, "noise is"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, given: dict[str, Any], what: str) -> None:
    """And the checkpoint is as it was."""
    place = tmp_path / "c.safetensors"
    _train("cinn", checkpoint=place)
    before = place.read_bytes()
    with pytest.raises(UsageError, match=what):
        _train("cinn", checkpoint=place, resume=True, **given)
    assert place.read_bytes() == before


@pytest.mark.parametrize("part", ["momenta", "positions"])
def test_data_that_have_changed_are_refused(tmp_path: Path, recorded: Events, part: str) -> None:
    """One number, in momenta or in positions."""
    place = tmp_path / "c.safetensors"
    _train("cinn", recorded, checkpoint=place)
    other = getattr(recorded, part).copy()
    other[7, 1, 2] += 1e-9
    with pytest.raises(DataError, match="not those of the training that was begun"):
        _train("cinn", replace(recorded, **{part: other}), checkpoint=place, resume=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return a checkpoint of two steps."""
    place = tmp_path_factory.mktemp("kept") / "c.safetensors"
    _train("cinn", checkpoint=place, schedule=Schedule(epochs=1, batch=150))
    return read_checkpoint(place)


def test_damaged_checkpoints_are_refused_in_one_line(tmp_path: Path, kept: Checkpoint) -> None:
    """Cut anywhere, or with one bit changed anywhere: exit code 3, the file named."""
    place = tmp_path / "c.safetensors"
    write_checkpoint(kept, place)
    sound = place.read_bytes()
    flipped = [sound[:k] + bytes([sound[k] ^ 0x10]) + sound[k + 1 :] for k in range(7, len(sound), 499)]
    cut = [sound[:k] for k in range(1, len(sound), 2003)]
    for content in [*flipped, *cut, b"hello", bytes(4000)]:
        place.write_bytes(content)
        with pytest.raises(DataError, match="is no checkpoint of flowcei, or is damaged") as caught:
            read_checkpoint(place)
        assert str(caught.value).startswith(str(place))
        assert len(str(caught.value).splitlines()) == 1


def test_what_pickles_is_refused(tmp_path: Path, kept: Checkpoint) -> None:
    """An archive of torch, compressed or not, is not opened; another version is named."""
    place = tmp_path / "c.safetensors"
    torch.save({"format_version": 1}, place)
    with pytest.raises(DataError, match="no checkpoint of flowcei"):
        read_checkpoint(place)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(1 << 26))
    with pytest.raises(DataError, match="no checkpoint of flowcei"):
        read_checkpoint(place)
    later = CHECKPOINT_VERSION + 1
    write_checkpoint(kept.model_copy(update={"format_version": later}), place)
    with pytest.raises(DataError, match=f"has format {later}, and {CHECKPOINT_VERSION} is read here"):
        read_checkpoint(place)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"seed": -1}},
        {"settings": {"seed": True}},
        {"settings": {"seed": 4, "noise": "a\x1b[2J"}},
        {"settings": 7},
        {"machine": [1]},
        {"records": {"epoch": 2}},
        {"records": {"epoch": 1.0}},
        {"records": {"phase": 0}},
        {"records": {"phase": 3}},
        {"records": {"validation_loss": None}},
        {"records": {"seconds": "long"}},
    ],
)
def test_a_description_of_other_kinds_is_refused(
    tmp_path: Path, kept: Checkpoint, change: dict[str, Any]
) -> None:
    """Signed anew, as somebody who means harm would: fields of other types, ranges and order."""
    place = tmp_path / "c.safetensors"
    if "records" in change:
        change = {"records": [replace(kept.records[0], **change["records"])]}
    write_checkpoint(kept.model_copy(update=change), place)
    with pytest.raises(DataError, match="is damaged; begin the training anew"):
        read_checkpoint(place)


def _refused(place: Path, state: Checkpoint, what: str) -> None:
    write_checkpoint(state, place)
    before = torch.get_rng_state()
    with pytest.raises(DataError, match=what) as caught:
        _train("cinn", checkpoint=place, resume=True, schedule=Schedule(epochs=1, batch=150))
    assert len(str(caught.value).splitlines()) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_every_tensor_of_a_checkpoint_is_compared_with_the_model(tmp_path: Path, kept: Checkpoint) -> None:
    """Shapes, types, numbers and names of weights, moments and generators; signed anew."""
    place = tmp_path / "c.safetensors"
    for part in ("model", "best", "moments", "random"):
        own: dict[str, torch.Tensor] = getattr(kept, part)
        name = max(own, key=lambda k: own[k].numel())
        tensor = own[name]
        bad = [
            tensor[:1],
            tensor.flatten()[: tensor.numel() // 2],
            tensor.to(torch.int32),
            torch.zeros(1, 1, 1),
        ]
        bad += [torch.full_like(tensor, torch.nan)] if tensor.is_floating_point() else []
        for other in bad:
            _refused(place, kept.model_copy(update={part: own | {name: other}}), "does not fit the model")
        if part != "random":
            fewer = {k: v for k, v in own.items() if k != name}
            _refused(place, kept.model_copy(update={part: fewer}), "does not fit the model")
            more = own | {"another": tensor}
            _refused(place, kept.model_copy(update={part: more}), "does not fit the model")
    for name in ("steps", "mean_square"):
        below = kept.moments | {name: -1 - kept.moments[name]}
        _refused(place, kept.model_copy(update={"moments": below}), "below 0")
    order = next(k for k, v in kept.model.items() if not v.is_floating_point())
    far = kept.model | {order: kept.model[order] + 1_000_000}
    _refused(place, kept.model_copy(update={"model": far}), "no permutation")
    late = [replace(kept.records[0], phase=2)]
    _refused(place, kept.model_copy(update={"records": late}), "is in phase 2 of 1")


def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, kept: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In taking its place, or when the disk is asked to have it: one line, no half of a file."""
    place = tmp_path / "c.safetensors"
    write_checkpoint(kept, place)
    before = place.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(
                FlowceiError, match=r"c\.safetensors cannot be written \(No space left on device\)"
            ):
                write_checkpoint(kept.model_copy(update={"records": []}), place)
        assert place.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_gradients_of_an_earlier_phase_do_not_clip_a_later_one() -> None:
    """What rests in a phase has no share in the norm, or a resumed training would differ."""
    model = _train("ae-cvae", schedule=Schedule(epochs=2, batch=50, clip=1e-3)).network
    still = [p.grad for name, p in model.named_parameters() if name.startswith("position_")]
    moved = [p.grad for name, p in model.named_parameters() if not name.startswith("position_")]
    norms = [float(torch.stack([g.norm() for g in part if g is not None]).norm()) for part in (still, moved)]
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)
