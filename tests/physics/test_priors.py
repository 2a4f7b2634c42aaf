"""Geometry priors: their moments, their densities by independent ways, and bad tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

import flowcei
from flowcei.errors import NoDensityError, UsageError
from flowcei.molecules.molecule import Molecule, built_in_molecules
from flowcei.physics.priors import (
    DisplacedPrior,
    EnsemblePrior,
    GeometryPrior,
    InternalPrior,
    NormalModesPrior,
    build_prior,
)
from flowcei.physics.priors.distributions import distribution
from flowcei.study.datasets import StretchedChain

OCS = Molecule.load("ocs")
WATER = Molecule.load("h2o")
CHAIN = [
    {"atom": "a"},
    {"atom": "b", "from": "a", "length": {"normal": [2.0, 0.2]}},
    {"atom": "c", "from": "b", "length": {"normal": [1.9, 0.2]}}
    | {"angle_to": "a", "angle": {"normal": [110, 9]}},
    {"atom": "d", "from": "c", "length": {"truncated_normal": [2, 0.2, 0.5, 4]}}
    | {"angle_to": "b", "angle": {"normal": [100, 8]}}
    | {"dihedral_to": "a", "dihedral": {"normal": [60, 15]}},
]


def _vibrating_water(temperature: float = 0.0) -> NormalModesPrior:
    """Return water with three made-up modes, orthogonal to translation and rotation."""
    m, x = WATER.masses, WATER.equilibrium
    x = x - m @ x / m.sum()
    root = np.sqrt(m)[:, None]
    outside = [np.eye(3)[[k]] * root for k in range(3)] + [np.cross(np.eye(3)[k], x) * root for k in range(3)]
    q = np.linalg.qr(np.array([v.ravel() for v in outside] + list(np.eye(9)[:3])).T)[0][:, 6:]
    modes = q.T.reshape(3, 3, 3) / root
    return NormalModesPrior(WATER.equilibrium, m, [1600.0, 3700.0, 3800.0], modes, temperature)


def _lengths_and_angle(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]
    r, s = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    return r, s, np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))


def _draw(name: str, n: int = 40_000) -> np.ndarray:
    return build_prior(OCS, name).sample(n, np.random.default_rng(5))


def test_a_prior_is_read_from_a_file_of_its_own(tmp_path: Path) -> None:
    """As the table of that form, wherever a name is taken; what does not fit names the file."""
    path = tmp_path / "near.toml"
    path.write_text('kind = "displaced"\nsigma = 0.2\n')
    stated = {"kind": "displaced", "sigma": 0.2}
    own = build_prior(OCS, str(path))
    assert own.spec() == build_prior(OCS, stated).spec()
    assert build_prior(OCS, own) is own
    events = flowcei.simulate("ocs", 3, prior=str(path), seed=1)
    assert events.digest() == flowcei.simulate("ocs", 3, prior=stated, seed=1).digest()
    path.write_text('kind = "displaced"\nsigmas = 0.2\n')
    with pytest.raises(UsageError, match=r"near\.toml: a prior of kind 'displaced'"):
        build_prior(OCS, str(path))
    with pytest.raises(UsageError, match=r"far\.toml"):
        build_prior(OCS, str(tmp_path / "far.toml"))


def test_ocs_equilibrium_has_the_stated_moments() -> None:
    """r_CO 2.19 +/- 0.15, r_CS 2.95 +/- 0.18 bohr, Rayleigh bend of 8.5 degrees."""
    co, cs, angle = _lengths_and_angle(_draw("equilibrium"))
    assert (co.mean(), co.std()) == pytest.approx((2.19, 0.15), abs=3e-3)
    assert (cs.mean(), cs.std()) == pytest.approx((2.95, 0.18), abs=3e-3)
    assert (180 - angle).mean() == pytest.approx(8.5 * np.sqrt(np.pi / 2), rel=0.01)
    assert ((180 - angle) ** 2).mean() == pytest.approx(2 * 8.5**2, rel=0.02)


def test_ocs_stretched_is_like_the_first_study() -> None:
    """Means, deviations and ranges of its file cei_traning_orient_1."""
    co, cs, angle = _lengths_and_angle(_draw("stretched"))
    assert (co.mean(), co.std()) == pytest.approx((2.53, 0.35), abs=0.01)
    assert (cs.mean(), cs.std()) == pytest.approx((3.53, 0.49), abs=0.01)
    assert (angle.mean(), angle.std()) == pytest.approx((175.9, 2.4), abs=0.3)
    assert 2.10 <= co.min() < co.max() <= 4.31
    assert 2.85 <= cs.min() < cs.max() <= 6.06


def test_ocs_broad_fills_its_ranges() -> None:
    """Uniform in both lengths and in the angle."""
    for values, low, high in zip(
        _lengths_and_angle(_draw("broad")), (1.8, 2.4, 60), (4, 5, 180), strict=True
    ):
        counts = np.histogram(values, bins=10, range=(low, high))[0]
        assert counts.sum() == len(values)
        assert np.abs(counts / counts.mean() - 1).max() < 0.06


def test_orientation_is_uniform() -> None:
    """Bond directions average to 0, and their squares to 1/3 on each axis."""
    x = _draw("broad")
    u = (x[:, 1] - x[:, 0]) / np.linalg.norm(x[:, 1] - x[:, 0], axis=1)[:, None]
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=0.015)
    np.testing.assert_allclose((u**2).mean(axis=0), 1 / 3, atol=0.01)


def test_ball_and_cube_keep_atoms_apart_and_inside() -> None:
    """No two closer than the minimal separation; radial distribution of a ball."""
    x = build_prior(OCS, {"kind": "ball", "radius": 4.0, "minimal_separation": 0.5}).sample(
        20_000, np.random.default_rng(0)
    )
    gaps = np.linalg.norm(x[:, [0, 0, 1]] - x[:, [1, 2, 2]], axis=-1)
    assert gaps.min() >= 0.5
    assert gaps.max() <= 8.0
    radius = np.linalg.norm(x, axis=-1)
    assert (radius**2).mean() == pytest.approx(0.6 * 16, rel=0.01)
    cube = build_prior(OCS, "cube").sample(20_000, np.random.default_rng(0))
    assert (cube**2).mean() == pytest.approx(1 / 3, rel=0.02)


DENSITIES: dict[str, tuple[GeometryPrior, float]] = {
    "ocs equilibrium": (build_prior(OCS, "equilibrium"), 0.35),
    "chain of four": (InternalPrior(["a", "b", "c", "d"], CHAIN), 0.0),
    "displaced formaldehyde": (build_prior(Molecule.load("ch2o")), 0.0),
    "displaced bromochlorofluoromethane": (build_prior(Molecule.load("chbrclf")), 0.0),
    "vibrating water": (_vibrating_water(), 0.0),
}


@pytest.mark.parametrize("prior", [p for p, _ in DENSITIES.values()], ids=DENSITIES)
def test_density_is_normalised(prior: GeometryPrior) -> None:
    """E_p[q / p] = 1 for a normal q that lies inside p, in a frame fixed by three atoms.

    With x over all orientations, q is a normal density in bond vectors about one drawn
    geometry, as narrow as the prior's own scatter; samples come from q, so the mean of
    p / q over q would hang on p's tails, and here the mean over p of q / p is used.
    """
    rng = np.random.default_rng(8)
    x = prior.sample(60_000, rng)
    bonds = (x[:, 1:] - x[:, :1]).reshape(len(x), -1)
    # Samples near a reference, with a kernel in orientation and shape: E_p[K/p] = 1.
    turned = _aligned(x)
    centre, spread = turned.mean(axis=0), np.cov(turned.T)
    u = np.linalg.solve(np.linalg.cholesky(spread), (turned - centre).T).T
    k = u.shape[1]
    log_shape = -0.5 * (u**2).sum(axis=1) / 0.49 - 0.5 * k * np.log(2 * np.pi * 0.49)
    log_shape -= 0.5 * np.linalg.slogdet(spread)[1]
    # Volume: orientation (8 pi^2) and the Jacobian from aligned coordinates to bonds.
    weight = np.exp(log_shape - np.log(8 * np.pi**2) - _log_aligned_volume(x) - prior.log_prob(x))
    assert bonds.shape[1] == k + 3
    error = weight.std() / np.sqrt(len(weight))
    assert error < 0.02
    assert weight.mean() == pytest.approx(1.0, abs=5 * error)


def _aligned(x: np.ndarray) -> np.ndarray:
    """Return coordinates without orientation: atom 1 on x, atom 2 in the xy plane."""
    bonds = x[:, 1:] - x[:, :1]
    e1 = bonds[:, 0] / np.linalg.norm(bonds[:, 0], axis=1)[:, None]
    e2 = bonds[:, 1] - (bonds[:, 1] * e1).sum(1)[:, None] * e1
    e2 /= np.linalg.norm(e2, axis=1)[:, None]
    frame = np.stack([e1, e2, np.cross(e1, e2)], axis=1)
    turned = np.einsum("bij,bkj->bki", frame, bonds)
    columns = [turned[:, 0, 0], turned[:, 1, 0], turned[:, 1, 1]]
    return np.column_stack([*columns, turned[:, 2:].reshape(len(x), -1)])


def _log_aligned_volume(x: np.ndarray) -> np.ndarray:
    """Return log of d(bonds) / (d(aligned) d(rotation)): r1^2 times the height of atom 2."""
    flat = _aligned(x)
    return 2.0 * np.log(flat[:, 0]) + np.log(flat[:, 2])


@pytest.mark.parametrize("prior", [p for p, _ in DENSITIES.values()], ids=DENSITIES)
def test_density_sees_neither_place_nor_orientation(prior: GeometryPrior) -> None:
    """Rotated and shifted geometries are equally probable."""
    rng = np.random.default_rng(3)
    x = prior.sample(50, rng)
    turn = Rotation.random(rng=rng).as_matrix()
    np.testing.assert_allclose(prior.log_prob(x @ turn.T + 7.0), prior.log_prob(x), atol=1e-7)


@pytest.mark.parametrize("prior", [p for p, _ in DENSITIES.values()], ids=DENSITIES)
def test_mirror_symmetry_is_what_the_density_says(prior: GeometryPrior) -> None:
    """Where handedness is said to carry nothing, mirror images are equally probable."""
    x = prior.sample(50, np.random.default_rng(3))
    same = np.allclose(prior.log_prob(x * [1, 1, -1]), prior.log_prob(x), atol=1e-6)
    assert same or not prior.mirror_symmetric


def test_displaced_density_is_the_gaussian_averaged_over_rotations() -> None:
    """Monte Carlo over 200,000 rotations of formaldehyde, wide displacements."""
    molecule = Molecule.load("ch2o")
    sigma = 0.8
    prior = DisplacedPrior(molecule.equilibrium, molecule.kinds, sigma)
    x = prior.sample(3, np.random.default_rng(1))
    helmert = np.linalg.svd(np.ones((1, 4)))[2][1:]
    u, u0 = helmert @ x, helmert @ molecule.equilibrium
    turns = Rotation.random(200_000, rng=np.random.default_rng(2)).as_matrix()
    for geometry, found in zip(u, prior.log_prob(x), strict=True):
        square = ((geometry - u0 @ np.swapaxes(turns, 1, 2)) ** 2).sum(axis=(1, 2))
        logs = -0.5 * square / sigma**2 - 4.5 * np.log(2 * np.pi * sigma**2)
        expected = np.logaddexp.reduce(logs) - np.log(len(turns)) - 1.5 * np.log(4)
        assert found == pytest.approx(expected, abs=0.05)


def test_which_molecules_have_two_hands() -> None:
    """CHBrClF is chiral; with like hydrogens swapped, methane and formaldehyde are not; modes never say."""
    priors = {name: build_prior(Molecule.load(name)) for name in built_in_molecules()}
    for name, prior in priors.items():
        assert prior.mirror_symmetric == (name != "chbrclf" and prior.kind != "normal_modes"), name


def test_wigner_widths() -> None:
    """Zero point: <Q^2> = 1 / (2 omega); at 1,000 K coth wider."""
    x = _vibrating_water()
    warm = _vibrating_water(3000.0)
    omega = np.array([1600.0, 3700.0, 3800.0]) * 4.556335252912e-6
    np.testing.assert_allclose(x._sigma**2, 1 / (2 * omega))
    ratio = 1 / np.tanh(omega / (2 * 3000 * 3.1668115634556e-6))
    np.testing.assert_allclose(warm._sigma**2 / x._sigma**2, ratio)


@pytest.mark.parametrize("name", built_in_molecules())
def test_every_named_prior_samples_and_can_be_built_again(name: str) -> None:
    """spec() is all that is needed; the same seed gives the same geometries."""
    molecule = Molecule.load(name)
    for label in molecule.priors:
        prior = build_prior(molecule, label)
        again = build_prior(molecule, prior.spec())
        x = prior.sample(20, np.random.default_rng(1))
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(x, again.sample(20, np.random.default_rng(1)))


def test_priors_without_density_say_so() -> None:
    """An ensemble, a cube and the first study can only be sampled."""
    ensemble = EnsemblePrior(OCS.equilibrium[None])
    x = ensemble.sample(3, np.random.default_rng(0))
    for prior in (ensemble, build_prior(OCS, "cube"), StretchedChain()):
        assert not prior.has_density
        for ask in (prior.log_prob, prior.allows):
            with pytest.raises(NoDensityError, match="only be sampled"):
                ask(x)


BAD = [
    ("nothing", "no prior"),
    ({"kind": "magic"}, "kind"),
    ({"kind": "ball", "radius": -1.0}, "positive"),
    ({"kind": "ball", "radius": 1.0, "size": 2}, "fit"),
    ({"kind": "ball", "radius": 1.0, "minimal_separation": 1.99}, "room"),
    ({"kind": "displaced", "sigma": 0.0}, "positive"),
    ({"kind": "internal", "zmatrix": []}, "0 rows"),
    ({"kind": "internal", "zmatrix": [{"atom": "x"}]}, "names 'x'"),
    ({"kind": "internal", "zmatrix": [{"atom": "c"}, {"atom": "o"}]}, "row 2"),
    (
        {
            "kind": "internal",
            "zmatrix": [{"atom": "c"}, {"atom": "c", "from": "c", "length": {"normal": [2, 1]}}],
        },
        "row 2",
    ),
    ({"kind": "ensemble", "geometries": [[[0, 0, 0]]] * 0}, "shape"),
    ({"kind": "normal_modes", "wavenumbers": [1.0], "modes": [[1.0]]}, "shape"),
    ({}, "kind"),
    ({"kind": ["ball"]}, "kind"),
    ({"kind": "ball"}, "fit"),
    ({"kind": "ball", "radius": "wide"}, "fit"),
    ({"kind": "ball", "radius": float("inf")}, "positive"),
    ({"kind": "ball", "radius": float("nan")}, "positive"),
    ({"kind": "cube", "half_width": 1.0, "minimal_separation": -0.1}, "positive"),
    ({"kind": "displaced", "sigma": float("inf")}, "positive"),
    ({"kind": "displaced", "sigma": "0.3"}, "fit"),
    ({"kind": "internal", "zmatrix": 5}, "fit"),
    (
        {
            "kind": "internal",
            "zmatrix": [{"atom": "c"}, {"atom": "o", "from": "c", "length": {"normal": ["a", 1]}}],
        },
        "fit",
    ),
    ({"kind": "ensemble", "geometries": [[[0, 0, 0]], [[0, 0, 0], [1, 1, 1]]]}, "fit"),
    ({"kind": "ensemble", "geometries": [[[0, 0], [1, 1], [2, 2]]]}, "shape"),
    ({"kind": "ensemble", "geometries": [[[0, 0, 0], [1, 1, 1]]]}, "2 atoms; the molecule has 3"),
    ({"kind": "ensemble", "geometries": [[[0, 0, 0], [1, 1, 1], [2, 2, float("nan")]]]}, "finite"),
    ({"kind": "normal_modes", "wavenumbers": [], "modes": []}, "shape"),
    ({"kind": "normal_modes", "wavenumbers": [-1.0], "modes": [np.ones((3, 3))]}, "positive wavenumbers"),
    ({"kind": "normal_modes", "wavenumbers": [500.0], "modes": [np.full((3, 3), np.nan)]}, "finite"),
    ({"kind": "normal_modes", "wavenumbers": [500.0], "modes": [np.zeros((3, 3))]}, "orthogonal"),
    ({"kind": "normal_modes", "wavenumbers": [500.0], "modes": [np.ones((3, 3))]}, "whole molecule"),
    (
        {"kind": "normal_modes", "wavenumbers": [500.0], "modes": [[[0, 0, 0], [0, 0, 1], [0, 0, -1]]]}
        | {"temperature": float("nan")},
        "0 K",
    ),
]


@pytest.mark.parametrize(("table", "words"), BAD, ids=str)
def test_bad_tables_are_refused(table: str | dict, words: str) -> None:
    """A usage error that says what does not fit."""
    with pytest.raises(UsageError, match=words):
        build_prior(OCS, table).sample(2000, np.random.default_rng(0))


@pytest.mark.parametrize(
    "length",
    [{"normal": [2.0, -1.0]}, {"normal": [2.0]}, {"uniform": [3.0, 2.0]}, {"uniform": [-1.0, 2.0]},
     {"bend": 8.0}, {"cauchy": [1, 2]}, {"normal": [2.0, float("nan")]},
     {"truncated_normal": [2.0, 0.1, 3.0, 1.0]}, {"truncated_normal": [0.0, 0.1, 5.0, 6.0]},
     {"normal": [-9.0, 0.1]}, {}],
)  # fmt: skip
def test_bad_distributions_are_refused(length: dict) -> None:
    """Of a length: negative deviations, falling ranges, a bend, unknown words."""
    rows = [{"atom": "c"}, {"atom": "o", "from": "c", "length": length}]
    with pytest.raises(UsageError):
        InternalPrior(["c", "o"], rows)


def test_handedness_is_not_folded_away_by_lopsided_limits() -> None:
    """A dihedral cut to 0 ... 90 degrees about 0 is one-handed, though its centre is even."""
    rows = [dict(row) for row in CHAIN]
    for limits, even in (([0, 60, 0, 90], False), ([0, 60, -90, 90], True)):
        rows[3]["dihedral"] = {"truncated_normal": limits}
        assert InternalPrior(["a", "b", "c", "d"], rows).mirror_symmetric == even


def test_an_ion_of_another_charge_is_another_atom() -> None:
    """Methane with all four hydrogens told apart has two hands."""
    table = Molecule.load("ch4").to_dict()
    table["charges"] = [1, 1, 2, 3, 4]
    assert not build_prior(Molecule.from_dict(table), "equilibrium").mirror_symmetric


def _z_matrix(v: np.ndarray) -> np.ndarray:
    """Return bonds to atom 0, (3 (N - 1),), of internal coordinates and three Euler angles.

    v: r1, r2, theta2 [, r3, theta3, phi3] (degrees), alpha, beta, gamma. Atom 1 is placed on atom 0,
    atom 2 on atom 1 or 0 (N = 3), atom 3 on atom 2: written out apart from the package.
    """
    unit = np.pi / 180
    n = 3 if len(v) == 6 else 4
    x = np.zeros((n, 3))
    x[1] = [v[0], 0, 0]
    if n == 3:
        x[2] = v[1] * np.array([np.cos(v[2] * unit), np.sin(v[2] * unit), 0])
    else:
        x[2] = x[1] + v[1] * np.array([-np.cos(v[2] * unit), np.sin(v[2] * unit), 0])
        z = (x[2] - x[1]) / v[1]
        normal = np.array([0.0, 0.0, 1.0])
        # dihedral 0 is cis: on the side of atom 0
        inward = np.cross(normal, z)
        inward *= np.sign(inward @ (x[0] - x[1]))
        third = np.cross(-z, inward)
        theta, phi = v[4] * unit, v[5] * unit
        x[3] = x[2] + v[3] * (
            -np.cos(theta) * z + np.sin(theta) * (np.cos(phi) * inward + np.sin(phi) * third)
        )
    turn = Rotation.from_euler("ZYZ", v[-3:]).as_matrix()
    return ((x[1:] - x[0]) @ turn.T).ravel()


def _log_volume(place: Callable[[np.ndarray], np.ndarray], v: np.ndarray) -> float:
    """Return log |det d(bonds) / d(v)| by central differences."""
    step = 1e-5
    columns = [(place(v + step * e) - place(v - step * e)) / (2 * step) for e in np.eye(len(v))]
    return float(np.linalg.slogdet(np.array(columns))[1])


def _log_uniform_orientation(v: np.ndarray) -> float:
    """Return the log density of Euler angles alpha, beta, gamma (last in v): sin beta / 8 pi^2."""
    return float(np.log(np.sin(v[-2]) / (8 * np.pi**2)))


def test_internal_density_by_change_of_variables() -> None:
    """N = 3 and 4: SciPy's one-dimensional densities over a numerical Jacobian."""
    three = [*CHAIN[:2], CHAIN[2] | {"from": "a", "angle_to": "b", "angle": {"bend": 30.0}}]
    cut = stats.truncnorm((0.5 - 2) / 0.2, (4 - 2) / 0.2, 2, 0.2).logpdf
    lengths = [stats.norm(2.0, 0.2).logpdf, stats.norm(1.9, 0.2).logpdf]
    whole = 1 - np.exp(-0.5 * (180 / 30.0) ** 2)
    one = [*lengths, lambda a: stats.rayleigh(scale=30.0).logpdf(180 - a) - np.log(whole)]
    two = [*lengths, stats.norm(110, 9).logpdf, cut, stats.norm(100, 8).logpdf, stats.norm(60, 15).logpdf]
    rng = np.random.default_rng(4)
    for rows, logs, middle in ((three, one, [2.0, 1.9, 140.0]), (CHAIN, two, [2, 1.9, 110, 2, 100, 60])):
        prior = InternalPrior(["a", "b", "c", "d"][: len(rows)], rows)
        for _ in range(4):
            inner = np.array(middle) * rng.uniform(0.9, 1.1, len(middle))
            v = np.concatenate([inner, rng.uniform(0.5, 2.5, 3)])
            expected = sum(f(a) for f, a in zip(logs, inner, strict=True))
            expected += _log_uniform_orientation(v) - _log_volume(_z_matrix, v)
            x = np.vstack([np.zeros(3), _z_matrix(v).reshape(-1, 3)])
            assert prior.log_prob(x[None])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["h2o", "ch2o"])
