"""From events to a model: what is kept apart, what is refused, what the model remembers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quick import QUICK

from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.events.simulation import Simulator, simulate
from flowcei.experiment.detector import DEFAULT_NOISE, NOISE_FLOOR, Noise, rms_component
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.reconstruction.defaults import split_rows
from flowcei.reconstruction.fitting import train
from flowcei.reconstruction.model import Reconstructor
from flowcei.reconstruction.training_data import FreshSource, RecordedSource
from flowcei.training.schedule import Schedule

ONCE = Schedule(epochs=1, batch=100)
SMALL = {"couplings": 2, "hidden": 8, "context": 2}


def _train(data: Events | None = None, **rest: object) -> Reconstructor:
    return train("cinn", data=data, options=SMALL, schedule=ONCE, **({"seed": 4, "rules": QUICK} | rest))


def _source(seed: int = 1) -> FreshSource:
    ocs = Molecule.load("ocs")
    return FreshSource(Simulator(ocs, build_prior(ocs), Noise(0.01, 0.01), seed), 200, QUICK)


def _rows(events: Events) -> set[bytes]:
    return {row.tobytes() for row in events.momenta}


def test_fresh_epochs_share_no_event() -> None:
    """Epochs, validation and pilot: no event is in two of them, no geometry either."""
    source = _source()
    sets = [source.epoch(0), source.epoch(1), source.epoch(2), source.validation(), source.pilot()]
    assert len(set().union(*map(_rows, sets))) == sum(map(len, sets))
    geometries = np.concatenate([s.positions for s in sets if s.positions is not None])
    assert len(np.unique(geometries.reshape(len(geometries), -1), axis=0)) == len(geometries)


def test_fresh_epochs_are_those_of_their_seed() -> None:
    """The same seed gives the same epoch, another seed another."""
    assert _source().epoch(3).digest() == _source().epoch(3).digest()
    assert _source().epoch(3).digest() != _source(2).epoch(3).digest()


@given(n=st.integers(10, 3000), seed=st.integers(0, 2**32))
def test_the_split_is_disjoint_and_whole(n: int, seed: int) -> None:
    """Every row is in exactly one of training, validation and test; 80, 10 and 10 %."""
    parts = split_rows(n, seed)
    assert sorted(np.concatenate(parts)) == list(range(n))
    for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
        assert abs(len(part) - share * n) <= 1
    for part, again in zip(parts, split_rows(n, seed), strict=True):
        assert np.array_equal(part, again)


def test_standardisers_see_training_rows_only() -> None:
    """Rows of validation and test, a hundred times larger, leave mean and deviation as they are."""
    events = simulate("ocs", 400, noise="1%", seed=1)
    training, *held = split_rows(400, seed=4)
    assert events.positions is not None
    positions = events.positions.copy()
    positions[np.concatenate(held)] *= 100.0
    model = _train(replace(events, positions=positions))
    rows = events[np.sort(training)]
    assert rows.sigma is not None
    framed = model.frame.enter(rows.momenta, rows.sigma)
    chart = model.frame.to_chart(rows.positions[:, None], framed)[:, 0]
    np.testing.assert_allclose(model.chart_standardiser.mean, chart.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(model.chart_standardiser.scale, chart.std(axis=0, ddof=1), rtol=1e-7)
    np.testing.assert_allclose(model.condition_standardiser.mean, framed.condition.mean(axis=0), rtol=1e-7)


def test_noise_is_drawn_anew_for_every_epoch_of_a_file() -> None:
    """Training epochs differ in noise only; validation data stay the same."""
    events = simulate("ocs", 200, seed=1)
    source = RecordedSource(events[:150], events[150:], Noise(0.01, 0.01), 7)
    first, second = source.epoch(0), source.epoch(1)
    assert np.array_equal(first.positions, second.positions)
    shift = (first.momenta - events.momenta[:150]) / rms_component(events.momenta[:150])[:, None, None]
    assert shift.std() == pytest.approx(0.01, rel=0.1)
    assert first.digest() != second.digest()
    assert source.validation().digest() == source.validation().digest()
    assert source.epoch(0).digest() == first.digest()


def test_data_of_a_file_make_a_model_that_says_so() -> None:
    """Rows, seed of the split and digest are kept, and the shortest validation loss."""
    events = simulate("ocs", 300, seed=1)
    card = _train(events).training.to_dict()
    assert card["data"] == {"rows": 300, "split_seed": 4, "digest": events.digest(), "noise": NOISE_FLOOR}
    assert card["prior"] == events.origin["prior"]
    assert (card["seed"], card["epochs_run"]) == (4, 1)
    assert np.isfinite(card["validation_loss"])
    assert card["round_trip_error"] < 1e-3
    assert card["schedule"]["batch"] == 100


def test_data_without_positions_are_refused() -> None:
    """Momenta only: there is nothing to learn."""
    with pytest.raises(DataError, match="positions"):
        _train(replace(simulate("ocs", 200, seed=1), positions=None))


def test_too_few_events_are_refused() -> None:
    """Fewer than 100, in a file or an epoch."""
    with pytest.raises(DataError, match="99 events are too few"):
        _train(simulate("ocs", 99, seed=1))
    with pytest.raises(UsageError, match="99 events an epoch"):
        _train(events_per_epoch=99)


def test_a_constant_coordinate_is_refused_by_name() -> None:
    """Planar momenta without noise leave e3 of every bond at 0: no flow has that density."""
    events = simulate("ocs", 200, seed=1)
    tagged = replace(events, sigma=0.01 * rms_component(events.momenta))
    with pytest.raises(DataError, match=r"coordinate c-o\.z .* --noise above 0"):
        _train(tagged)
    assert train("cvae", data=tagged, schedule=ONCE, options={"hidden": 8}, seed=1).architecture == "cvae"


def test_noise_of_the_data_is_the_noise_of_the_model() -> None:
    """The range trained for is that of the file's sigma; adding more is refused."""
    events = simulate("ocs", 300, noise="0.5%..2%", seed=1)
    model = _train(events)
    assert events.sigma is not None
    level = events.sigma / rms_component(events.momenta)
    assert (model.noise.low, model.noise.high) == pytest.approx((level.min(), level.max()))
    with pytest.raises(UsageError, match="noise of their own"):
        _train(events, noise="1%")


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        (None, DEFAULT_NOISE.low, DEFAULT_NOISE.high),
        ("0%", NOISE_FLOOR, NOISE_FLOOR),
        ("0.0001%..1%", NOISE_FLOOR, 0.01),
        ("1%", 0.01, 0.01),
    ],
)
def test_noise_has_a_floor(*, recorded: bool, said: str | None, low: float, high: float) -> None:
    """Nothing said is 0.1 % to 5 %, of noise-free data from the floor; none at all is the floor."""
    low = NOISE_FLOOR if recorded and said is None else low
    data = simulate("ocs", 200, seed=1) if recorded else None
    model = _train(data, noise=said, events_per_epoch=200)
    assert (model.noise.low, model.noise.high) == (low, high)
    assert model.noise.relative


