"""Model files: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
import torch
from forged import edited, forge, parts
from safetensors.numpy import save_file
from shell import Shell

from flowcei.errors import DataError, FlowceiError, UsageError
from flowcei.events.simulation import simulate
from flowcei.models.registry import ARCHITECTURES
from flowcei.reconstruction import building, loading
from flowcei.reconstruction.fitting import train
from flowcei.reconstruction.loading import load
from flowcei.reconstruction.storable import check_storable
from flowcei.storage import modelfile
from flowcei.storage.card import FORMAT_VERSION
from flowcei.storage.modelfile import read_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.events.container import Events
    from flowcei.reconstruction.model import Reconstructor

NAME = "mine.safetensors"


@pytest.fixture(scope="module")
def written(tiny_cinn: Reconstructor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small flow."""
    path = tmp_path_factory.mktemp("model") / "whole.safetensors"
    tiny_cinn.save(path)
    return path


def _with_record(model: Reconstructor, **record: object) -> Reconstructor:
    """Return a model whose training says something else."""
    return replace(model, training=model.training.model_copy(update=record))


def _refused(path: Path, what: str | None = None) -> None:
    """Assert that a file is refused, that the message names it and says what is wrong."""
    with pytest.raises(DataError, match=what) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_model_returns_from_its_file(
    tiny: Callable[[str, str], Reconstructor], architecture: str, tmp_path: Path, ocs_events: Events
) -> None:
    """Same samples and densities, to the bit, from either kind of latent; same description."""
    model = tiny(architecture, "ocs")
    model.save(tmp_path / NAME)
    again = load(tmp_path / NAME)
    for latent in ("prior", "training") if model.sampler.has_latent else ("prior",):
        one = model.sample(ocs_events, 6, latent=latent, seed=1)
        two = again.sample(ocs_events, 6, latent=latent, seed=1)
        assert np.array_equal(one.positions, two.positions)
        if one.log_prob is not None:
            assert np.array_equal(one.log_prob, two.log_prob)
            found = again.log_prob(one.positions, ocs_events)
            assert np.array_equal(found, model.log_prob(one.positions, ocs_events))
    assert again.training.to_dict() == json.loads(json.dumps(model.training.to_dict()))
    assert again.frame == model.frame
    assert again.noise == model.noise
    assert again.molecule.same_ions(model.molecule)
    assert not again.network.training


@pytest.mark.parametrize("molecule", ["co2", "ch4", "chbrclf"])
def test_other_molecules_return_too(
    tiny: Callable[[str, str], Reconstructor], molecule: str, tmp_path: Path
) -> None:
    """Frame, identical ions and handedness are part of the file."""
    model = tiny("cinn", molecule)
    model.save(tmp_path / NAME)
    assert load(tmp_path / NAME).frame == model.frame
    assert load(tmp_path / NAME).molecule.identical == model.molecule.identical


