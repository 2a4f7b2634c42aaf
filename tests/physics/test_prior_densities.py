"""Densities that weigh geometries: a ball's, the displaced one's average, supports, lost labels."""

from __future__ import annotations

import numpy as np
import pytest
from inner import from_python
from scipy import integrate, optimize, special
from scipy.spatial.transform import Rotation

from flowcei.errors import NoDensityError, UsageError
from flowcei.molecules.molecule import Molecule
from flowcei.physics._enclosing import shift_volumes, smallest_ball
from flowcei.physics._rotations import log_average, proper_singular_values
from flowcei.physics.priors import BallPrior, DisplacedPrior, build_prior

OCS = Molecule.load("ocs")
SQUARE = [[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]]
TETRAHEDRON = [[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
SYMMETRIC = {
    "line": [[0.0, 0, 0], [0, 0, 1.1], [0, 0, -1.1]],
    "line, ends first": [[0.0, 0, 1.1], [0, 0, -1.1], [0, 0, 0], [0, 0, 0.3]],
    "square": SQUARE,
    "centred square": [*SQUARE, [0, 0, 0]],
    "tetrahedron": TETRAHEDRON,
    "methane": [*TETRAHEDRON, [0, 0, 0]],
    "cube": [*TETRAHEDRON, *(-np.array(TETRAHEDRON)).tolist()],
    "octahedron": [*np.eye(3).tolist(), *(-np.eye(3)).tolist()],
}


def _volumes(x: np.ndarray, radius: float, closest: float = 1e-3) -> np.ndarray:
    out = np.empty(len(x))
    x = np.ascontiguousarray(x, np.float64)
    shift_volumes(x, radius, closest, out)
    return out


def _balls(x: np.ndarray) -> np.ndarray:
    smallest = from_python(smallest_ball)
    balls = np.array([smallest(points) for points in np.ascontiguousarray(x, np.float64)])
    return np.concatenate([balls[:, :3], np.sqrt(balls[:, 3:])], axis=1)


def _averages(matrices: np.ndarray) -> np.ndarray:
    average, values = from_python(log_average), from_python(proper_singular_values)
    return np.array([average(*values(matrix.copy())) for matrix in matrices])


def _in_unit_ball(n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.uniform(-1.0, 1.0, (2 * n, 3))
    return x[(x**2).sum(axis=1) < 1.0]


def _turned(x: np.ndarray, rng: np.random.Generator, n: int = 20) -> np.ndarray:
    turns = Rotation.random(n, rng=rng).as_matrix()
    return x @ np.swapaxes(turns, 1, 2) + rng.normal(size=(n, 1, 3))


def _smallest_radius(x: np.ndarray) -> float:
    """Return the radius of the smallest ball around x (N, 3), as SciPy's SLSQP finds it."""
    start = np.append(x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).sum(axis=1).max())
    inside = {"type": "ineq", "fun": lambda v: v[3] - ((x - v[:3]) ** 2).sum(axis=1)}
    found = optimize.minimize(lambda v: v[3], start, constraints=inside, options={"ftol": 1e-14})
    return float(np.sqrt(found.x[3]))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 12])
