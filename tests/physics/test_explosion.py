"""The forward model against an independent integrator, its invariants, and bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from flowcei.molecules.molecule import Molecule
from flowcei.physics import explosion
from flowcei.physics.explosion import asymptotic_momenta, kinetic_energy, potential_energy
from flowcei.physics.priors import BallPrior, build_prior
from flowcei.units import ANGSTROM, DALTON

OCS = Molecule.load("ocs")
BALLS = {  # masses in u, geometries, radius in bohr
    2: ([1.008, 34.97], 300, 4.0),
    3: ([12.011, 15.999, 32.06], 600, 4.0),
    5: ([12.011, 1.008, 79.9, 35.45, 18.998], 600, 4.0),
    11: ([*[12.011] * 4, *[1.008] * 5, 15.999, 35.45], 2000, 5.0),
}

HALIDES = {"ch3cl": (34.97, 1.78), "ch3i": (126.9, 2.14)}  # u, and distance from carbon, angstrom


def _error(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return |dp| / |p| of each event."""
    return np.linalg.norm(found - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))


def _ball(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masses, count, radius = BALLS[n]
    x = BallPrior(n, radius, 0.5).sample(count, np.random.default_rng(n))
    return x, np.array(masses) * DALTON, np.ones(n)


def test_finest_setting_agrees_with_the_oracle() -> None:
    """To 1e-9 for OCS in all shapes and for a five-atom molecule: two independent methods."""
    x = build_prior(OCS, "broad").sample(6, np.random.default_rng(1))
    truth = np.array([oracle.momenta(g, OCS.masses, OCS.charges) for g in x])
    found = asymptotic_momenta(x, OCS.masses, OCS.charges, accuracy=1e-10)
    assert _error(found, truth).max() < 1e-9
    x, m, q = _ball(5)
    truth = np.array([oracle.momenta(g, m, q) for g in x[:3]])
    assert _error(asymptotic_momenta(x[:3], m, q, accuracy=1e-10), truth).max() < 2e-9


def _near_equilibrium(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return geometries of a molecule by its default prior, masses and charges."""
    if name in HALIDES:
        halogen, length = HALIDES[name]
        x = np.array(
            [[0, 0, 0], [0, 0, length], [1.03, 0, -0.36], [-0.515, 0.89, -0.36], [-0.515, -0.89, -0.36]]
        )
        shift = np.random.default_rng(4).normal(0.0, 0.15, (600, 5, 3))
        return x * ANGSTROM + shift, np.array([12.011, halogen, *[1.008] * 3]) * DALTON, np.ones(5)
    molecule = Molecule.load(name)
    x = build_prior(molecule, None).sample(600, np.random.default_rng(77))
    return x, molecule.masses, molecule.charges


HELD_OUT = {f"ball of {n}": lambda n=n: _ball(n) for n in BALLS} | {
    name: lambda name=name: _near_equilibrium(name)
    for name in ("ocs", "ch4", "chbrclf", "iodopyridine", *HALIDES)
}


@pytest.mark.parametrize("place", HELD_OUT)
def test_accuracy_is_a_promise(place: str) -> None:
    """Mean below what is asked and 99th percentile below ten times that, for every setting."""
    x, m, q = HELD_OUT[place]()
    truth = asymptotic_momenta(x, m, q, accuracy=1e-10)
    for setting in explosion.SETTINGS[:-1]:
        error = _error(asymptotic_momenta(x, m, q, accuracy=setting.accuracy), truth)
        assert error.mean() < setting.accuracy
        assert np.quantile(error, 0.99) < 10 * setting.accuracy


@pytest.mark.parametrize("setting", explosion.SETTINGS, ids=lambda s: f"{s.accuracy:g}")
def test_every_setting_against_the_oracle(
    setting: explosion._Setting, solved: tuple[np.ndarray, np.ndarray]
) -> None:
    """Broad OCS, solved in plain time by SciPy: the mean error is below the promise."""
    x, truth = solved
    found = asymptotic_momenta(x, OCS.masses, OCS.charges, accuracy=setting.accuracy)
    assert _error(found, truth).mean() < setting.accuracy


def test_the_oracle_conserves_what_it_must(solved: tuple[np.ndarray, np.ndarray]) -> None:
    """Its energy closes to 1e-11 and its momentum to 1e-12, though it imposes neither."""
    x, truth = solved
    energy = potential_energy(x, OCS.charges)
    np.testing.assert_allclose(kinetic_energy(truth, OCS.masses), energy, rtol=1e-11)
    assert np.abs(truth.sum(axis=1)).max() < 1e-12 * np.abs(truth).max()


def test_a_wrong_integrator_is_found_out(
    solved: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps twice too long, or no tail, miss the promise of 1e-8: the comparison is sharp."""
    x, truth = solved
    good = next(s for s in explosion.SETTINGS if s.accuracy == 1e-8)
    for bad in (replace(good, eta=2.5 * good.eta), replace(good, z1=0.5, tail_nodes=3)):
        monkeypatch.setattr(explosion, "SETTINGS", (bad,))
        found = asymptotic_momenta(x, OCS.masses, OCS.charges, accuracy=good.accuracy)
        assert _error(found, truth).mean() > good.accuracy


@pytest.fixture(scope="module")
def solved() -> tuple[np.ndarray, np.ndarray]:
    """Return five broad geometries of OCS and their momenta by the oracle."""
    x = build_prior(OCS, "broad").sample(5, np.random.default_rng(21))
    return x, np.array([oracle.momenta(g, OCS.masses, OCS.charges) for g in x])


def test_two_ions_share_their_potential_energy() -> None:
    """N = 2 in closed form: p = sqrt(2 mu q q' / r), along the bond."""
    m, r = np.array([1.0, 35.0]) * DALTON, 1.7
    p = asymptotic_momenta([[0, 0, 0], [0, r, 0]], m, [1, 2])
    expected = np.sqrt(2.0 * m.prod() / m.sum() * 2.0 / r)
    np.testing.assert_allclose(p, [[0, -expected, 0], [0, expected, 0]], rtol=1e-12, atol=1e-9)


def test_ions_at_rest_carry_no_angular_momentum() -> None:
    """In a plane, and with p_i x p_j pairs adding up: for N = 3 the momenta are coplanar."""
    x = build_prior(OCS, "broad").sample(50, np.random.default_rng(3))
    p = asymptotic_momenta(x, OCS.masses, OCS.charges, accuracy=1e-10)
    triple = np.einsum("bi,bi->b", p[:, 0], np.cross(x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]))
    assert (np.abs(triple) < 1e-6 * np.linalg.norm(p[:, 0], axis=1) * 10).all()


def test_three_geometries_with_the_same_momenta() -> None:
    """The inverse is not unique: a known triple of OCS agrees to 1e-9 in all |p|."""
    triple = [
        (1.8949, 1.2990, 160.601),
        (2.4867739876466066, 1.075257818100003, 164.5746329841263),
        (0.9828330292144174, 2.931679982361075, 168.3020480061613),
    ]
    m = np.array([12.0, 15.9949146, 31.9720707]) * DALTON
    found = []
    for co, cs, angle in triple:
        a = np.radians(angle)
        x = np.array([[0, 0, 0], [co, 0, 0], [cs * np.cos(a), cs * np.sin(a), 0]]) * ANGSTROM
        p = asymptotic_momenta(x, m, [2, 2, 2], accuracy=1e-10)
        found.append(np.linalg.norm(p, axis=1))
    np.testing.assert_allclose(found[0], [180.14570213, 306.84922827, 351.85786399], rtol=1e-9)
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-10)