def test_wigner_density_by_change_of_variables(name: str) -> None:
    """Independent normal coordinates over a numerical Jacobian, near equilibrium."""
    molecule = Molecule.load(name)
    prior, modes, sigma = _made_up_vibrations(molecule)
    centred = molecule.equilibrium - molecule.equilibrium[0]

    def place(v: np.ndarray) -> np.ndarray:
        x = centred + np.tensordot(v[:-3], modes, 1)
        return ((x[1:] - x[0]) @ Rotation.from_euler("ZYZ", v[-3:]).as_matrix().T).ravel()

    rng = np.random.default_rng(4)
    for _ in range(4):
        v = np.concatenate([sigma * rng.standard_normal(len(sigma)), rng.uniform(0.5, 2.5, 3)])
        expected = stats.norm(0, sigma).logpdf(v[:-3]).sum()
        expected += _log_uniform_orientation(v) - _log_volume(place, v)
        x = np.vstack([np.zeros(3), place(v).reshape(-1, 3)])
        assert prior.log_prob(x[None])[0] == pytest.approx(expected, abs=1e-5)


def _made_up_vibrations(molecule: Molecule) -> tuple[NormalModesPrior, np.ndarray, np.ndarray]:
    """Return a prior of orthonormal modes, those modes (F, N, 3), and their deviations."""
    m, x = molecule.masses, molecule.equilibrium
    x = x - m @ x / m.sum()
    root = np.sqrt(m)[:, None]
    rigid = [root * e for e in np.eye(3)] + [root * np.cross(e, x) for e in np.eye(3)]
    everything = np.vstack(
        [[r.ravel() for r in rigid], np.random.default_rng(2).normal(size=(3 * len(m), 3 * len(m)))]
    )
    q = np.linalg.qr(everything.T)[0][:, 6:]
    modes = q.T.reshape(-1, len(m), 3) / root
    wavenumbers = np.linspace(1500.0, 3500.0, len(modes))
    sigma = 1 / np.sqrt(2 * wavenumbers * 4.556335252912e-6)
    # any length will do: programs print modes normalised in their own way
    return NormalModesPrior(x, m, wavenumbers, 3.0 * modes), modes, sigma


