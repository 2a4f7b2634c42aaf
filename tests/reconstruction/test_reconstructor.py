"""The whole way of an event: turns with the momenta, means what it says, refuses the rest."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import flowcei
import flowcei.reconstruction.sampling
from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.events.container import Events
from flowcei.events.simulation import simulate
from flowcei.experiment.detector import Noise, rms_component
from flowcei.models.registry import ARCHITECTURES, find_architecture
from flowcei.reconstruction.limits import unlike_training
from flowcei.reconstruction.sampling import Survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.reconstruction.model import Reconstructor

every = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
every_latent = pytest.mark.parametrize(
    ("architecture", "latent"),
    [(name, "prior") for name in sorted(ARCHITECTURES)]
    + [(name, "training") for name in sorted(ARCHITECTURES) if find_architecture(name).has_latent],
)
random_ones = pytest.mark.parametrize(
    "architecture", [k for k in ARCHITECTURES if not find_architecture(k).is_point]
)
with_latent = pytest.mark.parametrize(
    "architecture", [k for k in ARCHITECTURES if find_architecture(k).has_latent]
)

Tiny: TypeAlias = "Callable[[str, str], Reconstructor]"


def _same(a: PosteriorSamples, b: PosteriorSamples, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(a.positions, b.positions, rtol=tolerance, atol=tolerance)
    assert (a.log_prob is None) == (b.log_prob is None)
    if a.log_prob is not None and b.log_prob is not None:
        np.testing.assert_allclose(a.log_prob, b.log_prob, rtol=1e-4, atol=1e-3)


@every_latent
def test_samples_turn_with_the_momenta(
    tiny: Tiny, architecture: str, latent: str, ocs_events: Events
) -> None:
    """Turned momenta, same seed: turned samples, to 1e-5, and the same log density."""
    model = tiny(architecture, "ocs")
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    before = model.sample(ocs_events, 20, latent=latent, seed=3)
    turned = replace(ocs_events, momenta=ocs_events.momenta @ turn.T)
    after = model.sample(turned, 20, latent=latent, seed=3)
    _same(after, replace(before, positions=before.positions @ turn.T))


@every
def test_samples_do_not_see_the_motion_of_the_molecule(tiny: Tiny, architecture: str) -> None:
    """A boost of the whole molecule changes no sample; the sigma is given in hbar / bohr."""
    model = tiny(architecture, "ocs")
    events = simulate("ocs", 6, noise="1%", seed=8)
    boost = 1e-3 * events.molecule.masses[:, None] * np.array([1.0, -2.0, 0.5])
    assert events.sigma is not None
    events = replace(events, sigma=np.clip(events.sigma, 0.008 * rms_component(events.momenta + boost), None))
    _same(
        model.sample(replace(events, momenta=events.momenta + boost), 10, seed=3),
        model.sample(events, 10, seed=3),
    )


@every
def test_samples_are_centred_and_have_their_shapes(tiny: Tiny, architecture: str, ocs_events: Events) -> None:
    """(E, n, N, 3) float32, centre of mass 0, log density exactly where the model has one."""
    model = tiny(architecture, "ocs")
    samples = model.sample(ocs_events, 7, seed=1)
    assert samples.positions.shape == (12, 7, 3, 3)
    assert samples.positions.dtype == np.float32
    centre = np.einsum("k,enkx->enx", model.molecule.masses / model.molecule.masses.sum(), samples.positions)
    assert np.abs(centre).max() < 1e-5
    assert (samples.log_prob is not None) == model.sampler.has_density
    assert np.array_equal(samples.event_id, np.arange(12))
    assert samples.origin["seed"] == 1
    assert samples.origin["architecture"] == architecture


@pytest.mark.parametrize("molecule", ["ocs", "co2", "ch4", "chbrclf"])
def test_log_prob_of_samples_is_the_stored_one(tiny: Tiny, molecule: str) -> None:
    """Whatever was drawn: its density, asked for again, is the same to 1e-3."""
    model = tiny("cinn", molecule)
    events = simulate(molecule, 5, noise="1%", seed=2)
    for latent in ("prior", "training"):
        samples = model.sample(events, 8, latent=latent, seed=1)
        again = model.log_prob(samples.positions, events)
        np.testing.assert_allclose(again, samples.log_prob, rtol=1e-3, atol=1e-3)
        # Where a geometry is in space does not matter.
        np.testing.assert_allclose(model.log_prob(samples.positions + 5.0, events), again, atol=1e-2)


def test_log_prob_is_a_density_per_bohr(tiny_cinn: Reconstructor, ocs_events: Events) -> None:
    """Over 6 relative coordinates it integrates to 1: importance sampling with a wide normal."""
    drawn = tiny_cinn.sample(ocs_events[:1], 4000, seed=1).positions[0].astype(float)
    relative = (drawn[:, 1:] - drawn[:, :1]).reshape(4000, 6)
    mean, spread = relative.mean(axis=0), 1.3 * np.linalg.cholesky(np.cov(relative.T))
    rng = np.random.default_rng(0)
    z = rng.standard_normal((40_000, 6))
    log_q = -0.5 * (z**2).sum(axis=1) - 3 * np.log(2 * np.pi) - np.log(np.diag(spread)).sum()
    x = np.zeros((40_000, 3, 3))
    x[:, 1:] = (mean + z @ spread.T).reshape(-1, 2, 3)
    log_p = tiny_cinn.log_prob(x[None], ocs_events[:1])[0]
    assert np.exp(log_p - log_q).mean() == pytest.approx(1.0, abs=0.1)


@every_latent
def test_samples_do_not_depend_on_how_events_come(
    tiny: Tiny, architecture: str, latent: str, ocs_events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 1, 7 or 1000 events make the same blocks of 5: equal to the bit, numbers too.

    Without the first blocks the rest is the same; so are the first 7 events without the rest.
    """
    monkeypatch.setattr(flowcei.reconstruction.sampling, "ROWS", 50)
    model, rules = tiny(architecture, "ocs"), {"latent": latent, "seed": 3}
    whole = model.sample(ocs_events, 10, **rules)
    for size in (1, 7, 1000):
        for events in (ocs_events, ocs_events.unnumbered()):
            chunks = (events[k : k + size] for k in range(0, 12, size))
            parts = list(model.stream(chunks, 10, **rules))
            assert [len(part) for part in parts] == [5, 5, 2]
            for name in ("positions", "log_prob", "event_id", "flags", "sigma"):
                found = [getattr(part, name) for part in parts]
                expected = getattr(whole, name)
                assert (expected is None) == (found[0] is None)
                assert expected is None or np.array_equal(np.concatenate(found), expected), name
    (rest,) = model.stream([ocs_events[:3], ocs_events[3:]], 10, start=10, **rules)
    assert np.array_equal(rest.positions, whole.positions[10:])
    assert np.array_equal(rest.event_id, [10, 11])
    assert not list(model.stream(ocs_events[:10], 10, start=10, **rules))
    few = model.sample(ocs_events[:7], 10, **rules)
    assert np.array_equal(few.positions[:5], whole.positions[:5])
    np.testing.assert_allclose(few.positions, whole.positions[:7], rtol=1e-5, atol=1e-5)


