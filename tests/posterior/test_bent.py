"""Mixtures in bent coordinates: the map is undone, keeps its volume, and follows points that are bent."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, multivariate_t

from flowcei.posterior.bent import Bend, BentMixture, GuardedMixture
from flowcei.posterior.mixtures import StudentMixture

RNG = np.random.default_rng(3)


def _parabola(e: int, m: int, d: int) -> np.ndarray:
    """A long axis, along which all others are shifted, turned in space."""
    z = np.random.default_rng(1).standard_normal((e, m, d)) * np.r_[1.0, np.full(d - 1, 0.1)]
    z[:, :, 1:] += 0.2 * (z[:, :, :1] ** 2 - 1.0)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((d, d)))[0]
    return z @ turn + 5.0


@pytest.mark.parametrize("d", [1, 2, 3, 6, 12])
def test_straight_coordinates_are_undone(d: int) -> None:
    """There and back; the volume and the derivative are those of differences."""
    points = _parabola(2, 400, d)
    bend = Bend.of(points, np.full(2, 400.0))
    z = bend.straight(points)
    np.testing.assert_allclose(bend.bent(z), points, atol=1e-10)
    few, step = points[:, :3], 1e-5 * np.eye(d)
    moved = [(bend.straight(few + h) - bend.straight(few - h)) / 2e-5 for h in step]
    derivative = bend.derivative(few)
    np.testing.assert_allclose(derivative, np.stack(moved, axis=-1), rtol=1e-5, atol=1e-5)
    volume = np.linalg.slogdet(derivative)[1]
    np.testing.assert_allclose(volume, -np.repeat(bend.log_volume[:, None], 3, axis=1), atol=1e-9)


def test_a_parabola_becomes_straight_and_noise_stays_noise() -> None:
    """Of a parabola one normal distribution is left; what few points of a normal one show is not believed."""
    points = _parabola(1, 4000, 4)
    z = Bend.of(points, np.array([4000.0])).straight(points)[0]
    bent = np.corrcoef(z[:, 0] ** 2, z[:, 1:].T)[0, 1:]
    assert np.abs(bent).max() < 0.05
    fitted = BentMixture.fit(points, np.array([4000.0]), RNG, 1)
    width = np.exp(
        fitted.log_density(points).mean()
        - StudentMixture.fit(z[None], np.array([4000.0]), RNG, 1).log_density(z[None]).mean()
    )
    assert width == pytest.approx(np.exp(-fitted.bend.log_volume[0]), rel=0.1)
    normal = np.random.default_rng(4).standard_normal((20, 100, 12))
    slope = Bend.of(normal, np.full(20, 100.0)).slope
    assert np.sqrt((slope**2).mean()) < 0.03  # the noise alone is 0.1


def test_a_bent_mixture_has_the_density_of_what_it_draws() -> None:
    """Any normal distribution, weighed with its draws, has the integral 1 and its own mean."""
    points = _parabola(1, 2000, 3)
    mixture = BentMixture.fit(points, np.array([2000.0]), RNG, 2)
    drawn = mixture.sample(100_000, RNG)
    middle = points[0, 7]
    target = multivariate_normal(middle, 0.02 * np.cov(points[0].T))
    weights = np.exp(target.logpdf(drawn[0]) - mixture.log_density(drawn)[0])
    np.testing.assert_allclose(weights.mean(), 1.0, atol=4.0 * weights.std() / np.sqrt(100_000))
    np.testing.assert_allclose(np.average(drawn[0], axis=0, weights=weights), middle, atol=0.02)


def test_components_go_where_expectation_and_maximisation_take_them() -> None:
    """Four steps by densities of SciPy and plain sums; one component is far from all points."""
    rng, d, dof, effective = np.random.default_rng(8), 3, 15.0, 200.0
    points = np.concatenate([rng.standard_normal((300, d)), 3.0 + 0.1 * rng.standard_normal((101, d))])
    mean = np.array([np.zeros(d), np.full(d, 2.9), np.full(d, -40.0)])
    root, share = np.tile(0.5 * np.eye(d), (3, 1, 1)), np.array([0.5, 0.4, 0.1])
    moved = StudentMixture(mean[None], root[None], np.log(share)[None]).moved(
        points[None], np.array([effective])
    )
    scale, first = root @ root.swapaxes(1, 2), share
    for _ in range(4):
        laws = [multivariate_t(m, s, df=dof) for m, s in zip(mean, scale, strict=True)]
        each = share[:, None] * np.array([law.pdf(points) for law in laws])
        each /= each.sum(axis=0)
        off = points - mean[:, None]
        distance = np.einsum("kmi,kij,kmj->km", off, np.linalg.inv(scale), off)
        pull = each * (dof + d) / (dof + distance)
        mean = (pull @ points + 1e-9 * mean) / (pull.sum(axis=1, keepdims=True) + 1e-9)
        off = points - mean[:, None]
        scatter = np.einsum("km,kmi,kmj->kij", pull, off, off)
        pooled, counts = scatter.sum(axis=0) / len(points), each.sum(axis=1)[:, None, None]
        known = counts * effective / len(points)
        scale = (scatter / counts * known + d * pooled) / (known + d)
        scale += 1e-6 * np.trace(pooled) / d * np.eye(d)
        share = np.maximum(each.mean(axis=1), 1e-12)
    np.testing.assert_allclose(moved.mean[0], mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moved.factor[0] @ moved.factor[0].swapaxes(1, 2), scale, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(np.exp(moved.log_share[0]), 0.9 * share + 0.1 * first, rtol=1e-9)


def test_components_of_points_keep_their_place() -> None:
    """A component that joins from outside is drawn where it was, as wide as it was."""
    fitted = BentMixture.fit(_parabola(1, 1000, 3), np.array([1000.0]), RNG, 1)
    place, width = np.array([[[9.0, 4.0, 6.0]]]), 0.01
    other = StudentMixture(place, width * np.eye(3)[None, None], np.zeros((1, 1)))
    drawn = fitted.joined(other).sample(20_000, RNG)[0]
    near = drawn[np.linalg.norm(drawn - place[0, 0], axis=1) < 10.0 * width]
    assert abs(len(near) / 20_000 - 0.2) < 0.02
    np.testing.assert_allclose(near.mean(axis=0), place[0, 0], atol=0.001)
    spread = near.std(axis=0) / width
    np.testing.assert_allclose(spread, np.sqrt(15.0 / 13.0), rtol=0.05)


def test_what_a_mixture_began_as_is_not_lost() -> None:
    """Fitted to points that miss one of two places, it still draws there, and knows how often."""
    rng = np.random.default_rng(6)
    there = np.random.default_rng(5).standard_normal((1, 1000, 3)) * 0.1 + 4.0
    both = np.concatenate([_parabola(1, 1000, 3), there], axis=1)
    effective = np.array([1000.0])
    first = BentMixture.fit(both, effective, rng, 2)
    guarded = GuardedMixture(first, first).fitted_again(_parabola(1, 1000, 3), effective, rng)
    assert guarded.fitted.log_density(there).max() < first.log_density(there).max() - 5.0
    assert (guarded.log_density(there) >= first.log_density(there) + np.log(0.1) - 1e-9).all()
    drawn = guarded.sample(100_000, rng)
    target = multivariate_normal(there[0].mean(axis=0), 0.01 * np.eye(3))
    weights = np.exp(target.logpdf(drawn[0]) - guarded.log_density(drawn)[0])
    np.testing.assert_allclose(weights.mean(), 1.0, atol=4.0 * weights.std() / np.sqrt(100_000))


def test_a_component_far_out_on_a_bend_keeps_its_density() -> None:
    """There straight coordinates are stretched beyond what the square of a factor holds: no LinAlgError."""
    points = _parabola(1, 1000, 6)
    fitted = BentMixture.fit(points, np.array([1000.0]), RNG, 1)
    place, width = points.mean(axis=1) + 1e7 * (points[:, 0] - points.mean(axis=1)), 0.01
    other = StudentMixture(place[:, None], width * np.eye(6)[None, None], np.zeros((1, 1)))
    alone = other.log_density(place[:, None])[0, 0]
    joined = fitted.joined(other).log_density(place[:, None])[0, 0]
    assert joined == pytest.approx(np.log(0.2) + alone, abs=0.02)