def test_a_wrong_density_is_found_out() -> None:
    """A deviation wrong by 5 %, or a forgotten r^2, moves E_p[q / p] by many errors."""
    prior = build_prior(OCS, "equilibrium")
    narrow = [dict(row) for row in prior.spec()["zmatrix"]]
    narrow[1] = narrow[1] | {"length": {"normal": [2.19, 0.15 * 0.95]}}
    x = prior.sample(60_000, np.random.default_rng(9))
    right = InternalPrior(["c", "o", "s"], narrow).log_prob(x)
    r = np.linalg.norm(x[:, 1] - x[:, 0], axis=1)
    for wrong, holds in ((0.0, True), (np.log(1.05), False), (2 * np.log(r / 2.19), False)):
        weight = np.exp(right + wrong - prior.log_prob(x))
        distance = abs(weight.mean() - 1.0) / (weight.std() / np.sqrt(len(weight)))
        assert (distance < 4) == holds


@pytest.mark.parametrize(
    "dihedral", [{"uniform": [1000, 1100]}, {"normal": [1000, 15]}, {"normal": [10, 300]},
                 {"uniform": [0, 360]}, {"uniform": [-30, 690]}, {"truncated_normal": [900, 200, 0, 1700]}],
)  # fmt: skip
def test_dihedrals_may_turn_more_than_once(dihedral: dict) -> None:
    """The density on the circle integrates to one, wherever the turns are counted from."""
    rows = [*CHAIN[:3], CHAIN[3] | {"dihedral": dihedral}]
    flat = [*CHAIN[:3], CHAIN[3] | {"dihedral": {"uniform": [0, 360]}}]
    v = np.array([2.0, 1.9, 110.0, 2.0, 100.0, 0.0, 1.0, 1.0, 1.0])
    angles = np.linspace(-180, 180, 3601)[:-1] + 0.05
    x = np.array([[[0, 0, 0], *_z_matrix(np.r_[v[:5], a, v[6:]]).reshape(3, 3)] for a in angles])
    labels = ["a", "b", "c", "d"]
    share = np.exp(InternalPrior(labels, rows).log_prob(x) - InternalPrior(labels, flat).log_prob(x))
    assert share.mean() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("dihedral", "even"),
    [({"normal": [180, 20]}, True), ({"normal": [0, 20]}, True), ({"normal": [60, 20]}, False),
     ({"uniform": [0, 360]}, True), ({"uniform": [0, 720]}, True), ({"uniform": [20, 380]}, True),
     ({"uniform": [90, 270]}, True), ({"uniform": [-30, 30]}, True), ({"uniform": [0, 180]}, False)],
)  # fmt: skip
def test_handedness_of_a_dihedral(dihedral: dict, even: bool) -> None:
    """Even about 0 or 180 degrees has no hand: the claim is what the density says of mirror images."""
    prior = InternalPrior(["a", "b", "c", "d"], [*CHAIN[:3], CHAIN[3] | {"dihedral": dihedral}])
    x = prior.sample(200, np.random.default_rng(1))
    same = np.allclose(prior.log_prob(x * [1, 1, -1]), prior.log_prob(x), atol=1e-6)
    assert prior.mirror_symmetric == even == same


