"""The posterior spread: numbers that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowcei.events.simulation import simulate
from flowcei.molecules.molecule import Molecule
from flowcei.posterior.pooled import PooledSpread
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.spread import PERCENTILES, correlated, in_recoil_frame, quantities


def _samples(n: int = 4000, sigma: float = 0.1) -> PosteriorSamples:
    """Return samples of 3 OCS events: the truth plus isotropic normal noise on each atom."""
    events = simulate("ocs", 3, prior="broad", seed=4)
    assert events.positions is not None
    noise = np.random.default_rng(0).normal(0.0, sigma, (3, n, 3, 3))
    return PosteriorSamples(
        molecule=events.molecule,
        momenta=events.momenta,
        positions=(events.positions[:, None] + noise).astype(np.float32),
        log_prob=None,
        event_id=np.array([7, 8, 9]),
        sigma=np.ones(3),
    )


def test_bonds_and_angles_of_water_are_those_of_its_geometry() -> None:
    """r(OH) 0.9578 angstrom = 1.810 bohr, and 104.48 degrees."""
    water = Molecule.load("h2o")
    names, values = quantities(water, water.equilibrium)
    found = {q.name: float(v) for q, v in zip(names, values, strict=True)}
    assert found["o-h1"] == pytest.approx(1.8100, abs=2e-3)
    assert found["h1-o-h2"] == pytest.approx(104.48, abs=0.05)


def test_bonds_and_angles_survive_rotation_and_translation() -> None:
    """Internal coordinates see neither where nor how a molecule lies."""
    events = simulate("ch2o", 20, seed=1)
    turned = simulate("ch2o", 20, seed=1).positions
    assert events.positions is not None
    assert turned is not None
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    names, before = quantities(events.molecule, events.positions)
    after = quantities(events.molecule, turned @ rotation.T + [3.0, -1.0, 2.0])[1]
    internal = [i for i, q in enumerate(names) if q.kind != "atom"]
    np.testing.assert_allclose(after[:, internal], before[:, internal], atol=1e-9)


def test_recoil_frame_has_its_axes_along_the_momenta() -> None:
    """Momenta over masses, turned like positions: first ion on x, second in the xy plane."""
    events = simulate("ocs", 50, seed=2)
    velocities = events.momenta / events.molecule.masses[:, None]
    turned = in_recoil_frame(events.molecule, events.momenta, velocities[:, None])[:, 0]
    sulfur, oxygen = turned[:, 2], turned[:, 1]
    speed = np.linalg.norm(sulfur, axis=1)
    np.testing.assert_allclose(sulfur[:, 0], speed, rtol=1e-12)
    np.testing.assert_allclose(oxygen[:, 2], 0.0, atol=1e-12 * speed.max())


def test_spread_of_known_noise_is_that_noise() -> None:
    """Isotropic noise sigma per atom, less the centre of mass, in every row of the table."""
    samples = _samples()
    mass = samples.molecule.masses / samples.molecule.masses.sum()
    # Of x_i - sum_j w_j x_j: variance sigma^2 ((1 - w_i)^2 + sum over the others of w_j^2).
    expected = 0.1 * np.sqrt((1 - mass) ** 2 + (mass**2).sum() - mass**2)
    spread = samples.spread()
    table = spread.to_dataframe()
    for label, sigma in zip(samples.molecule.labels, expected, strict=True):
        rows = table[table["quantity"].isin([f"{label}.x", f"{label}.y", f"{label}.z"])]
        np.testing.assert_allclose(rows["sd"], sigma, rtol=0.05)
        np.testing.assert_allclose((rows["p84"] - rows["p16"]) / 2, sigma, rtol=0.06)
        np.testing.assert_allclose((rows["p95"] - rows["p05"]) / 2, 1.645 * sigma, rtol=0.06)
    np.testing.assert_allclose(spread.per_atom(), np.sqrt(3) * expected * np.ones((3, 1)), rtol=0.05)


def test_tables_hold_every_quantity_of_every_event() -> None:
    """9 coordinates, 2 bonds and 1 angle for each of 3 events; event numbers are kept."""
    table = _samples(50).spread().to_dataframe()
    assert len(table) == 3 * 12
    assert sorted(set(table["event"])) == [7, 8, 9]
    assert {f"p{p:02d}" for p in PERCENTILES} <= set(table.columns)
    assert set(table.groupby("kind").size()) == {27, 6, 3}


@pytest.mark.parametrize("n", [1, 2, 50])
def test_numbers_of_tables_are_those_of_numpy(n: int) -> None:
    """Mean, deviation and percentiles of each event; NaN where samples are, and of no other event."""
    samples = _samples(n)
    samples.positions[1] = np.nan
    spread = samples.spread()
    table = spread.to_dataframe().set_index("event")
    for event, values in zip(spread.event_id, spread.values, strict=True):
        rows = table.loc[event]
        np.testing.assert_allclose(rows["mean"], values.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(rows["sd"], values.std(axis=0), rtol=1e-9, atol=1e-12)
        for level in PERCENTILES:
            expected = np.percentile(values, level, axis=0)
            np.testing.assert_allclose(rows[f"p{level:02d}"], expected, rtol=1e-12, atol=1e-15)


def test_blocks_pool_to_what_all_events_have() -> None:
    """Percentiles to the width of a bin, all else to rounding."""
    samples, pooled = _samples(50), PooledSpread(3)
    frame = samples.spread().frame
    for rows in (slice(0, 2), slice(2, 3)):
        pooled.add(samples[rows].spread(frame=frame), samples[rows])
    overall, expected = pooled.overall(), samples.spread().overall()
    for name in ("mean", "sd", "typical_sd"):
        np.testing.assert_allclose(overall[name], expected[name], rtol=1e-9, atol=1e-12)
    for level in PERCENTILES:  # linear within a bin is not linear between samples: a sample's distance
        gap = np.diff(np.sort(samples.spread().values.reshape(150, -1), axis=0), axis=0).max(axis=0)
        assert (np.abs(overall[f"p{level:02d}"] - expected[f"p{level:02d}"]) <= gap + 2e-3).all()
    width, floor = pooled.widths()
    np.testing.assert_allclose(width, np.sqrt((samples.spread().per_atom() ** 2).mean(axis=1)), rtol=1e-9)
    np.testing.assert_allclose(floor, np.sqrt((samples.floor() ** 2).mean(axis=1)), rtol=1e-9)


def test_blocks_of_other_frames_are_not_pooled() -> None:
    """Of each another ion has the longest momentum: alone they would choose their own axes."""
    samples = _samples(50)[:1]
    order = np.argsort(np.linalg.norm(samples.momenta[0], axis=1))
    other = replace(samples, momenta=samples.momenta * np.where(np.arange(3) == order[0], -9.0, 1.0)[:, None])
    one, pooled = samples.spread(), PooledSpread(2)
    pooled.add(one, samples)
    assert other.spread().along != one.along
    with pytest.raises(ValueError, match="another frame"):
        pooled.add(other.spread(), other)
    pooled.add(other.spread(frame=one.frame), other)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_leaves_no_percentiles(wrong: float) -> None:
    """Of the quantities that it is a sample of; the others keep theirs, in whatever block it is."""
    samples = _samples(50)
    sound, pooled = samples.spread().overall(), PooledSpread(3)
    spread = samples.spread()
    spread.values[2, 30, 0] = wrong
    np.testing.assert_array_equal(spread.extremes[1:, 0], spread.values.min(axis=(0, 1))[1:])
    np.testing.assert_array_equal(spread.extremes[1:, 1], spread.values.max(axis=(0, 1))[1:])
    pooled.add(samples[:2].spread(frame=spread.frame), samples[:2])
    pooled.add(replace(spread, values=spread.values[2:], event_id=spread.event_id[2:]), samples[2:])
    overall = pooled.overall()
    for level in PERCENTILES:
        assert np.isnan(overall[f"p{level:02d}"]).tolist() == [True] + 11 * [False]
    assert (overall["p50"][1:] - sound["p50"][1:]).abs().max() < 0.5


def test_a_block_may_have_none_of_the_events_looked_at_more_closely() -> None:
    """Of a million events each fiftieth: the last block of a file may be shorter."""
    samples, pooled = _samples(50), PooledSpread(1_000_003)
    frame = samples.spread().frame
    for rows in (slice(0, 2), slice(2, 3)):
        pooled.add(samples[rows].spread(frame=frame), samples[rows])
    width, floor = pooled.widths()
    assert width.shape == floor.shape == (1,)
    np.testing.assert_allclose(
        pooled.overall()["mean"], samples.spread().overall()["mean"], rtol=1e-9, atol=1e-12
    )


def test_overall_tells_spread_within_from_spread_between() -> None:
    """`sd` pools events that differ; `typical_sd` is what one event is uncertain by."""
    overall = _samples(500, sigma=0.01).spread().overall().set_index("quantity")
    assert overall.loc["c-o", "typical_sd"] == pytest.approx(0.01 * np.sqrt(2), rel=0.15)
    assert overall.loc["c-o", "sd"] > 5 * overall.loc["c-o", "typical_sd"]


def test_of_identical_ions_the_fastest_comes_first() -> None:
    """Two ways to number the hydrogens of water give the same table, with h1 along x."""
    events = simulate("h2o", 40, seed=3)
    assert events.positions is not None
    swap = [0, 2, 1]
    one = in_recoil_frame(events.molecule, events.momenta, events.positions[:, None])
    other = in_recoil_frame(events.molecule, events.momenta[:, swap], events.positions[:, None][:, :, swap])
    np.testing.assert_allclose(one, other, atol=1e-9)
    velocities = events.momenta / events.molecule.masses[:, None]
    turned = in_recoil_frame(events.molecule, events.momenta, velocities[:, None])[:, 0]
    speed = np.linalg.norm(turned, axis=2)
    assert (speed[:, 1] >= speed[:, 2]).all()
    np.testing.assert_allclose(turned[:, 1, 0], speed[:, 1], rtol=1e-9)


def test_covariance_is_that_of_numpy() -> None:
    """Of every event and pair, with units; the table has a row a pair."""
    spread = _samples(500).spread()
    covariance = spread.covariance()
    chosen = [k for k, q in enumerate(spread.names) if q.kind != "atom"]
    for event in range(3):
        values = spread.values[event][:, chosen].T
        np.testing.assert_allclose(covariance[event], np.cov(values, bias=True), rtol=1e-9)
        np.testing.assert_allclose(
            correlated(covariance[event])[1], np.corrcoef(values), rtol=1e-9, atol=1e-12
        )
    table = spread.covariance_table()
    assert len(table) == 3 * 3
    assert set(table["event"]) == {7, 8, 9}
    row = table.iloc[1]
    assert (row["quantity"], row["with"], row["unit"]) == ("c-o", "o-c-s", "bohr*deg")
    assert row["covariance"] == covariance[0, 0, 2]


def test_principal_axes_are_those_of_the_distribution() -> None:
    """Bonds stretched together by 0.1 and apart by 0.02 bohr: axes along c-o +/- c-s."""
    samples = _samples(4000, sigma=1e-9)
    rng = np.random.default_rng(1)
    sum_, difference = 0.1 * rng.standard_normal(4000), 0.02 * rng.standard_normal(4000)
    x = samples.positions.astype(float)
    for ion, change in ((1, sum_ + difference), (2, sum_ - difference)):
        bond = x[:, :, ion] - x[:, :, 0]
        unit = bond / np.linalg.norm(bond, axis=-1, keepdims=True)
        x[:, :, ion] += unit * (change / np.sqrt(2.0))[:, None]
    known = replace(samples, positions=x.astype(np.float32)).spread()
    deviation, direction = known.principal_axes()
    np.testing.assert_allclose(deviation, [0.02, 0.1], rtol=0.05)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(np.abs(direction), half, atol=0.02)
    assert direction[1].prod() > 0 > direction[0].prod()
    words = "; ".join(known.covariance_in_words())
    assert "correlation of c-o and c-s: 0.92" in words
    assert "principal axes of the bonds: 0.02 bohr along" in words