def test_a_card_is_read_without_building(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`read_model` says what a model is; no network is made."""
    for module, name in ((building, "build_model"), (loading, "CompiledFlow")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a model was built"))
    card = read_model(written)[0]
    assert (card.format_version, card.architecture) == (FORMAT_VERSION, "cinn")
    assert card.training.seed == 11


def test_the_folder_of_a_run_is_its_model(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """A folder stands for the model.safetensors in it; without one it is refused."""
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        load(tmp_path)
    tiny_cinn.save(tmp_path / "model.safetensors")
    assert load(tmp_path).architecture == "cinn"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """UsageError with the name."""
    for read in (load, read_model):
        with pytest.raises(UsageError, match=NAME):
            read(tmp_path / NAME)


@pytest.mark.parametrize("content", [b"", b"text, not a model\n" * 20, b"\x00" * 4096, b"\xff" * 64])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, text, zeros, ones."""
    (tmp_path / NAME).write_bytes(content)
    _refused(tmp_path / NAME)


def test_samples_in_place_of_a_model_are_named(tmp_path: Path) -> None:
    """Not by the length of a header that they do not have."""
    (tmp_path / "s.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match="an HDF5 file, of events or samples, and no model"):
        load(tmp_path / "s.h5")


@pytest.mark.parametrize("keep", [7, 8, 200, 0.5, 0.99])
def test_a_truncated_file_is_refused(written: Path, tmp_path: Path, keep: float) -> None:
    """Cut anywhere: in the length, in the header, in the tensors."""
    whole = written.read_bytes()
    (tmp_path / NAME).write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    _refused(tmp_path / NAME, "damaged")


class _Bomb:
    """What a malicious pickle does when it is loaded."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (self._target, "w"))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    """A pickle and a torch file renamed to .safetensors: refused, their code not run."""
    trace = tmp_path / "was-run"
    (tmp_path / NAME).write_bytes(pickle.dumps(_Bomb(str(trace))))
    _refused(tmp_path / NAME)
    torch.save({"model": _Bomb(str(trace))}, tmp_path / NAME)
    _refused(tmp_path / NAME)
    assert not trace.exists()


def test_a_foreign_safetensors_is_refused(tmp_path: Path) -> None:
    """With no description, or with somebody else's."""
    save_file({"weight": np.zeros(3)}, tmp_path / NAME)
    _refused(tmp_path / NAME, "not a model of flowcei")
    save_file({"weight": np.zeros(3)}, tmp_path / NAME, metadata={"format": "pt"})
    _refused(tmp_path / NAME, "not a model of flowcei")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"text"', "{}"])
def test_a_description_that_is_no_table_is_refused(written: Path, tmp_path: Path, text: str) -> None:
    """Broken JSON, lists, numbers, nothing."""
    _refused(forge(tmp_path / NAME, text, parts(written)[1]))


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.0, FORMAT_VERSION + 1])
def test_a_wrong_format_version_is_refused(written: Path, tmp_path: Path, version: object) -> None:
    """Not a version, or one of the future: then the advice is to upgrade."""
    card, tensors = parts(written)
    path = forge(tmp_path / NAME, card | {"format_version": version}, tensors)
    _refused(path, "upgrade" if version == FORMAT_VERSION + 1 else "format_version")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("unknown", 1),
        ("frame.unknown", 1),
        ("noise.unknown", 1),
        ("molecule.unknown", 1),
        ("options.wings", 2),
        ("options.hidden", 17),
        ("options.hidden", "wide"),
        ("options.hidden", -16),
        ("options.hidden", 0),
        ("options.hidden", 5000),
        ("options.hidden", 10**12),
        ("options.couplings", 4096),
        ("options.couplings", 2),
        ("options.depth", 4096),
        ("options", {}),
        ("architecture", "transformer"),
        ("architecture", "cvae"),
        ("molecule", {}),
        ("molecule.charges", [1.0, 1.0]),
        ("molecule.masses", {"unit": "electron", "values": [1.0, 2.0, 3.0]}),
        ("frame.masses", [1.0]),
        ("frame.masses", [1.0, 2.0, 3.0]),
        ("frame.masses", [1.0, 2.0, 3.0, 4.0]),
        ("frame.axes", [0, 7]),
        ("frame.tree", [[0, 1]]),
        ("frame.tree", [[0], [1]]),
        ("frame.identical", [[0, 9]]),
        ("noise.low", 3.0),
        ("noise.high", None),
        ("training", None),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    written: Path, tmp_path: Path, place: str, value: object
) -> None:
    """Unknown fields, options beyond or beside the tensors, frames of other molecules."""
    card, tensors = parts(written)
    _refused(forge(tmp_path / NAME, edited(card, place, value), tensors))


@pytest.mark.parametrize("field", ["architecture", "options", "molecule", "frame", "noise", "training"])
def test_a_description_that_lacks_a_field_is_refused(written: Path, tmp_path: Path, field: str) -> None:
    """The message names the field."""
    card, tensors = parts(written)
    del card[field]
    _refused(forge(tmp_path / NAME, card, tensors), field)


def test_a_lying_file_gets_no_memory(written: Path, tmp_path: Path) -> None:
    """Options whose network would fill terabytes are refused before it is allocated."""
    card, tensors = parts(written)
    card["options"] |= {"hidden": 4096, "depth": 60}
    tensors["model.wide"] = np.zeros((1, 4096), np.float32)
    _refused(forge(tmp_path / NAME, card, tensors), "options ask for")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["model.condition_net", "chart.mean", "model.latents.mean"])
def test_weights_that_are_not_finite_are_refused(
    written: Path, tmp_path: Path, part: str, value: float
) -> None:
    """One NaN or infinity, wherever it is."""
    card, tensors = parts(written)
    name = next(k for k in tensors if k.startswith(part))
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = value
    _refused(forge(tmp_path / NAME, card, tensors), "not finite")


@pytest.mark.parametrize("part", ["model.condition_net", "chart.scale", "condition.mean", "model.latents"])
@pytest.mark.parametrize("change", ["shape", "missing"])
def test_tensors_that_do_not_match_are_refused(written: Path, tmp_path: Path, part: str, change: str) -> None:
    """Another shape than the options ask for, or not there at all."""
    card, tensors = parts(written)
    name = next(k for k in tensors if k.startswith(part))
    if change == "shape":
        tensors[name] = np.zeros(tensors[name].size + 1, np.float32)
    else:
        del tensors[name]
    _refused(forge(tmp_path / NAME, card, tensors), "do not fit together")


def test_an_existing_file_is_kept(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """Refused without `overwrite` and left as it was; replaced with it."""
    path = tmp_path / NAME
    path.write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=f"{NAME} exists"):
        tiny_cinn.save(path)
    assert path.read_bytes() == b"somebody's"
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    tiny_cinn.save(path, overwrite=True)
    assert load(path).architecture == "cinn"