@pytest.mark.parametrize("accuracy", [1e-4, 1e-7])
def test_result_does_not_depend_on_company(accuracy: float) -> None:
    """Bit for bit: alone, in a batch, in another order, with one thread or two."""
    x = build_prior(OCS, "cube").sample(9000, np.random.default_rng(2))
    m, q = OCS.masses, OCS.charges
    together = asymptotic_momenta(x, m, q, accuracy=accuracy, threads=2)
    np.testing.assert_array_equal(asymptotic_momenta(x, m, q, accuracy=accuracy, threads=1), together)
    order = np.random.default_rng(0).permutation(len(x))[:500]
    np.testing.assert_array_equal(asymptotic_momenta(x[order], m, q, accuracy=accuracy), together[order])
    np.testing.assert_array_equal(asymptotic_momenta(x[7], m, q, accuracy=accuracy), together[7])


def test_shape_and_type_follow_the_positions() -> None:
    """float32 in, float32 out; (N, 3) in, (N, 3) out; no event in, none out."""
    x = OCS.equilibrium
    assert asymptotic_momenta(x, OCS.masses, OCS.charges).shape == (3, 3)
    single = asymptotic_momenta(x[None].astype(np.float32), OCS.masses, OCS.charges)
    assert single.dtype == np.float32
    assert asymptotic_momenta(np.zeros((0, 3, 3)), OCS.masses, OCS.charges).shape == (0, 3, 3)