def test_progress_counts_the_events(
    tiny_cinn: Reconstructor, ocs_events: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 12, of how many where that is known; without being asked nothing is written."""
    tiny_cinn.sample(ocs_events, 3, seed=1)
    assert capsys.readouterr() == ("", "")
    tiny_cinn.sample(ocs_events, 3, seed=1, progress=True)
    counts = re.findall(r"([\d.]+)/([\d.]+) \[", capsys.readouterr().err)
    assert (counts[0], counts[-1]) == (("0.00", "12.0"), ("12.0", "12.0"))
    tiny_cinn.sample(iter([ocs_events[:5], ocs_events[5:]]), 3, seed=1, progress=True)
    assert re.findall(r"([\d.]+) events \[", capsys.readouterr().err)[-1] == "12.0"


def test_blocks_are_streams_of_their_own(
    tiny_cinn: Reconstructor, ocs_events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same event in two blocks is drawn anew, weighed or not; a start inside a block is refused."""
    monkeypatch.setattr(flowcei.reconstruction.sampling, "ROWS", 10)
    for rules in ({}, {"weigh": True}, {"min_ess": 5.0, "budget": 40}):
        one, two = tiny_cinn.stream([ocs_events[:1]] * 2, 10, seed=1, **rules)
        assert np.abs(one.positions - two.positions).max(axis=(2, 3)).min() > 1e-3
    with pytest.raises(UsageError, match="multiples of 1"):
        tiny_cinn.stream(ocs_events, 10, start=-1)
    monkeypatch.setattr(flowcei.reconstruction.sampling, "ROWS", 50)
    with pytest.raises(UsageError, match=r"start is 7; .* multiples of 5"):
        tiny_cinn.stream(ocs_events, 10, start=7)


def test_what_is_wrong_later_is_refused_when_it_comes(
    tiny_cinn: Reconstructor, ocs_events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks before it are answered; the error has the number of the event."""
    monkeypatch.setattr(flowcei.reconstruction.sampling, "ROWS", 50)
    mixed = tiny_cinn.stream([ocs_events[:7], replace(ocs_events[7:], sigma=None)], 10)
    assert len(next(mixed)) == 5
    with pytest.raises(DataError, match="event 7: some events state their noise"):
        next(mixed)
    for nothing in ([ocs_events[:0]], iter(())):
        with pytest.raises(DataError, match="no event"):
            tiny_cinn.sample(nothing, 10)
    with pytest.raises(UsageError, match="events are of co2"):
        tiny_cinn.sample(iter([simulate("co2", 3, seed=1)]), 3)


def test_one_look_at_a_stream_tells_it_from_others(ocs_events: Events) -> None:
    """Momenta, noise and numbers count, chunks do not."""
    survey = Survey.of([ocs_events])
    assert survey.events == 12
    assert Survey.of(ocs_events[k : k + 5] for k in (0, 5, 10)) == survey
    momenta = ocs_events.momenta.copy()
    momenta[11, 2, 2] += 1e-12
    others = ({"momenta": momenta}, {"sigma": None}, {"event_id": np.arange(1, 13), "numbered": True})
    assert len({Survey.of([replace(ocs_events, **other)]).digest for other in others} | {survey.digest}) == 4


def test_thinning_keeps_events_of_the_whole_stream() -> None:
    """However it is cut, the same events, at most as many as asked, evenly."""
    run = replace(simulate("ocs", 1000, seed=2), event_id=np.arange(1000))
    for step in (1, 7, 300, 1000):
        survey = Survey.of((run[k : k + step] for k in range(0, 1000, step)), 100)
        assert survey.events == 1000
        assert survey.thinned is not None
        assert survey.thinned.event_id.tolist() == list(range(0, 1000, 16))


@random_ones
def test_seeds_repeat_and_differ(tiny: Tiny, architecture: str, ocs_events: Events) -> None:
    """The same seed to the bit; another seed, and no seed, otherwise."""
    model = tiny(architecture, "ocs")
    one, two, other = (model.sample(ocs_events, 5, seed=s).positions for s in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    free = model.sample(ocs_events, 5)
    assert np.array_equal(model.sample(ocs_events, 5, seed=free.origin["seed"]).positions, free.positions)


@with_latent
def test_reconstruction_never_encodes(
    tiny: Tiny, architecture: str, ocs_events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are answered with the encoder gone, whatever the latents are."""
    model = tiny(architecture, "ocs")

    def forbidden(*_: object) -> None:
        pytest.fail("the encoder was used to reconstruct an event")

    monkeypatch.setattr(model.network, "encode", forbidden)
    for latent in ("prior", "training"):
        model.sample(ocs_events, 3, latent=latent, seed=1)


@pytest.mark.parametrize("molecule", ["co2", "ch4"])
def test_identical_ions_may_come_in_any_order(tiny: Tiny, molecule: str) -> None:
    """Swapped ions: the samples are swapped with them, and their density is the same."""
    model = tiny("cinn", molecule)
    events = simulate(molecule, 6, noise="1%", seed=2)
    (group,) = events.molecule.identical
    order = np.arange(len(events.molecule))
    order[list(group)] = np.roll(group, 1)
    before = model.sample(events, 10, seed=3)
    after = model.sample(replace(events, momenta=events.momenta[:, order]), 10, seed=3)
    _same(after, replace(before, positions=before.positions[:, :, order]))


@pytest.mark.parametrize(("molecule", "folded"), [("ch4", True), ("chbrclf", False)])
def test_a_mirror_image_gives_mirrored_samples_where_handedness_is_folded(
    tiny: Tiny, molecule: str, *, folded: bool
) -> None:
    """CH4: mirrored momenta, mirrored samples. CHBrClF has a hand, and its model knows."""
    model = tiny("cinn", molecule)
    events = simulate(molecule, 6, noise="1%", seed=2)
    mirror = np.array([1.0, 1.0, -1.0])
    before = model.sample(events, 10, seed=3)
    after = model.sample(replace(events, momenta=events.momenta * mirror), 10, seed=3)
    assert model.frame.reflect == folded
    assert np.allclose(after.positions, before.positions * mirror, atol=1e-5) == folded


def test_noise_above_the_trained_range(tiny_cinn: Reconstructor, ocs_events: Events) -> None:
    """2 % and a rounding more is fine; 5 % asked for is refused, 5 % of one event flags that event."""
    model = tiny_cinn
    assert np.allclose(model.sigma(ocs_events, "2%"), 0.02 * rms_component(ocs_events.momenta))
    with pytest.raises(UsageError, match=r"noise of 5%.* is above .*0\.5%\.\.2%"):
        model.sample(ocs_events, 3, noise="5%")
    assert ocs_events.sigma is not None
    loud = replace(ocs_events, sigma=ocs_events.sigma.copy())
    loud.sigma[3] = 0.05 * rms_component(ocs_events.momenta)[3]
    samples = model.sample(loud, 3, seed=1)
    assert [name for name in samples.flag_names[3] if name == "noise"] == ["noise"]
    assert sum("noise" in names for names in samples.flag_names) == 1
    quiet = model.sample(ocs_events, 3, seed=1)
    np.testing.assert_array_equal(np.delete(samples.positions, 3, 0), np.delete(quiet.positions, 3, 0))
    assert "noise" not in model.sample(loud, 3, noise="1%").flag_names[3]


@pytest.mark.parametrize("noise", ["0%", "0.1%", "0.001", Noise(0.001, 0.001)])
def test_noise_below_the_trained_range_is_raised(
    tiny_cinn: Reconstructor, ocs_events: Events, noise: str | Noise
) -> None:
    """Less noise than trained for counts as the least of it."""
    floor = 0.005 * rms_component(ocs_events.momenta)
    np.testing.assert_allclose(tiny_cinn.sigma(ocs_events, noise), floor)
    _same(
        tiny_cinn.sample(ocs_events, 3, noise=noise, seed=1),
        tiny_cinn.sample(ocs_events, 3, noise="0.5%", seed=1),
    )


def test_noise_is_that_of_the_events_or_one_per_cent(tiny_cinn: Reconstructor, ocs_events: Events) -> None:
    """What the events say; for bare momenta 1 %; a range is not one level."""
    assert ocs_events.sigma is not None
    np.testing.assert_array_equal(tiny_cinn.sigma(ocs_events, None), ocs_events.sigma)
    bare = replace(ocs_events, sigma=None)
    np.testing.assert_allclose(tiny_cinn.sigma(bare, None), 0.01 * rms_component(bare.momenta))
    quiet = replace(tiny_cinn, noise=Noise(0.001, 0.002))
    np.testing.assert_allclose(quiet.sigma(bare, None), 0.002 * rms_component(bare.momenta))
    absolute = replace(tiny_cinn, noise=Noise(0.2, 0.7, relative=False))
    np.testing.assert_allclose(absolute.sigma(bare, None), 0.7)
    np.testing.assert_allclose(absolute.sigma(bare, "0.01"), 0.2)
    with pytest.raises(UsageError, match="above"):
        absolute.sigma(bare, "0.9")
    assert unlike_training(absolute, bare, "90%")["noise"].all()
    with pytest.raises(UsageError, match="range"):
        tiny_cinn.sample(bare, 3, noise="0.6%..1%")


@pytest.mark.parametrize("molecule", ["co2", "h2o", "ch4"])
def test_events_of_another_molecule_are_refused(tiny_cinn: Reconstructor, molecule: str) -> None:
    """Both molecules and their ions are named, for sampling and for densities."""
    events = simulate(molecule, 3, seed=1)
    with pytest.raises(UsageError, match=rf"events are of {molecule} .*for ocs \(c, o, s\)"):
        tiny_cinn.sample(events, 3)
    with pytest.raises(UsageError, match=molecule):
        tiny_cinn.log_prob(events.positions[:, None], events)  # type: ignore[index]


def test_one_event_may_come_bare(tiny_cinn: Reconstructor, ocs_events: Events) -> None:
    """An array (N, 3) is one event; lists are arrays too."""
    one = tiny_cinn.sample(ocs_events.momenta[0], 4, seed=1)
    assert one.positions.shape == (1, 4, 3, 3)
    _same(tiny_cinn.sample(ocs_events.momenta[:1].tolist(), 4, seed=1), one)


@pytest.mark.parametrize(
    "momenta",
    [np.ones((2, 4, 3)), np.ones(3), np.full((1, 3, 3), np.nan), np.zeros((1, 3, 3)), np.zeros((0, 3, 3))],
)
def test_momenta_that_are_no_events_are_refused(tiny_cinn: Reconstructor, momenta: np.ndarray) -> None:
    """Another number of ions, NaN, no energy, no event: DataError."""
    with pytest.raises(DataError):
        tiny_cinn.sample(momenta, 3)


def test_calls_that_cannot_be_answered_are_refused(tiny_cinn: Reconstructor, ocs_events: Events) -> None:
    """No samples, unknown latents, positions that do not match."""
    with pytest.raises(UsageError, match="number of samples is 0"):
        tiny_cinn.sample(ocs_events, 0)
    with pytest.raises(UsageError, match="'prior' or 'training'; got 'posterior'"):
        tiny_cinn.sample(ocs_events, 3, latent="posterior")  # type: ignore[arg-type]
    for shape in ((12, 3, 3), (11, 1, 3, 3), (12, 1, 4, 3)):
        with pytest.raises(UsageError, match="expected"):
            tiny_cinn.log_prob(np.ones(shape), ocs_events)


def test_a_cvae_has_no_density(tiny_cvae: Reconstructor, ocs_events: Events) -> None:
    """NoDensityError, naming the architecture."""
    assert ocs_events.positions is not None
    with pytest.raises(NoDensityError, match="cvae"):
        tiny_cvae.log_prob(ocs_events.positions[:, None], ocs_events)


@pytest.mark.parametrize("error", [0.02, float("nan")])
def test_a_flow_that_does_not_invert_itself_is_refused(
    tiny_cinn: Reconstructor, ocs_events: Events, error: float
) -> None:
    """Its measured round-trip error is above the bound: no samples."""
    record = tiny_cinn.training.model_copy(update={"round_trip_error": error})
    with pytest.raises(UsageError, match="does not invert itself"):
        replace(tiny_cinn, training=record).sample(ocs_events, 3)


def test_even_a_tiny_model_has_learned_something(tiny_cinn: Reconstructor) -> None:
    """Posterior means lie nearer the truth than the mean geometry of the prior does."""
    events = simulate("ocs", 300, noise="1%", seed=9)
    assert events.positions is not None
    turned = tiny_cinn.sample(events, 50, seed=1).mean(keep_flagged=True)
    error = np.linalg.norm(turned - events.positions, axis=2).mean()
    other = np.linalg.norm(turned[::-1] - events.positions, axis=2).mean()
    assert error < 0.25
    assert error < 0.2 * other


def test_momenta_that_the_model_never_saw_are_pointed_out() -> None:
    """Ions in another order, other units, other charges; but no event of the prior itself."""
    bundled, events = flowcei.load(), simulate("ocs", 200, noise="1%", seed=5)
    assert not any(rows.any() for rows in unlike_training(bundled, events).values())
    swapped = unlike_training(bundled, Events(events.molecule, events.momenta[:, [1, 0, 2]]))
    assert (swapped["momenta"] | swapped["ker"]).all()
    for scale in (10.0, 0.25):
        assert unlike_training(bundled, Events(events.molecule, scale * events.momenta))["ker"].all()
    lost = events.momenta + np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [30.0, 0.0, 0.0]])
    assert unlike_training(bundled, Events(events.molecule, lost))["momentum_sum"].all()


def test_momenta_in_si_units_are_an_error_that_names_units() -> None:
    """Geometries that leave single precision are not written."""
    momenta = 1.99e-24 * simulate("ocs", 3, seed=5).momenta
    with pytest.raises(DataError, match=r"event 0, .*hbar/bohr"):
        flowcei.load().sample(momenta, 5, seed=1)
