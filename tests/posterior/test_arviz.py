"""Samples in the layout of ArviZ hold the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import flowcei

xr = pytest.importorskip("xarray")
if TYPE_CHECKING:
    from pathlib import Path


def _samples(*, weigh: bool) -> flowcei.PosteriorSamples:
    events = flowcei.simulate("ocs", 4, noise="1%", seed=1)
    delayed = flowcei.Events("ocs", events.momenta, sigma=events.sigma, columns={"delay_fs": np.arange(4.0)})
    return flowcei.load().sample(delayed, 300, seed=1, weigh=weigh)


def test_bonds_are_those_of_the_positions() -> None:
    """By event and draw; momenta, noise, flags and extra columns go along."""
    samples = _samples(weigh=False)
    tree = samples.to_arviz()
    x = samples.positions.astype(float)
    for name, (i, j) in {"c-o": (0, 1), "c-s": (0, 2)}.items():
        lengths = np.linalg.norm(x[:, :, i] - x[:, :, j], axis=2)
        drawn = (
            tree[f"posterior/{name}"].sel(chain=0)
            if "chain" in tree["posterior"].coords
            else tree[f"posterior/{name}"][0]
        )
        np.testing.assert_allclose(drawn.transpose("event", "draw"), lengths, rtol=1e-6)
    np.testing.assert_array_equal(tree["observed_data/momenta"], samples.momenta)
    np.testing.assert_array_equal(tree["constant_data/delay_fs"], np.arange(4.0))
    np.testing.assert_array_equal(tree["sample_stats/lp"][0].transpose("event", "draw"), samples.log_prob)
    assert "posterior_resampled" not in tree.children


def test_resampled_draws_have_the_weighted_mean() -> None:
    """Within the error of 300 draws."""
    samples = _samples(weigh=True)
    tree = samples.to_arviz(seed=3)
    weight = tree["sample_stats/weight"][0]
    np.testing.assert_allclose(weight.sum("draw"), 1.0)
    bond = tree["posterior/c-o"][0]
    mean, even = (weight * bond).sum("draw"), tree["posterior_resampled/c-o"][0].mean("draw")
    assert (np.abs(mean - even) < 5.0 * bond.std("draw") / np.sqrt(300)).all()


def test_a_file(tmp_path: Path) -> None:
    """It is written as netCDF and read back."""
    pytest.importorskip("h5netcdf")
    samples = _samples(weigh=False)
    samples.to_arviz().to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    again = xr.open_datatree(tmp_path / "s.nc", engine="h5netcdf")
    np.testing.assert_array_equal(again["observed_data/momenta"], samples.momenta)
    again.close()
