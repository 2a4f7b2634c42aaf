"""The information floor against closed forms, and against estimates that are really made."""

from __future__ import annotations

import numpy as np
import pytest

from flowcei.errors import DataError
from flowcei.evaluation.floor import information_floor, mean_length
from flowcei.events.simulation import simulate
from flowcei.experiment.detector import rms_component
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta
from flowcei.physics.jacobian import followed_jacobian, momenta_jacobian


def _momenta(molecule: Molecule, x: np.ndarray) -> np.ndarray:
    return asymptotic_momenta(x, molecule.masses, molecule.charges, accuracy=1e-9)


def _centred(molecule: Molecule, x: np.ndarray) -> np.ndarray:
    return x - (molecule.masses / molecule.masses.sum() @ x)[:, None]


def test_mean_length_of_normal_vectors() -> None:
    """One, two and three equal directions in closed form; any ellipsoid by sampling."""
    for dimension, expected in ((1, np.sqrt(2 / np.pi)), (2, np.sqrt(np.pi / 2)), (3, np.sqrt(8 / np.pi))):
        flat = np.diag([4.0 * (k < dimension) for k in range(3)])
        assert float(mean_length(flat)) == pytest.approx(2.0 * expected, rel=1e-9)
    factor = np.random.default_rng(1).normal(size=(3, 3))
    drawn = np.linalg.norm(np.random.default_rng(2).normal(size=(400_000, 3)) @ factor.T, axis=1)
    standard_error = drawn.std() / np.sqrt(len(drawn))
    assert float(mean_length(factor @ factor.T)) == pytest.approx(drawn.mean(), abs=4 * standard_error)
    assert np.isinf(mean_length(np.diag([np.inf, 1.0, 1.0])))
    assert np.isnan(mean_length(np.full((3, 3), np.nan)))


def test_two_ions_have_the_floor_that_algebra_gives() -> None:
    """P = sqrt(2 mu q1 q2 / r): along, dr = 2 r dp / p; across, r times the angle dp / p.

    The two ions measure the relative momentum twice, so that its noise is sigma / sqrt(2); and
    of r each ion moves the share of the other's mass.
    """
    hcl = Molecule.from_dict(
        {
            "name": "hcl",
            "symbols": ["H", "Cl"],
            "charges": [1, 3],
            "equilibrium": {"unit": "bohr", "positions": [[0, 0, 0], [2.4, 0, 0]]},
        }
    )
    m1, m2 = hcl.masses
    sigma, r = 0.3, 2.4
    p = np.sqrt(2.0 * m1 * m2 / (m1 + m2) * 3.0 / r)
    across = r * sigma / np.sqrt(2.0) / p
    found = information_floor(hcl, hcl.equilibrium[None], sigma)
    for ion, share in enumerate((m2 / (m1 + m2), m1 / (m1 + m2))):
        expected = (share * across) ** 2 * np.array([4.0, 1.0, 1.0])
        np.testing.assert_allclose(found.variance[0, ion], expected, rtol=1e-6)
        assert found.atom_error[0, ion] == pytest.approx(mean_length(np.diag(expected)), rel=1e-6)
    assert found.mse[0] == pytest.approx(found.variance.mean())


@pytest.mark.parametrize("name", ["ocs", "ch4"])
def test_floor_follows_sigma_and_turns_with_the_molecule(name: str) -> None:
    """Errors grow as sigma, the centre of mass has none, and orientation does not matter."""
    events = simulate(name, 20, seed=3)
    molecule, x = events.molecule, events.positions
    assert x is not None
    one = information_floor(molecule, x, 0.5)
    np.testing.assert_allclose(information_floor(molecule, x, 1.5).atom_error, 3 * one.atom_error, rtol=1e-9)
    np.testing.assert_allclose(information_floor(molecule, x, 1.5).mse, 9 * one.mse, rtol=1e-9)
    weights = np.kron(molecule.masses / molecule.masses.sum(), np.eye(3))
    assert np.abs(weights @ one.covariance).max() < 1e-9 * np.abs(one.covariance).max()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = information_floor(molecule, x @ turn.T + 5.0, np.full(20, 0.5))
    np.testing.assert_allclose(moved.atom_error, one.atom_error, rtol=1e-5)
    np.testing.assert_allclose(moved.shape_error, one.shape_error, rtol=1e-5)
    assert (one.shape_error.mean(axis=1) < one.atom_error.mean(axis=1)).all()