def test_nothing_is_left_half_written(
    tiny_cinn: Reconstructor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up half-way: no file, no temporary file, the old one intact."""

    def fill(file: BinaryIO, *_: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modelfile, "write_tensors", fill)
    with pytest.raises(FlowceiError, match="No space"):
        tiny_cinn.save(tmp_path / NAME)
    assert not list(tmp_path.iterdir())
    (tmp_path / NAME).write_bytes(b"old")
    with pytest.raises(FlowceiError, match="No space"):
        tiny_cinn.save(tmp_path / NAME, overwrite=True)
    assert (tmp_path / NAME).read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there_is_refused(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """UsageError naming the folder."""
    with pytest.raises(UsageError, match="nowhere"):
        tiny_cinn.save(tmp_path / "nowhere" / NAME)


def test_a_flow_that_never_inverted_itself_is_not_forgiven_by_its_file(
    tiny_cinn: Reconstructor, tmp_path: Path, ocs_events: Events
) -> None:
    """JSON has no NaN: an error that is none must not come back as no error."""
    for k, error in enumerate((float("nan"), float("inf"))):
        broken = _with_record(tiny_cinn, round_trip_error=error)
        broken.save(tmp_path / f"{k}.safetensors")
        with pytest.raises(UsageError, match="does not invert itself"):
            load(tmp_path / f"{k}.safetensors").sample(ocs_events, 2)


def test_what_a_model_is_called_may_be_odd_but_prints(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """Control characters in a name become question marks when it is written."""
    _with_record(tiny_cinn, name="a\x1b[2J\nb").save(tmp_path / NAME)
    assert load(tmp_path / NAME).training.name == "a?[2J?b"


def test_what_could_not_be_read_again_is_not_written(tiny_cinn: Reconstructor, tmp_path: Path) -> None:
    """A description too large or too deep and weights of another type: refused, and no file left."""
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"a": deep}
    for extra in ({"deep": deep}, {"long": [0.0] * 1_000_001}, {"seed": "one"}, {"huge": 1e60}):
        with pytest.raises(UsageError, match="cannot be stored"):
            _with_record(tiny_cinn, **extra).save(tmp_path / NAME)
    network = tiny_cinn.sampler.in_torch()
    for half in (deepcopy(network).half(), deepcopy(network).bfloat16()):
        with pytest.raises(UsageError, match=r"(?i)float16.* cannot be stored|cannot be stored.*bfloat16"):
            replace(tiny_cinn, sampler=half).save(tmp_path / NAME)
    assert not list(tmp_path.iterdir())


def test_training_says_at_once_that_a_prior_of_the_data_is_damaged() -> None:
    """Not after the last epoch, when the model is to be written."""

    def trained(_: object) -> None:
        pytest.fail("it was trained")

    data = simulate("ocs", 200, noise="1%", seed=1)
    for prior in ("broad", {"kind": "magic"}, {"kind": "internal", "zmatrix": [{}, {}, {}]}):
        with pytest.raises(UsageError):
            train("mlp", data=replace(data, origin={"prior": prior}), on_epoch=trained)


def test_a_prior_too_large_for_a_file_is_refused_before_training(tiny_cinn: Reconstructor) -> None:
    """An ensemble of 80,000 geometries fits no description; one of 10,000 does."""
    geometries = [[[0.123456, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 1.5, 0.0]]] * 80_000
    x, c = torch.zeros(2, tiny_cinn.frame.width), torch.zeros(2, tiny_cinn.frame.condition_width)
    large, small = (
        _with_record(tiny_cinn, prior={"kind": "ensemble", "geometries": geometries[:count]})
        for count in (80_000, 10_000)
    )
    with pytest.raises(UsageError, match=r"could not be stored and read again: .*more than 1,000,000 values"):
        check_storable(large, x, c)
    check_storable(small, x, c)


def test_info_says_all_of_it(
    tiny_cinn: Reconstructor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In words with units, and as JSON just as it stands in the file."""
    monkeypatch.chdir(tmp_path)
    tiny_cinn.save(NAME)
    flow = Shell(monkeypatch, capsys)
    assert flow("info", NAME) == 0
    for words in (
        "cinn (couplings 3,",
        "c 12.011, o 15.999, s 32.06",
        "e1 along s",
        "mean and deviation, bohr hartree",
        "simulated afresh, 3,000 events an epoch",
        "accuracy of momenta 0.0001, events the scaler saw 1500, events of validation 500",
        "0.5%..2% of the rms momentum component",
        "atom s, from c, length normal [2.95, 0.18], angle_to o, angle bend 8.5",
        "(nat), in standardised coordinates",
        "FrEIA 0.2",
        "match their checksum",
        "sha256:",
    ):
        assert words in flow.out
    assert max(map(len, flow.out.splitlines())) < 140
    assert flow("info", NAME, "--json") == 0
    said = json.loads(flow.out)
    assert said["content"] == "model"
    assert said["training"] == json.loads(json.dumps(tiny_cinn.training.to_dict()))
    assert said["checksum"] == read_model(Path(NAME))[0].checksum
    means = [mean for _, mean, _ in said["chart"]["coordinates"]]
    assert means == tiny_cinn.chart_standardiser.mean.tolist()