def test_chbrclf_is_told_from_its_mirror_image() -> None:
    """The (R) enantiomer is far more probable than the (S) under its own prior."""
    prior = build_prior(Molecule.load("chbrclf"))
    x = prior.sample(300, np.random.default_rng(0))
    assert np.mean(prior.log_prob(x) > prior.log_prob(x * [1, 1, -1])) > 0.99


def test_spec_of_every_kind_builds_the_same_prior() -> None:
    """Normal modes and ensembles too: same samples, and the same density where there is one."""
    vibrating, _, _ = _made_up_vibrations(WATER)
    ensemble = EnsemblePrior(WATER.equilibrium[None] + np.arange(4.0)[:, None, None])
    for prior in (vibrating, ensemble):
        again = build_prior(WATER, prior.spec())
        x = prior.sample(50, np.random.default_rng(3))
        np.testing.assert_allclose(again.sample(50, np.random.default_rng(3)), x, atol=1e-12)
        if prior.has_density:
            np.testing.assert_allclose(again.log_prob(x), prior.log_prob(x), atol=1e-9)


def test_incomplete_or_linear_vibrations_have_no_density() -> None:
    """Some modes of a bent molecule, or any of a linear one, fill no volume."""
    one = {"kind": "normal_modes", "wavenumbers": [3700.0], "modes": [[[0, 0, 0], [1, -1, 0], [-1, -1, 0]]]}
    heavy = WATER.masses[0] / WATER.masses[1]
    one["modes"][0][0] = [0, 2 / heavy, 0]
    linear = {"kind": "normal_modes", "wavenumbers": [1330.0], "modes": [[[0, 0, 0], [0, 0, 1], [0, 0, -1]]]}
    for molecule, table in ((WATER, one), (Molecule.load("co2"), linear)):
        prior = build_prior(molecule, table)
        assert not prior.has_density
        with pytest.raises(NoDensityError):
            prior.log_prob(prior.sample(2, np.random.default_rng(0)))


