"""Detector noise: how it is written, and how large it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcei.errors import UsageError
from flowcei.events.simulation import simulate
from flowcei.experiment.detector import Noise, rms_component

level = st.floats(1e-6, 10.0, allow_nan=False)


@given(a=level, b=level, relative=st.booleans())
def test_text_round_trip(a: float, b: float, relative: bool) -> None:
    """What `str` writes, `parse` reads."""
    top = 1.0 if relative else 10.0  # a relative level above 100 % is refused
    noise = Noise(min(a, b, top), min(max(a, b), top), relative=relative)
    again = Noise.parse(str(noise))
    assert again.relative == relative or noise.is_zero
    assert (again.low, again.high) == pytest.approx((noise.low, noise.high), rel=1e-9)


@pytest.mark.parametrize(
    "text", ["", "x", "1%..2", "-1%", "1..", "5%..1%", "nan", "1 2", "1e400", "..2%", "200%", "1%..101%"]
)
def test_nonsense_is_refused(text: str) -> None:
    """One line that shows how to write it."""
    with pytest.raises(UsageError, match="noise"):
        Noise.parse(text)


def test_relative_noise_has_the_stated_size() -> None:
    """1 % of the rms component of the noise-free event, on every component."""
    clean = simulate("ocs", 5000, seed=1).momenta
    noisy, sigma = Noise.parse("1%").apply(clean, np.random.default_rng(0))
    pull = (noisy - clean) / rms_component(clean)[:, None, None]
    assert pull.std() == pytest.approx(0.01, rel=0.01)
    assert np.abs(pull.mean(axis=0)).max() < 5 * 0.01 / np.sqrt(5000)
    np.testing.assert_allclose(sigma, 0.01 * rms_component(noisy))


def test_stated_noise_tells_nothing_but_the_measurement() -> None:
    """Sigma / rms(measured) is the level itself: the noise-free rms must not leak."""
    clean = simulate("ocs", 500, seed=1).momenta
    noisy, sigma = Noise.parse("5%").apply(clean, np.random.default_rng(0))
    np.testing.assert_allclose(sigma / rms_component(noisy), 0.05, rtol=1e-12)


def test_absolute_noise_and_ranges() -> None:
    """Hbar / bohr, and log-uniform levels that fill their range."""
    clean = np.zeros((20_000, 3, 3))
    noisy, sigma = Noise.parse("0.5").apply(clean, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(0.5, rel=0.01)
    assert (sigma == 0.5).all()
    levels = np.log(Noise.parse("0.1%..10%").draw(20_000, np.random.default_rng(0)))
    assert np.log(0.001) <= levels.min() < levels.max() <= np.log(0.1)
    assert levels.mean() == pytest.approx(np.log(0.01), abs=0.03)
    assert levels.std() == pytest.approx(np.log(100) / np.sqrt(12), rel=0.02)


def test_no_noise_changes_nothing() -> None:
    """0 % gives back the momenta, and a sigma of 0."""
    clean = simulate("ocs", 5, seed=1).momenta
    noisy, sigma = Noise.parse("0%").apply(clean, np.random.default_rng(0))
    np.testing.assert_array_equal(noisy, clean)
    assert (sigma == 0).all()


def test_a_range_is_not_a_level() -> None:
    """A measured event has one noise; a range from 0 has no logarithm."""
    with pytest.raises(UsageError, match="range"):
        Noise.parse("1%..2%").sigma(np.ones((1, 3, 3)))
    with pytest.raises(UsageError, match="cannot start at 0"):
        Noise.parse("0%..2%").draw(1, np.random.default_rng(0))