def test_noise_in_atomic_units_must_be_above_zero() -> None:
    """0.5 hbar / bohr is a level like any; 0 has no density and is refused."""
    model = _train(noise="0.5", events_per_epoch=200)
    assert model.noise == Noise(0.5, 0.5, relative=False)
    with pytest.raises(UsageError, match="above 0"):
        _train(noise="0", events_per_epoch=200)


def test_a_seed_repeats_a_model_and_touches_no_global_generator() -> None:
    """Same seed, same weights; torch and NumPy are left as they were."""
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (_train(events_per_epoch=300, seed=s) for s in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])
    weights = [torch.cat([t.flatten() for t in m.network.state_dict().values()]) for m in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.training.validation_loss == two.training.validation_loss


class _Stop(Exception):  # noqa: N818
    """Ends a training from outside."""


def test_progress_counts_the_events_of_all_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 events in each of 2 epochs: 400, of which a resumed training has 200; no bar unless asked."""

    def counts(**given: Any) -> list[tuple[str, str]]:
        two = Schedule(epochs=2, batch=100)
        train("cinn", options=SMALL, rules=QUICK, schedule=two, events_per_epoch=200, **given)
        return re.findall(r"([\d.]+)/([\d.]+) \[", capsys.readouterr().err)

    def stop(_: object) -> None:
        raise _Stop

    assert counts(seed=4) == []
    whole = counts(seed=4, progress=True)
    assert (whole[0], whole[-1]) == (("0.00", "400"), ("400", "400"))
    with pytest.raises(_Stop):
        counts(seed=4, checkpoint=tmp_path / "c", on_epoch=stop)
    later = counts(checkpoint=tmp_path / "c", resume=True, progress=True)
    assert (later[0], later[-1]) == (("200", "400"), ("400", "400"))


def test_latents_of_the_training_set_are_kept() -> None:
    """As many as there are events, up to the bound; finite and near standard normal."""
    latents = _train(simulate("ocs", 300, seed=1)).network.state_dict()["latents.mean"]
    assert latents.shape == (240, 6)
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize(("molecule", "folded"), [("ocs", False), ("ch4", True), ("chbrclf", False)])
def test_handedness_is_folded_only_where_the_prior_has_none(molecule: str, *, folded: bool) -> None:
    """CH4 is its own mirror image, CHBrClF is not, and three ions are always planar."""
    model = _train(molecule=molecule, events_per_epoch=200)
    assert model.frame.reflect == folded
    assert model.frame.width == 3 * len(model.molecule) - 3


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"molecule": "unobtainium"}, "no molecule"),
        ({"prior": "none"}, "no prior"),
        ({"noise": "much"}, "not understood"),
        ({"device": "abacus"}, "not available"),
    ],
)
def test_what_cannot_be_trained_is_said(given: dict[str, str], what: str) -> None:
    """Unknown molecule, prior, noise or device."""
    with pytest.raises(UsageError, match=what):
        _train(events_per_epoch=200, **given)


def test_chart_names_follow_the_bonds() -> None:
    """One name per coordinate, from atom to atom."""
    model = _train(molecule="co2", events_per_epoch=200)
    names = model.frame.names(model.molecule.labels)
    assert names == ["c-o1.x", "c-o1.y", "c-o1.z", "c-o2.x", "c-o2.y", "c-o2.z"]