def _drawn(table: dict, limits: tuple[float, float], n: int) -> np.ndarray:
    """Values that geometries of a Z-matrix have of a length or an angle with this distribution."""
    rows = [{"atom": "o"}, {"atom": "c", "from": "o", "length": {"uniform": [1.0, 3.0]}}]
    rows += [{"atom": "s", "from": "c", "length": {"uniform": [1.0, 3.0]}, "angle_to": "o"}]
    rows[2]["angle"] = {"uniform": [10.0, 170.0]}
    rows[1 if limits[1] == np.inf else 2]["length" if limits[1] == np.inf else "angle"] = table
    x = InternalPrior(["o", "c", "s"], rows).sample(n, np.random.default_rng(6))
    bond, other = x[:, 1] - x[:, 0], x[:, 2] - x[:, 1]
    if limits[1] == np.inf:
        return np.linalg.norm(bond, axis=1)
    across = np.linalg.norm(np.cross(bond, other), axis=1)
    return np.degrees(np.arctan2(across, -(bond * other).sum(axis=1)))


@pytest.mark.parametrize(
    ("table", "limits"),
    [
        ({"normal": [1.0, 2.0]}, (0.0, np.inf)),
        ({"normal": [150.0, 40.0]}, (0.0, 180.0)),
        ({"uniform": [20.0, 70.0]}, (0.0, 180.0)),
        ({"truncated_normal": [1.688, 0.697, 2.10, 4.31]}, (0.0, np.inf)),
        ({"truncated_normal": [5.0, 1.0, 1.0, 1.5]}, (0.0, np.inf)),
        ({"bend": 8.5}, (0.0, 180.0)),
        ({"bend": 120.0}, (0.0, 180.0)),
        ({"bend": 1e9}, (0.0, 180.0)),  # whose share below 180 degrees is 1.6e-14
    ],
)
def test_samples_follow_their_density(table: dict, limits: tuple[float, float]) -> None:
    """Cut distributions too: the density integrates to one, and to the rank of every sample."""
    d = distribution(table, limits)
    end = min(d.high, d.low + 40.0 if limits[1] == np.inf else d.high)
    grid = np.linspace(d.low, end, 20_001)
    density = np.exp(d.log_prob(grid))
    rank = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))])
    assert rank[-1] == pytest.approx(1.0, abs=1e-5)
    x = _drawn(table, limits, 5000)
    assert d.low - 1e-9 <= x.min() <= x.max() <= d.high + 1e-6
    assert stats.kstest(np.interp(x, grid, rank), "uniform").pvalue > 1e-3
    outside = np.array([d.low - 1e-6, end + 1e-6 if np.isfinite(d.high) else -1.0])
    assert (d.log_prob(outside) == -np.inf).all()