def test_smallest_enclosing_balls(n: int) -> None:
    """Against constrained minimisation; all points lie inside, and one lies on the surface."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(30, n, 3)) * rng.uniform(0.02, 1.0, (30, 1, 3))
    found = _balls(x)
    away = np.linalg.norm(x - found[:, None, :3], axis=-1).max(axis=1)
    np.testing.assert_allclose(away, found[:, 3], rtol=1e-12)
    np.testing.assert_allclose(found[:, 3], [_smallest_radius(g) for g in x], rtol=1e-6)


@pytest.mark.parametrize("shape", SYMMETRIC)
def test_enclosing_balls_of_symmetric_molecules(shape: str) -> None:
    """More points on the surface than fix it, in a plane or on a line: as far as the farthest."""
    x = np.array(SYMMETRIC[shape])
    reach = np.linalg.norm(x, axis=1).max()
    np.testing.assert_allclose(_balls(_turned(x, np.random.default_rng(1)))[:, 3], reach, rtol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_room_of_a_molecule_in_a_ball(n: int) -> None:
    """The volume of the shifts, against counting shifts (a million of them)."""
    rng = np.random.default_rng(n)
    shifts = _in_unit_ball(1_000_000, rng)
    x = BallPrior(n, 1.0, 0.0).sample(6, rng)
    for geometry, found in zip(x, _volumes(x, 1.0), strict=True):
        inside = np.ones(len(shifts), dtype=bool)
        for atom in geometry[1:]:  # shifts are of the first atom
            inside &= ((shifts + atom - geometry[0]) ** 2).sum(axis=1) < 1.0
        share = inside.mean()
        error = np.sqrt(share / len(shifts)) + 3.0 / len(shifts)
        assert found / (4 / 3 * np.pi) == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize("shape", SYMMETRIC)
@pytest.mark.parametrize("radius", [1.8, 3.0])
def test_room_of_symmetric_molecules(shape: str, radius: float) -> None:
    """Arcs that meet in one point, or not at all: as much room as after a nudge, from all sides."""
    rng = np.random.default_rng(2)
    x = np.array(SYMMETRIC[shape])
    found = _volumes(_turned(x, rng), radius)
    np.testing.assert_allclose(found, found[0], rtol=1e-9)
    nudged = _volumes(_turned(x, rng) + 1e-6 * rng.normal(size=(20, *x.shape)), radius)
    np.testing.assert_allclose(nudged, found[0], rtol=1e-4)
    if shape.startswith("line"):
        h = 1.1 / radius  # only the ends matter: two balls have a lens in common
        assert found[0] == pytest.approx(radius**3 * 2 * np.pi / 3 * (2 - 3 * h + h**3), rel=1e-12)


def test_density_of_two_atoms_in_a_ball() -> None:
    """The closed distribution of the distance of two points in a ball, cut at the separation."""
    radius, separation = 3.0, 0.7
    prior = BallPrior(2, radius, separation)
    u = np.linspace(0.01, 5.99, 200)
    law = 3 * u**2 / radius**3 - 9 * u**3 / (4 * radius**4) + 3 * u**5 / (16 * radius**6)
    below = integrate.quad(
        lambda r: 3 * r**2 / radius**3 - 9 * r**3 / (4 * radius**4) + 3 * r**5 / (16 * radius**6),
        0.0,
        separation,
    )[0]
    expected = np.where(u > separation, law / (1 - below), 0.0)
    x = np.zeros((len(u), 2, 3))
    x[:, 1, 1] = u
    np.testing.assert_allclose(4 * np.pi * u**2 * np.exp(prior.log_prob(x)), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("n", "separation"), [(2, 0.5), (3, 0.5), (3, 1.5), (4, 1.0)])
def test_density_of_a_ball_is_normalised(n: int, separation: float) -> None:
    """E_q[p / q] = 1 for bond vectors q of normal atoms; a radius wrong by 2 % is found out."""
    radius = 2.0
    rng = np.random.default_rng(7)
    deviation = 1.1 * radius / np.sqrt(5.0)
    x = deviation * rng.standard_normal((300_000, n, 3))
    squares = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    log_q = -0.5 * squares / deviation**2 - 1.5 * (n - 1) * np.log(2 * np.pi * deviation**2) - 1.5 * np.log(n)
    for wrong, holds in ((0.0, True), (3 * n * np.log(1.02), False)):
        weight = np.exp(BallPrior(n, radius, separation).log_prob(x) - log_q + wrong)
        error = np.hypot(weight.std() / np.sqrt(len(weight)), 1e-3)
        assert (abs(weight.mean() - 1.0) < 4 * error) == holds


def test_density_of_a_ball_sees_neither_place_nor_orientation_nor_hand() -> None:
    """Nor the order of its atoms."""
    rng = np.random.default_rng(3)
    prior = BallPrior(5, 4.0)
    x = prior.sample(200, rng)
    found = prior.log_prob(x)
    turn = Rotation.random(rng=rng).as_matrix()
    for other in (x @ turn.T + 7.0, x * [1, 1, -1], x[:, [3, 1, 0, 4, 2]]):
        np.testing.assert_allclose(prior.log_prob(other), found, atol=1e-8)


def test_a_ball_allows_what_fits_into_it() -> None:
    """All samples; not what is a millionth too large, too close, or no number."""
    prior = BallPrior(4, 2.0, 0.5)
    x = prior.sample(5000, np.random.default_rng(1))
    assert prior.allows(x + 3.0).all()
    just = x * (2.0 / _balls(x)[:, 3])[:, None, None]
    for scale, fits in ((1 - 1e-6, True), (1.0, True), (1 + 1e-6, False)):
        allowed = prior.allows(scale * just)
        assert (allowed == fits).all()
        np.testing.assert_array_equal(prior.log_prob(scale * just) > -np.inf, allowed)
    gap = np.linalg.norm(x[:, 0] - x[:, 1], axis=1)
    x[:, 1] = x[:, 0] + (x[:, 1] - x[:, 0]) * (0.499 / gap)[:, None]
    assert not prior.allows(x).any()
    x[0, 2, 1], x[1, 2, 1] = np.nan, np.inf
    assert not prior.allows(x[:2]).any()


def test_a_ball_of_no_room_or_of_other_atoms() -> None:
    """Refused in one line, also where only its density is asked."""
    x = OCS.equilibrium[None]
    with pytest.raises(UsageError, match="room"):
        BallPrior(3, 2.0, 3.4).log_prob(x)
    with pytest.raises(UsageError, match=r"\(B, 4, 3\)"):
        BallPrior(4, 2.0).log_prob(x)
    with pytest.raises(UsageError, match="two atoms"):
        BallPrior(1, 2.0)


def test_internal_and_displaced_supports() -> None:
    """Limits of a Z-matrix bind; a normal displacement can reach everywhere that is finite."""
    broad = build_prior(OCS, "broad")
    x = broad.sample(1000, np.random.default_rng(0))
    assert broad.allows(x).all()
    assert not broad.allows(3.0 * x).any()
    displaced = build_prior(Molecule.load("ch2o"))
    far = 100.0 * np.random.default_rng(0).normal(size=(3, 4, 3))
    far[2, 1, 1] = np.nan
    assert displaced.allows(far).tolist() == [True, True, False]


def _fine_average(s: np.ndarray) -> np.ndarray:
    """Return the average of proper singular values s (B, 3), eq. 14 of Lee as printed, 2,000 nodes."""
    s1, s2, s3 = s[:, 0, None], s[:, 1, None], s[:, 2, None]
    node, weight = special.roots_legendre(2000)
    q = 0.5 + 0.5 * node
    y = 2 * q**2
    scaled = special.i0e(0.5 * (s1 - s2) * y) * special.i0e(0.5 * (s1 + s2) * (2 - y))
    return s.sum(axis=1) + np.log((scaled * np.exp(-(s2 + s3) * y) * q * weight).sum(axis=1))


@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 10.0, 30.0, 100.0, 1e3, 1e4])
def test_rotation_average_from_diffuse_to_narrow(size: float) -> None:
    """Any, flat, straight and mirrored molecules, to 1e-7 of a fine quadrature with other axes."""
    rng = np.random.default_rng(4)
    s = size * np.sort(rng.random((70, 3)), axis=1)[:, ::-1]
    s[10:20, 2] *= -1.0
    s[20:30, 2] = 0.0
    s[30:40, 1:] *= 1e-3
    s[40:50, 1] = s[40:50, 0]
    s[50:60] = size * np.array([1.0, 1.0, -1.0])
    s[60:70] = size * np.array([1.0, 0.999, -0.998])
    left, right = Rotation.random(70, rng=rng).as_matrix(), Rotation.random(70, rng=rng).as_matrix()
    found = _averages(left @ (s[:, :, None] * right))
    np.testing.assert_allclose(found, _fine_average(s), rtol=1e-13, atol=1e-7)


def test_rotation_average_is_the_mean_over_rotations() -> None:
    """Counting over 400,000 rotations, diffuse and mirrored; the mean of 1 is 1."""
    turns = Rotation.random(400_000, rng=np.random.default_rng(5)).as_matrix()
    for matrix in np.random.default_rng(6).normal(size=(6, 3, 3)):
        values = np.exp(np.tensordot(turns, matrix, 2))
        error = values.std() / values.mean() / np.sqrt(len(values))
        assert _averages(matrix[None])[0] == pytest.approx(np.log(values.mean()), abs=4 * error)
    assert _averages(np.zeros((1, 3, 3)))[0] == pytest.approx(0.0, abs=1e-12)


def test_narrow_displacements_follow_the_asymptotic_rotation_average() -> None:
    """Far out the average tends to exp(s1 + s2 + s3) / sqrt(8 pi (s1+s2) (s2+s3) (s1+s3))."""
    s = np.array([5.0, 3.0, 2.0])
    for size in (1e2, 1e3, 1e4, 1e5):
        s1, s2, s3 = size * s
        log_pairs = np.log((s1 + s2) * (s2 + s3) * (s1 + s3))
        expected = s1 + s2 + s3 - 0.5 * (np.log(8 * np.pi) + log_pairs)
        found = _averages(np.diag(size * s)[None])[0]
        assert found == pytest.approx(expected, abs=1.0 / size, rel=1e-12)


def _scattered(name: str, n: int = 300) -> tuple[DisplacedPrior, Molecule, np.ndarray]:
    molecule = Molecule.load(name)
    prior = DisplacedPrior(molecule.equilibrium, molecule.kinds, 0.6)
    return prior, molecule, prior.sample(n, np.random.default_rng(3))


@pytest.mark.parametrize("name", ["h2o", "ch2o", "ch4"])
def test_density_without_labels_sees_no_order(name: str) -> None:
    """Swapping identical ions changes nothing; swapping others does."""
    prior, molecule, x = _scattered(name)
    found = prior.log_prob_unlabelled(x, molecule.identical)
    first, second = molecule.identical[-1][:2]
    order = list(range(len(molecule)))
    order[first], order[second] = second, first
    np.testing.assert_allclose(prior.log_prob_unlabelled(x[:, order], molecule.identical), found, atol=1e-8)
    order = [first, *(i for i in range(len(molecule)) if i != first)]
    assert not np.allclose(prior.log_prob_unlabelled(x[:, order], molecule.identical), found)


def test_density_without_labels_where_labels_say_nothing() -> None:
    """OCS has no like ions; a half turn of formaldehyde swaps its hydrogens, a ball knows none."""
    prior = build_prior(OCS)
    x = prior.sample(50, np.random.default_rng(1))
    np.testing.assert_array_equal(prior.log_prob_unlabelled(x, OCS.identical), prior.log_prob(x))
    displaced, molecule, x = _scattered("ch2o")
    np.testing.assert_allclose(
        displaced.log_prob_unlabelled(x, molecule.identical), displaced.log_prob(x), atol=1e-5
    )
    ball, many = BallPrior(9, 4.0), (tuple(range(9)),)
    x = ball.sample(20, np.random.default_rng(1))
    np.testing.assert_array_equal(ball.log_prob_unlabelled(x, many), ball.log_prob(x))
    assert ball.allows(x, many).all()


def test_density_without_labels_of_methane() -> None:
    """Half of all orders are mirror images: near equilibrium the labelled density is twice as large."""
    molecule = Molecule.load("ch4")
    prior = build_prior(molecule)
    x = prior.sample(300, np.random.default_rng(3))
    ratio = prior.log_prob(x) - prior.log_prob_unlabelled(x, molecule.identical)
    assert np.median(ratio) == pytest.approx(np.log(2.0), abs=0.01)
    swapped = prior.log_prob(x[:, [0, 2, 1, 3, 4]])
    assert (swapped < prior.log_prob(x) - 5.0).mean() > 0.9


def test_density_without_labels_is_normalised() -> None:
    """E_p[mean over orders / p] = 1, whatever the order in which the prior puts its labels."""
    _, molecule, _ = _scattered("h2o")
    rows = [
        {"atom": "o"},
        {"atom": "h1", "from": "o", "length": {"uniform": [1.5, 2.0]}},
        {"atom": "h2", "from": "o", "length": {"uniform": [1.8, 2.6]}}
        | {"angle_to": "h1", "angle": {"normal": [105, 10]}},
    ]
    prior = build_prior(molecule, {"kind": "internal", "zmatrix": rows})
    x = prior.sample(40_000, np.random.default_rng(3))
    x[::2] = x[::2, [0, 2, 1]]  # as events come: in any order
    unlabelled = prior.log_prob_unlabelled(x, molecule.identical)
    weight = np.exp(prior.log_prob(x) - unlabelled)
    assert weight.mean() == pytest.approx(1.0, abs=4 * weight.std() / 200.0)
    assert prior.allows(x, molecule.identical).all()
    assert not prior.allows(x[::2]).all()
    assert prior.allows(x[1::2]).all()


def test_groups_that_are_none() -> None:
    """An ion in two groups, an ion that is not there, no density."""
    _, molecule, x = _scattered("ch4", 2)
    prior = DisplacedPrior(np.random.default_rng(0).normal(size=(7, 3)), ["h"] * 2 + list("abcde"), 0.5)
    seven = prior.sample(2, np.random.default_rng(0))
    for ask in (prior.log_prob_unlabelled, prior.allows):
        for groups in (((0, 1), (1, 2)), ((0, 7),), ((-1, 2),)):
            with pytest.raises(UsageError, match="name an ion twice"):
                ask(seven, groups)
    cube = build_prior(molecule, {"kind": "cube", "half_width": 3.0})
    with pytest.raises(NoDensityError):
        cube.log_prob_unlabelled(x, molecule.identical)
