"""The Jacobian against central differences of the explosion, its symmetries, and bad input."""

from __future__ import annotations

import numpy as np
import pytest

from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta
from flowcei.physics.jacobian import momenta_jacobian
from flowcei.physics.priors import BallPrior, build_prior
from flowcei.units import DALTON

OCS = Molecule.load("ocs")


def _differences(x: np.ndarray, m: np.ndarray, q: np.ndarray, h: float = 1e-3) -> np.ndarray:
    """Return dp/dx (B, 3N, 3N) by central differences of fourth order."""
    n = len(m)
    out = np.empty((len(x), 3 * n, 3 * n))
    for k in range(3 * n):
        step = np.zeros(3 * n)
        step[k] = h

        def at(times: int, step: np.ndarray = step) -> np.ndarray:
            moved = x + times * step.reshape(n, 3)
            return asymptotic_momenta(moved, m, q, accuracy=1e-10).reshape(len(x), -1)

        out[:, :, k] = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
    return out


def _cases() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    cases = {}
    for name in ("ocs", "h2o", "ch4"):
        molecule = Molecule.load(name)
        x = build_prior(molecule, None).sample(9, np.random.default_rng(1))
        cases[name] = (x, molecule.masses, molecule.charges)
    linear = Molecule.load("co2")
    cases["straight"] = (linear.equilibrium[None], linear.masses, linear.charges)
    cases["two ions"] = (np.array([[[0, 0, 0], [1.0, 2, 3]]]), np.array([1.0, 16]) * DALTON, np.ones(2))
    cases["ball"] = (BallPrior(3, 4.0, 0.5).sample(9, np.random.default_rng(2)), OCS.masses, np.ones(3))
    return cases


@pytest.mark.parametrize("case", _cases())
def test_agrees_with_central_differences(case: str) -> None:
    """To 1e-8 at the default accuracy, also where a molecule is straight and one rotation idle."""
    x, m, q = _cases()[case]
    expected = _differences(x, m, q)
    size = np.linalg.norm(expected, axis=(1, 2))
    for accuracy, bound in ((1e-9, 1e-8), (1e-6, 1e-5)):
        error = np.linalg.norm(momenta_jacobian(x, m, q, accuracy=accuracy) - expected, axis=(1, 2)) / size
        assert error.max() < bound


def test_symmetries_hold_exactly() -> None:
    """Translation 0, scaling x.dp/dx = -p/2, rotation about any axis w x p; momentum stays 0."""
    x = build_prior(OCS, "broad").sample(50, np.random.default_rng(3))
    j = momenta_jacobian(x, OCS.masses, OCS.charges)
    p = asymptotic_momenta(x, OCS.masses, OCS.charges, accuracy=1e-10)
    scale = np.abs(j).max(axis=(1, 2))[:, None]
    for axis in range(3):
        assert (np.abs(j[:, :, axis::3].sum(axis=2)) / scale).max() < 1e-12
        assert (np.abs(j[:, axis::3].sum(axis=1)) / scale).max() < 1e-9
        w = np.eye(3)[axis]
        turned = np.einsum("bij,bj->bi", j, np.cross(w, x).reshape(50, -1))
        assert (np.abs(turned - np.cross(w, p).reshape(50, -1)) / scale).max() < 1e-8
    scaled = np.einsum("bij,bj->bi", j, x.reshape(50, -1))
    assert (np.abs(scaled + 0.5 * p.reshape(50, -1)) / scale).max() < 1e-8


def test_energy_is_kept_to_first_order() -> None:
    """dKE/dx = dU0/dx, against the force of Coulomb's law."""
    x = build_prior(OCS, "broad").sample(30, np.random.default_rng(4))
    p = asymptotic_momenta(x, OCS.masses, OCS.charges, accuracy=1e-10)
    j = momenta_jacobian(x, OCS.masses, OCS.charges, accuracy=1e-10)
    velocity = np.repeat(1.0 / OCS.masses, 3) * p.reshape(30, -1)
    gap = x[:, :, None] - x[:, None]
    distance = np.linalg.norm(gap, axis=-1) + np.eye(3)
    force = ((OCS.charges[:, None] * OCS.charges / distance**3)[..., None] * gap).sum(axis=2)
    np.testing.assert_allclose(
        np.einsum("bi,bij->bj", velocity, j), -force.reshape(30, -1), rtol=1e-9, atol=1e-9
    )


def test_shape_company_and_threads() -> None:
    """(N, 3) in, (3N, 3N) out; no event in, none out; bit for bit the same in any company."""
    x = build_prior(OCS, "broad").sample(2100, np.random.default_rng(5))
    together = momenta_jacobian(x, OCS.masses, OCS.charges, threads=2)
    np.testing.assert_array_equal(momenta_jacobian(x, OCS.masses, OCS.charges, threads=1), together)
    np.testing.assert_array_equal(momenta_jacobian(x[3], OCS.masses, OCS.charges), together[3])
    assert momenta_jacobian(x[:0], OCS.masses, OCS.charges).shape == (0, 9, 9)


def test_one_event_that_cannot_be_followed_is_told_apart() -> None:
    """Coincident, not finite, too violent: NaN in that row and a warning; the others as without it."""
    x = np.stack([OCS.equilibrium] * 3)
    expected = momenta_jacobian(x[::2], OCS.masses, OCS.charges)
    violent = x[1] * np.array([[1.0], [1e-250], [1.0]])
    for bad, what in (
        (x[1][[0, 0, 2]], "coincident"),
        (np.full((3, 3), np.nan), "not finite"),
        (violent * 1e-200, "coincident|too violent"),
    ):
        x[1] = bad
        with pytest.warns(RuntimeWarning, match=rf"row 1 .*({what}).*NaN"):
            found = momenta_jacobian(x, OCS.masses, OCS.charges)
        assert np.isnan(found[1]).all()
        np.testing.assert_array_equal(found[::2], expected)
        with pytest.raises(ValueError, match=what):
            momenta_jacobian(x[1], OCS.masses, OCS.charges)
    with pytest.raises(ValueError, match="one sign"):
        momenta_jacobian(x, OCS.masses, [1, -1, 1])
