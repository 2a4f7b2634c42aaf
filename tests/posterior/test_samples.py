"""Posterior samples: the container, and files written whole or part by part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import pytest

import flowcei
from flowcei.errors import DataError, UsageError
from flowcei.events.simulation import simulate
from flowcei.events.storage import write_events
from flowcei.molecules.molecule import Molecule
from flowcei.posterior.files import check_samples_path, read_samples, stream_samples, write_samples
from flowcei.posterior.flags import unexplained
from flowcei.posterior.samples import PosteriorSamples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVENTS, DRAWS = 6, 5


def _samples(molecule: str = "ocs", *, density: bool = True) -> PosteriorSamples:
    mol = Molecule.load(molecule)
    rng = np.random.default_rng(0)
    return PosteriorSamples(
        molecule=mol,
        momenta=rng.standard_normal((EVENTS, len(mol), 3)),
        positions=rng.standard_normal((EVENTS, DRAWS, len(mol), 3)).astype(np.float32),
        log_prob=rng.standard_normal((EVENTS, DRAWS)) if density else None,
        event_id=np.arange(EVENTS) * 3 + 1,
        sigma=np.full(EVENTS, 0.5),
        origin={"seed": 7, "events": {"prior": {"kind": "ball"}}},
    )


def _same(found: PosteriorSamples, expected: PosteriorSamples) -> None:
    for name in ("momenta", "positions", "log_prob", "event_id", "sigma"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        assert a is None or (np.array_equal(a, b) and a.dtype == b.dtype), name
    assert found.molecule.same_ions(expected.molecule)
    assert found.origin == expected.origin


def _cut(samples: PosteriorSamples, size: int) -> Iterator[PosteriorSamples]:
    for first in range(0, len(samples), size):
        yield samples[first : first + size]


@pytest.mark.parametrize("molecule", ["ocs", "co2", "ch4"])
@pytest.mark.parametrize("density", [True, False])
@pytest.mark.parametrize("ending", [".h5", ".hdf5"])
def test_samples_return_from_hdf5(tmp_path: Path, molecule: str, *, density: bool, ending: str) -> None:
    """Every array with its type, molecule and origin; float32 positions, as they were."""
    samples = _samples(molecule, density=density)
    path = tmp_path / f"samples{ending}"
    write_samples([samples], path)
    _same(read_samples(path), samples)


def test_hdf5_says_its_units(tmp_path: Path) -> None:
    """Bohr, hbar / bohr, and a density per bohr^6 for three ions."""
    write_samples([_samples()], tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5") as file:
        units = {name: data.attrs.get("unit") for name, data in file.items()}
        assert file["positions"].dtype == np.float32
        assert file.attrs["content"] == "flowcei samples"
    assert units["positions"] == "bohr"
    assert units["momenta"] == units["sigma"] == "hbar/bohr"
    assert units["log_prob"] == "log(1/bohr^6)"


@pytest.mark.parametrize("ending", ["h5", "csv"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_streamed_in_parts_equals_at_once(tmp_path: Path, ending: str, size: int) -> None:
    """Parts of one, of four and of all events make the same file."""
    samples = _samples()
    write_samples([samples], tmp_path / f"whole.{ending}")
    write_samples(_cut(samples, size), tmp_path / f"parts.{ending}")
    if ending == "csv":
        assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    else:
        _same(read_samples(tmp_path / "parts.h5"), samples)


@pytest.mark.parametrize("at_once", [DRAWS, 7 * DRAWS, None])
@pytest.mark.parametrize("every", [1, 2, 20, 60])
def test_some_events_are_read_wherever_they_are(tmp_path: Path, every: int, at_once: int | None) -> None:
    """One after the other, with few between and with many, however many at once."""
    samples = PosteriorSamples.concatenate([_samples()] * 40)
    write_samples([samples], tmp_path / "s.h5")
    rows = np.union1d(np.arange(3, len(samples), every), [0, 1, 5])
    blocks = list(stream_samples(tmp_path / "s.h5", at_once, rows))
    assert max(map(len, blocks)) == (len(rows) if at_once is None else min(at_once // DRAWS, len(rows)))
    _same(PosteriorSamples.concatenate(blocks), samples[rows])


@pytest.mark.parametrize("density", [True, False])
def test_csv_has_a_row_a_sample(tmp_path: Path, *, density: bool) -> None:
    """event, sample, nine positions and, where there is one, log_prob to 1e-6."""
    samples = _samples(density=density)
    write_samples([samples], tmp_path / "s.csv")
    table = pd.read_csv(tmp_path / "s.csv")
    names = [f"{label}{axis}" for label in "cos" for axis in "xyz"]
    assert list(table.columns) == ["event", "sample", *names, *(["log_prob"] if density else [])]
    assert len(table) == EVENTS * DRAWS
    assert list(table["event"]) == list(np.repeat(samples.event_id, DRAWS))
    assert list(table["sample"]) == list(range(DRAWS)) * EVENTS
    found = table[names].to_numpy().astype(np.float32).reshape(samples.positions.shape)
    np.testing.assert_array_equal(found, samples.positions)
    if samples.log_prob is not None:
        np.testing.assert_allclose(table["log_prob"], samples.log_prob.reshape(-1), atol=5.1e-7)


@pytest.mark.parametrize("draws", [4, 10, 40])
def test_an_event_is_unexplained_where_no_sample_explains_it(draws: int) -> None:
    """As all samples say, whichever it is that does: the first, the last, none; whatever the noise."""
    events = simulate("ocs", 60, noise="0.2%..5%", seed=2)
    drawn = replace(flowcei.load().sample(events, draws, seed=1), sigma=events.sigma)
    away = drawn.positions * np.float32(1.5)
    for first in (0, draws // 2, draws - 1, draws):
        mixed = np.concatenate([away[:, :first], drawn.positions[:, first:]], axis=1)
        mixed[30:] = np.concatenate(
            [drawn.positions[30:, : draws - first], away[30:, draws - first :]], axis=1
        )
        found = replace(drawn, positions=mixed)
        misfit = found.likelihood.chi_squared(mixed).min(axis=1)
        expected = misfit > found.likelihood.most_misfit
        np.testing.assert_array_equal(unexplained(found), expected)
        assert expected.all() == (first == draws)
        assert first > 0 or not expected.all()


def test_some_events_and_all_again() -> None:
    """Slices keep numbers; concatenated, they are the whole."""
    samples = _samples()
    assert len(samples) == EVENTS
    assert list(samples[2:4].event_id) == [7, 10]
    _same(PosteriorSamples.concatenate(list(_cut(samples, 4))), samples)
    no_density = _samples(density=False)
    _same(PosteriorSamples.concatenate(list(_cut(no_density, 4))), no_density)


def test_the_mean_is_over_the_samples_of_an_event() -> None:
    """(E, N, 3), in double precision."""
    samples = _samples()
    assert samples.mean().dtype == np.float64
    np.testing.assert_allclose(samples.mean(), samples.positions.astype(float).mean(axis=1))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("positions", (EVENTS, DRAWS, 4, 3)),
        ("positions", (EVENTS,)),
        ("positions", ()),
        ("momenta", (EVENTS, 4, 3)),
        ("log_prob", (EVENTS, DRAWS + 1)),
        ("event_id", (EVENTS + 1,)),
        ("sigma", (1,)),
    ],
)
def test_shapes_that_do_not_match_are_refused(name: str, shape: tuple[int, ...]) -> None:
    """DataError saying what came and what was expected."""
    with pytest.raises(DataError, match="expected"):
        replace(_samples(), **{name: np.ones(shape)})


@pytest.mark.parametrize("ending", ["h5", "csv"])
def test_nothing_is_replaced_unasked_or_left_half_written(tmp_path: Path, ending: str) -> None:
    """An existing file stays; an error in the middle of a stream leaves nothing behind."""
    samples, path = _samples(), tmp_path / f"s.{ending}"

    def broken() -> Iterator[PosteriorSamples]:
        yield samples[:2]
        msg = "stopped"
        raise KeyboardInterrupt(msg)

    with pytest.raises(KeyboardInterrupt):
        write_samples(broken(), path)
    assert not list(tmp_path.iterdir())
    path.write_text("somebody's")
    with pytest.raises(UsageError, match="exists"):
        write_samples([samples], path)
    with pytest.raises(KeyboardInterrupt):
        write_samples(broken(), path, overwrite=True)
    assert path.read_text() == "somebody's"
    write_samples([samples], path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_paths_are_checked_before_any_work(tmp_path: Path) -> None:
    """Another ending, a folder that is not there."""
    for path, word in (
        (tmp_path / "s.txt", "h5, .csv or .parquet"),
        (tmp_path / "no" / "s.h5", "does not exist"),
    ):
        with pytest.raises(UsageError, match=word):
            check_samples_path(path, overwrite=False)


def _replaced(name: str, data: object) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        if data is not None:
            file[name] = data

    return edit


def _empty(file: h5py.File) -> None:
    for name in list(file):
        file[name].resize(0, axis=0)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        *((_replaced(k, None), f"/{k} is not") for k in ("positions", "momenta", "event", "sigma")),
        (_replaced("positions", 1.0), "shape"),
        (_replaced("positions", "text"), "/positions is not"),
        (_replaced("positions", np.ones(EVENTS)), "shape"),
        (_replaced("positions", np.ones((EVENTS, DRAWS, 4, 3))), "shape"),
        (_replaced("momenta", np.ones((4, 3, 3))), "shape"),
        (_replaced("log_prob", np.ones((EVENTS, DRAWS + 1))), "shape"),
        (_replaced("momenta", h5py.ExternalLink("other.h5", "/momenta")), "/momenta is not"),
        (_replaced("momenta", h5py.SoftLink("/positions")), "/momenta is not"),
        (lambda file: file["positions"].__setitem__((0, 0, 0), np.nan), "not finite"),
        (lambda file: file["momenta"].__setitem__((0, 0, 0), np.inf), "not finite"),
        (_empty, "no samples"),
        (lambda file: file.attrs.__setitem__("content", "flowcei events"), "not of samples"),
        (lambda file: file.attrs.__setitem__("content", [1, 2]), "not of samples"),
        (lambda file: file.attrs.__delitem__("molecule"), "not of samples"),
        (lambda file: file.attrs.__setitem__("molecule", "{"), "not JSON"),
        (lambda file: file.attrs.__setitem__("molecule", '{"symbols": ["C"]}'), "the molecule lacks"),
        (lambda file: file.attrs.__setitem__("origin", "[]"), "no table"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, edit: Callable[[h5py.File], None], word: str) -> None:
    """Missing, misshapen, linked or not finite: DataError that begins with the file's name."""
    path = tmp_path / "s.h5"
    write_samples([_samples()], path)
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(DataError, match=word) as caught:
        read_samples(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("keep", [9, 600, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, keep: float) -> None:
    """Cut anywhere after the signature."""
    path = tmp_path / "s.h5"
    write_samples([_samples()], path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(DataError, match="damaged") as caught:
        read_samples(path)
    assert str(caught.value).startswith(str(path))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    """A CSV, events, an empty file, none at all."""
    samples = _samples()
    write_samples([samples], tmp_path / "s.csv")
    write_events(simulate("ocs", 3, seed=1), tmp_path / "events.h5")
    (tmp_path / "empty.h5").touch()
    for name, word in (("s.csv", "not HDF5"), ("events.h5", "not of samples"), ("empty.h5", "empty")):
        with pytest.raises(DataError, match=word):
            read_samples(tmp_path / name)
    with pytest.raises(UsageError, match=r"none\.h5"):
        read_samples(tmp_path / "none.h5")


def test_what_there_is_is_said_in_a_line() -> None:
    """As a notebook shows it: no arrays, but how many, of what, and how many not to trust."""
    events, model = flowcei.simulate("ocs", 6, noise="1%", seed=1), flowcei.load()
    wrong = replace(events, momenta=events.momenta * np.where(np.arange(6) < 2, 3.0, 1.0)[:, None, None])
    assert (
        repr(replace(events, columns={"delay": np.arange(6.0)}))
        == "Events: 6 of ocs, positions, noise, delay"
    )
    assert repr(flowcei.Events("ocs", events.momenta)) == "Events: 6 of ocs"
    assert repr(model) == "Reconstructor: cinn of ocs, prior equilibrium, noise 0.1%..5%/axis"
    assert repr(flowcei.Molecule.load("h2o")).startswith("Molecule: h2o (o +1 h1 +1 h2 +1), priors ")
    drawn = model.sample(wrong, 20, seed=1)
    assert repr(drawn) == "PosteriorSamples: 6 events x 20 samples of ocs, 2 flagged"
    assert repr(drawn.weigh()).startswith("PosteriorSamples: 6 events x 20 samples of ocs, weighed")
