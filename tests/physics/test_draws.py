"""Random numbers in lanes: published values of Threefry, elementary functions, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.spatial.transform import Rotation

from flowcei.experiment.detector import Noise
from flowcei.molecules.molecule import Molecule
from flowcei.physics._elementary import circle, logarithm, normal_quantile, root
from flowcei.physics._lanes import aligned, keep, load, scratch, store
from flowcei.physics._random import random_words
from flowcei.physics.draws import fresh_key, standard_normal
from flowcei.physics.priors import build_prior
from flowcei.physics.priors.base import random_orientation
from flowcei.storage._compilation import kernel

ALL = 2**64 - 1
# Of the file kat_vectors of Random123 1.14 (D. E. Shaw Research): counter, key, words of 20 rounds.
KNOWN = [
    ((0, 0), (0, 0), (0xC2B6E3A8C2C69865, 0x6F81ED42F350084D)),
    ((ALL, ALL), (ALL, ALL), (0xE02CB7C4D95D277A, 0xD06633D0893B8B68)),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344),
        (0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x263C7D30BB0F0AF1, 0x56BE8361D3311526),
    ),
]


@kernel
def _words(key: np.ndarray, first: np.uint64, slot: np.uint64, out: np.ndarray) -> None:
    """Write the two words of the counters from (first, slot) on to `out` (2, 8)."""
    room = scratch(2, out)
    rows = aligned(room)
    one, two = random_words(key[0], key[1], first, slot)
    store(rows, 0, one)
    store(rows, 1, two)
    for k in range(16):
        out[k // 8, k % 8] = rows[k]
    keep(room)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_words_are_those_of_threefry(counter: tuple, key: tuple, words: tuple) -> None:
    """The published ones in every lane: lane k has the counter of k more."""
    for lane in range(8):
        out = np.empty((2, 8))
        first = (counter[0] - lane) % 2**64
        _words(np.array(key, np.uint64), np.uint64(first), np.uint64(counter[1]), out)
        assert out.view(np.uint64)[:, lane].tolist() == list(words)


@kernel
def _functions(x: np.ndarray, t: np.ndarray, out: np.ndarray) -> None:
    """Write logarithm, root and quantile of x (8,), cosine and sine of t (8,) turns to `out` (5, 8)."""
    room = scratch(7, x)
    rows = aligned(room)
    for k in range(8):
        rows[k], rows[8 + k] = x[k], t[k]
    cosine, sine = circle(load(rows, 1))
    store(rows, 2, logarithm(load(rows, 0)))
    store(rows, 3, root(load(rows, 0)))
    store(rows, 4, normal_quantile(load(rows, 0)))
    store(rows, 5, cosine)
    store(rows, 6, sine)
    for k in range(40):
        out[k // 8, k % 8] = rows[16 + k]
    keep(room)


def test_elementary_functions_are_those_of_scipy() -> None:
    """On a grid that has the ends, the limits of the cases, and tails of 1e-18."""
    p = np.concatenate([np.geomspace(1e-18, 0.5, 300), 1.0 - np.geomspace(2.0**-53, 0.5, 200)])
    edges = np.array([0.075, 0.925, np.exp(-25.0), np.sqrt(0.5), 0.5, 0.25, 1.0 - 2.0**-53, 2.0**-53])
    p = np.concatenate([p, edges, np.nextafter(edges[:-2], 1.0), np.nextafter(edges, 0.0)])[: 8 * 65]
    t = np.concatenate([np.linspace(-0.5, 0.5, len(p) - 3), [0.0, 1e-9, -0.25]])
    out = np.empty((5, len(p)))
    for k in range(0, len(p), 8):
        one = np.empty((5, 8))
        _functions(p[k : k + 8], t[k : k + 8], one)
        out[:, k : k + 8] = one
    np.testing.assert_allclose(out[0], np.log(p), rtol=2e-15, atol=1e-15)
    np.testing.assert_allclose(out[1], np.sqrt(p), rtol=2e-15)
    np.testing.assert_allclose(out[2], special.ndtri(p), rtol=4e-15, atol=4e-15)
    np.testing.assert_allclose(out[3], np.cos(2.0 * np.pi * t), atol=2e-15)
    np.testing.assert_allclose(out[4], np.sin(2.0 * np.pi * t), atol=2e-15)


def test_normal_numbers_are_normal_and_independent() -> None:
    """Of a million: distribution, tails, and correlations of neighbours, also of squares and of two keys."""
    rng, n = np.random.default_rng(3), 1_000_000
    x, other = standard_normal((n,), rng), standard_normal((n,), rng)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    for limit in (3.0, 4.0):  # as many beyond as there should be
        beyond = int((np.abs(x) > limit).sum())
        assert stats.binomtest(beyond, n, 2.0 * stats.norm.sf(limit)).pvalue > 1e-3
    for lag in (1, 7, 8, 9, 16, 24):
        for a, b in ((x[lag:], x[:-lag]), (x[lag:] ** 2, x[:-lag] ** 2)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(n)
    assert abs(np.corrcoef(x, other)[0, 1]) < 4.5 / np.sqrt(n)


@settings(max_examples=25, deadline=None)
@given(few=st.integers(0, 40), many=st.integers(40, 70), seed=st.integers(0, 2**32))
def test_the_first_of_many_are_those_of_few(few: int, many: int, seed: int) -> None:
    """Normal numbers, geometries of all kinds, and noise: how many are drawn changes none of them."""
    ocs, water = Molecule.load("ocs"), Molecule.load("h2o")
    x = [standard_normal((n,), np.random.default_rng(seed)) for n in (few, many)]
    np.testing.assert_array_equal(x[0], x[1][:few])
    for molecule, name in ((ocs, "broad"), (ocs, "equilibrium"), (water, None)):
        prior = build_prior(molecule, name)
        draws = [prior.sample(n, np.random.default_rng(seed)) for n in (few, many)]
        np.testing.assert_array_equal(draws[0], draws[1][:few])
    for text in ("1%", "0.5"):
        p = np.random.default_rng(1).normal(0.0, 100.0, (many, 3, 3))
        noisy = [Noise.parse(text).apply(p[:n], np.random.default_rng(seed)) for n in (few, many)]
        np.testing.assert_array_equal(noisy[0][0], noisy[1][0][:few])
        np.testing.assert_array_equal(noisy[0][1], noisy[1][1][:few])


def test_orientations_are_uniform_and_proper() -> None:
    """Distances and handedness stay; rotation vectors are distributed as SciPy's random rotations are."""
    n, rng = 20_000, np.random.default_rng(4)
    body = rng.standard_normal((4, 3))
    out = random_orientation(np.tile(body, (n, 1, 1)), rng)
    gram = body @ body.T
    np.testing.assert_allclose(out @ np.swapaxes(out, 1, 2), np.tile(gram, (n, 1, 1)), atol=1e-13)
    turned = Rotation.from_matrix(
        np.swapaxes(
            np.linalg.lstsq(body, np.hstack(out), rcond=None)[0].reshape(3, n, 3).swapaxes(0, 1), 1, 2
        )
    )
    angle = turned.magnitude()  # density (1 - cos) / pi of a uniform rotation
    assert stats.kstest((angle - np.sin(angle)) / np.pi, "uniform").pvalue > 1e-3
    axis = turned.as_rotvec() / angle[:, None]
    for column in axis.T:
        assert stats.kstest(0.5 + 0.5 * column, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("text", ["1%", "0.5", "2%..3%/axis"])
def test_noise_is_normal_of_the_stated_size(text: str) -> None:
    """Differences over what each event, and axis, is stated to have, and the rms they are a share of."""
    n, noise = 4000, Noise.parse(text)
    p = np.random.default_rng(1).normal(0.0, 100.0, (n, 5, 3))
    noisy, sigma = noise.apply(p, np.random.default_rng(2))
    rms, of_noisy = (np.sqrt((v**2).mean(axis=(1, 2))) for v in (p, noisy))
    level = sigma.reshape(n, 1, -1)
    if noise.relative:  # stated is a share of the noisy rms, added one of the exact
        level = level * (rms / of_noisy)[:, None, None]
    assert stats.kstest(((noisy - p) / level).ravel(), "norm").pvalue > 1e-3
    if noise.low == noise.high:
        unit = of_noisy if noise.relative else 1.0
        np.testing.assert_allclose(sigma, noise.low * unit * np.ones(n), rtol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_momenta_of_any_type_get_the_same_noise(kind: type) -> None:
    """Whole numbers in single precision, or as integers, are those in double."""
    p = np.random.default_rng(0).integers(-300, 300, (20, 3, 3))
    one, other = (Noise.parse("1%").apply(p.astype(k), np.random.default_rng(1)) for k in (float, kind))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_keys_differ() -> None:
    """Each call of a stream has a key of its own, the same for the same seed."""
    rng = np.random.default_rng(0)
    keys = np.array([fresh_key(rng) for _ in range(100)])
    assert len(np.unique(keys)) == 200
    np.testing.assert_array_equal(keys[0], fresh_key(np.random.default_rng(0)))