def test_a_molecule_far_from_the_origin_loses_nothing() -> None:
    """Single precision is used about the centre of mass, wherever that is."""
    far = OCS.equilibrium + 3e5
    near = asymptotic_momenta(OCS.equilibrium, OCS.masses, OCS.charges, accuracy=1e-4)
    p = asymptotic_momenta(far, OCS.masses, OCS.charges, accuracy=1e-4)
    np.testing.assert_allclose(p, near, atol=1e-6 * np.abs(near).max())


GOOD = np.array([[[0.0, 0, 0], [2, 0, 0], [0, 3, 0]]] * 3)


def _with(row: int, value: object) -> np.ndarray:
    x = GOOD.copy()
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "m", "q", "words"),
    [
        (_with(1, np.nan), [1, 1, 1], [1, 1, 1], "row 1 .*not finite"),
        (_with(2, np.inf), [1, 1, 1], [1, 1, 1], "row 2 .*not finite"),
        (_with(2, 0.0), [1, 1, 1], [1, 1, 1], "row 2 .*coincident"),
        (_with(1, 1e-6), [1, 1, 1], [1, 1, 1], "row 1 .*coincident"),
        (GOOD, [1, 1, 1], [1, -1, 1], "one sign"),
        (GOOD, [1, 1, 1], [1, 0, 1], "one sign"),
        (GOOD, [1, -1, 1], [1, 1, 1], "positive"),
        (GOOD, [1, np.nan, 1], [1, 1, 1], "finite"),
        (GOOD, [1, 1], [1, 1, 1], r"masses have shape \(2,\)"),
        (GOOD, [1, 1, 1], [1, 1, 1, 1], r"charges have shape \(4,\)"),
        (GOOD[:, :1], [1], [1], "two or more"),
        (GOOD[..., :2], [1, 1, 1], [1, 1, 1], "expected"),
        (GOOD[0, 0], [1, 1, 1], [1, 1, 1], "expected"),
    ],
)
def test_bad_input_is_an_error_that_names_the_row(x: np.ndarray, m: list, q: list, words: str) -> None:
    """Never a NaN downstream."""
    with pytest.raises(ValueError, match=words):
        asymptotic_momenta(x, m, q)


def test_accuracy_beyond_reach_is_refused() -> None:
    """Below 1e-10 nothing is promised."""
    for accuracy in (1e-11, 0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="accuracy"):
            asymptotic_momenta(GOOD, [1, 1, 1], [1, 1, 1], accuracy=accuracy)


