"""A law without a form is that of the truth, whatever its form, as far as the events tell."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from linear import OCS, Linear, samples_of, with_origin
from scipy.stats import norm

import flowcei
from flowcei.errors import DataError, UsageError

NOISE = 0.10


@pytest.fixture(scope="module")
def skewed() -> tuple[np.ndarray, flowcei.PosteriorSamples]:
    """Measured lengths of 1,200 events, two thirds near 2.9 and the others about 3.8, under `broad`."""
    rng = np.random.default_rng(1)
    near = rng.random(1200) < 2 / 3
    measured = np.where(near, 2.9, 3.8) + np.where(near, 0.1, 0.25) * rng.standard_normal(1200)
    measured += NOISE * rng.standard_normal(1200)
    lengths = measured[:, None] + NOISE * rng.standard_normal((1200, 100))
    z = np.stack([rng.uniform(2.0, 2.4, lengths.shape), lengths], axis=2)
    samples = samples_of(z, rng.uniform(1.0, 60.0, lengths.shape))
    return measured, with_origin(samples, prior=OCS.prior_table("broad"))


@pytest.fixture(scope="module")
def fit(skewed: tuple[np.ndarray, flowcei.PosteriorSamples]) -> flowcei.FreeLaw:
    return flowcei.population(skewed[1], ["c-s"], law="free", bootstrap=10, check=False)


def test_two_peaks_of_different_width_are_found(
    skewed: tuple[np.ndarray, flowcei.PosteriorSamples], fit: flowcei.FreeLaw
) -> None:
    """Within a tenth of the truth in all, where pooled samples are two tenths off; moments in closed form."""
    axis, step = fit.axes[0], fit.axes[0][1] - fit.axes[0][0]
    truth = 2 / 3 * norm(2.9, 0.1).pdf(axis) + 1 / 3 * norm(3.8, 0.25).pdf(axis)
    distance = [0.5 * np.abs(one - truth).sum() * step for one in (fit.density, fit.raw)]
    assert fit.density.sum() * step == pytest.approx(1.0, abs=1e-6)
    assert distance[0] < 0.1
    assert distance[1] > 0.16
    row = fit.to_dataframe().iloc[0]
    assert row["mean"] == pytest.approx(skewed[0].mean(), abs=0.01)
    assert row["sd"] == pytest.approx(np.sqrt(skewed[0].var() - NOISE**2), rel=0.02)
    assert row["mean_error"] == pytest.approx(skewed[0].std() / np.sqrt(1200), rel=0.6)


def test_two_coordinates_have_the_marginals_of_each(tmp_path: Path) -> None:
    """Of correlated lengths: means, widths and the correlation; and the file holds the density."""
    rng, truth = np.random.default_rng(2), Linear()
    measured = truth.measured(300, rng)
    found = flowcei.population(
        truth.samples(measured, 150, rng), ["c-o", "c-s"], law="free", bootstrap=0, check=False
    )
    table = found.to_dataframe()
    assert table["mean"].to_numpy() == pytest.approx(measured[0].mean(axis=0), abs=0.01)
    x, y = (axis - mean for axis, mean in zip(found.axes, table["mean"], strict=True))
    weight = found.density / found.density.sum()
    assert (x[:, None] * y * weight).sum() == pytest.approx(truth.covariance[0, 1], abs=0.002)
    found.write(tmp_path / "law.h5")
    with h5py.File(tmp_path / "law.h5") as file:
        assert file["density"].shape == (len(x), len(y))
    assert len(found.plot().axes) == 3


def test_what_is_refused(skewed: tuple[np.ndarray, flowcei.PosteriorSamples]) -> None:
    """Three coordinates, few events, and a law that piles up at the end of the prior."""
    with pytest.raises(UsageError, match="one or two coordinates: name them"):
        flowcei.population(skewed[1], law="free")
    with pytest.raises(DataError, match="50 events are too few for a law without a form: 100"):
        flowcei.population(skewed[1][:50], ["c-s"], law="free")
    rng = np.random.default_rng(3)
    z = np.minimum(5.0, rng.normal(5.0, 0.1, (120, 1)) + NOISE * rng.standard_normal((120, 100)))
    both = np.stack([rng.uniform(2.0, 2.4, z.shape), z - 1e-4], axis=2)
    samples = with_origin(samples_of(both, rng.uniform(1.0, 60.0, z.shape)), prior=OCS.prior_table("broad"))
    with pytest.raises(DataError, match="the prior does not cover the law"):
        flowcei.population(samples, ["c-s"], law="free", bootstrap=0, check=False)
