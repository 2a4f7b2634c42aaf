"""Model files of released versions still answer what they answered, wherever they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from forged import parts

from flowcei.events.container import events_of
from flowcei.events.simulation import simulate
from flowcei.models.registry import ARCHITECTURES
from flowcei.reconstruction.loading import load
from flowcei.storage.card import FORMAT_VERSION, MIGRATIONS
from flowcei.storage.modelfile import checksum, read_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from flowcei.models.interface import InverseModel
    from flowcei.reconstruction.model import Reconstructor

FOLDER = Path(__file__).parents[1] / "data" / "models-v1"
ANSWERS: dict[str, dict[str, Any]] = json.loads((FOLDER / "answers.json").read_text())
FLOWS = sorted(name for name, said in ANSWERS.items() if "log_prob" in said)
ROUNDING = 1e-5  # single precision, on another processor
SAMPLES = 64


def _file(name: str) -> Path:
    return FOLDER / f"{name}.safetensors"


def test_every_architecture_has_a_file() -> None:
    """Of the format of this folder, which is never made again; a later one is not in it. All stay small."""
    files = sorted(FOLDER.glob("*.safetensors"))
    stored = {read_model(path)[0].architecture for path in files}
    assert len(stored) == 9
    assert stored <= set(ARCHITECTURES)
    assert sorted(path.stem for path in files) == sorted(ANSWERS)
    assert sum(path.stat().st_size for path in files) < 300_000


def _drawn(model: Reconstructor, momenta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return samples (3, SAMPLES, N, 3) of the random numbers that answers.json was made with.

    Which numbers a seed means may change from version to version; what a model makes of them may not.
    """
    events = events_of(momenta, model.molecule)
    framed, condition = model.enter(events.momenta, model.sigma(events, "1%"))
    generator = np.random.default_rng(np.random.SeedSequence(2))
    drawn, _ = model.sampler.draw(condition, SAMPLES, latent="prior", generator=generator)
    return model.frame.to_positions(model.chart_standardiser.inverse(drawn), framed)[0]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_old_file_answers_what_it_answered(name: str) -> None:
    """Densities and bounds to 1e-5, means of samples to 1e-4 bohr."""
    said, model = ANSWERS[name], load(_file(name))
    momenta, x = np.array(said["momenta"]), np.array(said["positions"])
    assert model.sample(momenta, SAMPLES, noise="1%").positions.shape == (3, SAMPLES, *momenta.shape[1:])
    if model.architecture != "solver":  # whose searches may end elsewhere on another processor
        np.testing.assert_allclose(_drawn(model, momenta).mean(axis=1), said["mean"], atol=1e-4)
    if "log_prob" in said:
        found = model.log_prob(x, momenta, noise="1%")
        np.testing.assert_allclose(found, said["log_prob"], rtol=ROUNDING, atol=ROUNDING)
    if "log_prob_bound" in said:
        found = model.log_prob(x, momenta, noise="1%", draws=8)
        np.testing.assert_allclose(found, said["log_prob_bound"], rtol=ROUNDING, atol=ROUNDING)
    assert model.sampler.has_density == ("log_prob" in said)


def test_the_files_are_of_format_1_and_migrate() -> None:
    """What stood loose is found in its new place; nothing of the rest is lost."""
    old, tensors = parts(_file("cinn-glow"))
    assert (old["format_version"], set(old) & {"checksum"}) == (1, set())
    card = read_model(_file("cinn-glow"))[0]
    assert (card.format_version, card.checksum) == (FORMAT_VERSION, None)
    training = card.training.to_dict()
    assert training.pop("versions") == {k: old["training"].pop(k) for k in ("flowcei", "torch")}
    assert training.pop("simulation") == {"events_per_epoch": old["training"].pop("events_per_epoch")}
    assert training == old["training"]
    for part in ("architecture", "options", "molecule", "flowcei"):
        assert getattr(card, part) == old[part]
    assert len(checksum(tensors)) == len("sha256:") + 64