@settings(max_examples=30, deadline=None)
@given(
    n=st.sampled_from([2, 3, 4, 5, 8]),  # numbers that other tests compile
    seed=st.integers(0, 2**32 - 1),
    charge=st.sampled_from([-1.0, 1.0]),
    scale=st.floats(0.2, 5.0),
)
def test_invariants_of_any_molecule(n: int, seed: int, charge: float, scale: float) -> None:
    """N = 2 ... 8: momentum, energy; shift, turn, order, mirror, scale, masses, charges."""
    rng = np.random.default_rng(seed)
    x = BallPrior(n, 4.0, 0.5).sample(3, rng)
    m, q = rng.uniform(1, 130, n) * DALTON, charge * rng.integers(1, 5, n)
    p = asymptotic_momenta(x, m, q, accuracy=1e-9)
    size = np.linalg.norm(p, axis=(1, 2))[:, None, None]
    assert np.abs(p.sum(axis=1) / size[:, 0]).max() < 1e-12
    np.testing.assert_allclose(kinetic_energy(p, m), potential_energy(x, q), rtol=1e-12)
    turn, order = Rotation.random(rng=rng).as_matrix(), rng.permutation(n)
    for y, mass, ion, expected in (
        (x @ turn.T + rng.normal(0.0, 5.0, 3), m, q, p @ turn.T),
        (x[:, order], m[order], q[order], p[:, order]),
        (x * [1, 1, -1], m, q, p * [1, 1, -1]),
        (scale * x, m, q, p / np.sqrt(scale)),
        (x, 4.0 * m, q, 2.0 * p),
        (x, m, 3.0 * q, 3.0 * p),
        (x, m, -q, p),
    ):
        again = asymptotic_momenta(y, mass, ion, accuracy=1e-9)
        assert (np.abs(again - expected) / size).max() < 1e-6


def test_symmetric_molecules_expand_without_change_of_shape() -> None:
    """A homologous expansion in closed form: p_i = m_i x_i sqrt(2 U0 / I0) for CO2 and CH4."""
    for name in ("co2", "ch4"):
        molecule = Molecule.load(name)
        x = molecule.equilibrium - explosion.centre_of_mass(molecule.equilibrium, molecule.masses)
        inertia = (molecule.masses[:, None] * x**2).sum()
        rate = np.sqrt(2.0 * potential_energy(x, molecule.charges) / inertia)
        p = asymptotic_momenta(x, molecule.masses, molecule.charges, accuracy=1e-10)
        np.testing.assert_allclose(p, molecule.masses[:, None] * x * rate, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("x", "m", "accuracy"),
    [
        (OCS.equilibrium * 1e20, OCS.masses, 1e-4),  # leaves single precision
        (OCS.equilibrium * 1e200, OCS.masses, 1e-10),  # leaves double precision
    ],
)
def test_what_cannot_be_followed_is_an_error(x: np.ndarray, m: np.ndarray, accuracy: float) -> None:
    """Overflow names its row; no NaN comes back."""
    batch = np.array([OCS.equilibrium, x])
    with pytest.raises(ValueError, match=r"row 1 of positions has an explosion .*\(1 such rows\)"):
        asymptotic_momenta(batch, m, [1, 1, 1], accuracy=accuracy)


@pytest.mark.parametrize(
    ("x", "m", "most"),
    [
        ([[0, 0, 0], [1e-4, 0, 0], [1, 0, 0]], [20000, 1837, 20000], 1e-8),  # an ion hits another
        (  # H between Br and C; drawn from the ball, where it ended a training; steps of uneven masses do not
            [
                [-0.8940939946739338, -2.9507094529606603, 0.043479953872864574],
                [-0.7535163568258338, -2.4494278332604895, -0.9952428225004459],
                [-0.8248632285427226, 2.5200812504801076, 0.46440789191532456],
                [1.5942319740871373, -3.190660497839174, -0.7289156574590969],
                [1.0997163925064632, -2.6499944580909016, -0.5677856716174812],
            ],
            Molecule.load("chbrclf").masses,
            1e-4,
        ),
    ],
)
def test_what_a_coarse_setting_loses_is_followed_by_the_finest(x: list, m: np.ndarray, most: float) -> None:
    """Near-collisions, lost in coarse steps, come out right beside others that are not."""
    system = np.asarray(x, float), np.asarray(m, float), np.ones(len(m))
    apart = 4.0 * np.arange(3.0 * len(m)).reshape(-1, 3) ** 1.1
    found = asymptotic_momenta(np.array([apart, system[0]]), *system[1:], accuracy=1e-4)
    truth = np.array([oracle.momenta(apart, *system[1:]), oracle.momenta(*system)])
    assert _error(found, truth)[0] < 1e-4
    assert _error(found, truth)[1] < most