@pytest.mark.parametrize("name", ["ocs", "chbrclf"])
def test_maximum_likelihood_reaches_the_floor(name: str) -> None:
    """Noisy momenta, solved by Gauss and Newton: the scatter of the answers is the floor."""
    molecule = Molecule.load(name)
    true = _centred(molecule, simulate(name, 1, seed=8).positions[:1])  # type: ignore[index]
    p = _momenta(molecule, true)
    sigma = 1e-4 * float(rms_component(p)[0])
    repeats = 3000
    measured = p + sigma * np.random.default_rng(4).normal(size=(repeats, *p.shape[1:]))
    x = np.repeat(true, repeats, axis=0)
    for _ in range(3):
        jacobian = momenta_jacobian(x, molecule.masses, molecule.charges)
        residual = (measured - _momenta(molecule, x)).reshape(repeats, -1, 1)
        step = np.linalg.pinv(jacobian, rcond=1e-9) @ residual
        x = _centred(molecule, x + step.reshape(x.shape))
    away = np.linalg.norm(x - true, axis=-1)
    floor = information_floor(molecule, true, sigma)
    tolerance = 5.0 / np.sqrt(repeats)
    np.testing.assert_allclose(away.mean(axis=0), floor.atom_error[0], rtol=tolerance)
    assert ((x - true) ** 2).mean() == pytest.approx(floor.mse[0], rel=2 * tolerance)
    drawn = floor.draw(repeats, np.random.default_rng(5))[0]
    np.testing.assert_allclose(
        np.linalg.norm(drawn, axis=-1).mean(axis=0), floor.atom_error[0], rtol=tolerance
    )


def test_floor_of_ocs_is_the_known_figure() -> None:
    """1 % of each ion's own |p|, a component, at equilibrium: 0.033 bohr once orientation is out."""
    ocs = Molecule.load("ocs")
    x = ocs.equilibrium[None]
    lengths = np.linalg.norm(_momenta(ocs, x), axis=-1)
    for level, shape in ((0.01, 0.033), (0.05, 0.163)):
        floor = information_floor(ocs, x, level * lengths)
        assert floor.shape_error.mean() == pytest.approx(shape, rel=0.02)
    assert information_floor(ocs, x, 0.01 * lengths).summary()["atom_error_mean"] > 0.035


def test_what_cannot_be_simulated_is_unknown_and_nothing_else() -> None:
    """Coincident ions: NaN for that event, the others as if alone; a summary leaves it out."""
    ocs = Molecule.load("ocs")
    x = np.repeat(ocs.equilibrium[None], 5, axis=0)
    x[3] = 0.0
    floor = information_floor(ocs, x, 1.0)
    assert np.isnan(floor.atom_error[3]).all()
    assert np.isnan(floor.draw(2, np.random.default_rng(0))[3]).all()
    single = information_floor(ocs, x[:1], 1.0)
    np.testing.assert_allclose(floor.atom_error[[0, 1, 2, 4]], np.repeat(single.atom_error, 4, axis=0))
    assert floor.summary()["mse_mean"] == pytest.approx(single.mse[0])
    slope = followed_jacobian(x, ocs.masses, ocs.charges)
    assert np.isnan(slope).all(axis=(1, 2)).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.ones(3), np.ones((2, 2))])
def test_noise_that_is_none_is_refused(sigma: float | np.ndarray) -> None:
    """Zero, negative, NaN and of another shape: one line each."""
    ocs = Molecule.load("ocs")
    with pytest.raises(DataError, match="sigma"):
        information_floor(ocs, np.repeat(ocs.equilibrium[None], 2, axis=0), sigma)