def test_every_older_version_has_a_migration() -> None:
    """From 1 to the newest without a gap."""
    assert sorted(MIGRATIONS) == list(range(1, FORMAT_VERSION))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_old_file_saved_again_is_one_of_today(name: str, tmp_path: Path) -> None:
    """Same weights and answers to the bit, now with a checksum; saved once more, the same content."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    old = load(_file(name))
    old.save(one)
    new = load(one)
    new.save(two)
    card, tensors = parts(one)
    again, more = parts(two)  # the library writes metadata in any order
    assert again == card
    assert checksum(more) == checksum(tensors)
    assert card["format_version"] == FORMAT_VERSION
    assert card["checksum"] == checksum(tensors) == checksum(parts(_file(name))[1])
    momenta = np.array(ANSWERS[name]["momenta"])
    drawn = [m.sample(momenta, 5, noise="1%", seed=1).positions for m in (old, new)]
    assert np.array_equal(*drawn)


def test_the_checksum_sees_names_types_shapes_and_bytes() -> None:
    """Any of them another, another sum; the order in which tensors come is none."""
    a, b = np.arange(4, dtype=np.float32), np.zeros((2, 2), np.float32)
    whole = checksum({"a": a, "b": b})
    assert checksum({"b": b, "a": a}) == whole
    others = [
        {"a": b, "b": a},
        {"a": a, "c": b},
        {"a": a},
        {"a": a.reshape(2, 2), "b": b},
        {"a": a.astype(np.float64), "b": b},
        {"a": a, "b": -b},
        {"a": a, "b": b.astype(np.int64)},
    ]
    sums = [checksum(other) for other in others]
    assert len({whole, *sums}) == 1 + len(others)
    assert checksum({"a": np.asfortranarray(a.reshape(2, 2))}) == checksum({"a": a.reshape(2, 2)})


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """`threads(2)` lets PyTorch and kernels use two; afterwards as many as before."""

    def use(count: int) -> None:
        torch.set_num_threads(count)
        monkeypatch.setenv("OMP_NUM_THREADS", str(count))

    before = torch.get_num_threads()
    yield use
    torch.set_num_threads(before)


@torch.no_grad()
def _double(network: InverseModel, x: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float64]:
    return network.log_prob(torch.from_numpy(x).double(), torch.from_numpy(c).double()).numpy()


def _densities(model: Reconstructor) -> NDArray[np.float64]:
    """Return the log density of each of 3,000 geometries: enough rows for several threads."""
    events = simulate(model.molecule, 3000, noise="1%", seed=8)
    assert events.positions is not None
    return model.log_prob(events.positions[:, None], events.momenta, noise="1%")


@pytest.mark.parametrize("name", FLOWS)
def test_the_number_of_threads_changes_no_density(name: str, threads: Callable[[int], None]) -> None:
    """One or two: the same to 1e-5."""
    threads(1)
    one = _densities(load(_file(name)))
    threads(2)
    two = _densities(load(_file(name)))
    np.testing.assert_allclose(two, one, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", FLOWS)
def test_a_cuda_device_gives_the_same_densities(name: str, tmp_path: Path) -> None:
    """Within the rounding of single precision, as double precision shows it; a file has the same content."""
    here, there, exact = load(_file(name)), load(_file(name), device="cuda"), load(_file(name))
    network = load(_file(name)).network.double()
    exact.sampler = network
    network.density = lambda x, c, **_: _double(network, x, c)
    double = _densities(exact)
    rounding = np.abs(_densities(here) - double).max()
    assert rounding < 1e-4
    np.testing.assert_allclose(_densities(there), double, rtol=ROUNDING, atol=3.0 * rounding)
    here.save(tmp_path / "here.safetensors")
    there.save(tmp_path / "there.safetensors")
    assert read_model(tmp_path / "here.safetensors")[0] == read_model(tmp_path / "there.safetensors")[0]