def test_a_search_may_collide() -> None:
    """`followed_momenta` answers where `asymptotic_momenta` refuses, and spoils no neighbour."""
    x = np.array([OCS.equilibrium, OCS.equilibrium * 0.0, OCS.equilibrium * np.nan])
    found = explosion.followed_momenta(x, OCS.masses, OCS.charges)
    np.testing.assert_array_equal(found[0], asymptotic_momenta(x[0], OCS.masses, OCS.charges))
    assert np.isnan(found[1:]).all()


def _warm(x: np.ndarray, masses: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return momenta at the start with about `share` of the energy of an OCS explosion."""
    energy = share * potential_energy(x, OCS.charges).mean()
    spread = np.sqrt(2.0 * masses * energy / (3 * len(masses)))
    return np.random.default_rng(seed).normal(0.0, 1.0, x.shape) * spread[:, None]


@pytest.mark.parametrize("share", [1e-3, 0.3])
def test_motion_at_the_start_against_the_oracle(share: float) -> None:
    """Thermal and violent, drift of the centre of mass included; energy and drift are kept."""
    x = build_prior(OCS, "broad").sample(4, np.random.default_rng(8))
    initial = _warm(x, OCS.masses, share, 2)
    truth = np.array([oracle.momenta(g, OCS.masses, OCS.charges, p) for g, p in zip(x, initial, strict=True)])
    for accuracy in (1e-10, 1e-7, 1e-5):
        found = asymptotic_momenta(x, OCS.masses, OCS.charges, initial_momenta=initial, accuracy=accuracy)
        assert _error(found, truth).max() < 10 * accuracy
        np.testing.assert_allclose(found.sum(axis=1), initial.sum(axis=1), atol=10 * accuracy * 300)
    finest = asymptotic_momenta(x, OCS.masses, OCS.charges, initial_momenta=initial, accuracy=1e-10)
    before = potential_energy(x, OCS.charges) + kinetic_energy(initial, OCS.masses)
    np.testing.assert_allclose(kinetic_energy(finest, OCS.masses), before, rtol=1e-11)


def test_no_motion_at_the_start_is_rest() -> None:
    """Momenta of zero change nothing; a common velocity only adds itself."""
    x = build_prior(OCS, "broad").sample(20, np.random.default_rng(9))
    rest = asymptotic_momenta(x, OCS.masses, OCS.charges, accuracy=1e-9)
    zero = asymptotic_momenta(x, OCS.masses, OCS.charges, initial_momenta=0 * x, accuracy=1e-9)
    np.testing.assert_allclose(zero, rest, atol=1e-10)
    drift = OCS.masses[:, None] * np.array([1e-4, -2e-4, 3e-4]) + 0 * x
    moving = asymptotic_momenta(x, OCS.masses, OCS.charges, initial_momenta=drift, accuracy=1e-9)
    np.testing.assert_allclose(moving, rest + drift, atol=1e-9)


def test_motion_at_the_start_turns_with_the_molecule() -> None:
    """Equivariance of positions and momenta together."""
    x = build_prior(OCS, "broad").sample(20, np.random.default_rng(10))
    x -= explosion.centre_of_mass(x, OCS.masses)
    initial = _warm(x, OCS.masses, 0.01, 3)
    initial -= OCS.masses[:, None] / OCS.masses.sum() * initial.sum(axis=1, keepdims=True)
    p = asymptotic_momenta(x, OCS.masses, OCS.charges, initial_momenta=initial, accuracy=1e-10)
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    again = asymptotic_momenta(
        x @ turn.T, OCS.masses, OCS.charges, initial_momenta=initial @ turn.T, accuracy=1e-10
    )
    np.testing.assert_allclose(again, p @ turn.T, atol=1e-7)


def test_motion_that_is_not_sound_is_refused() -> None:
    """NaN names its row, another shape what was expected."""
    bad = np.zeros_like(GOOD)
    bad[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"row 1 .*not finite"):
        asymptotic_momenta(GOOD, [1, 1, 1], [1, 1, 1], initial_momenta=bad)
    with pytest.raises(ValueError, match="initial momenta have shape"):
        asymptotic_momenta(GOOD, [1, 1, 1], [1, 1, 1], initial_momenta=bad[:2])
