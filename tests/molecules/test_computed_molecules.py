"""Molecules whose normal modes were computed: against spectra and electron diffraction."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from flowcei.events.simulation import simulate
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import NormalModesPrior, build_prior
from flowcei.units import ANGSTROM

COMPUTED = ("iodopyridine", "ethanol", "acetone", "benzene")

# Angstrom: r_s of trans ethanol (J. P. Culot 1969), r_g of acetone (T. Iijima 1972), r_e of benzene (J. Gauss
# and J. F. Stanton 2000); iodobenzene's r_g(C-I) and r_s of pyridine's C-N (F. Mata et al. 1977).
LENGTHS = [
    ("ethanol", "c1", "c2", 1.512, 0.015),
    ("ethanol", "c2", "o", 1.431, 0.015),
    ("ethanol", "o", "h6", 0.971, 0.015),
    ("acetone", "c1", "o", 1.213, 0.015),
    ("acetone", "c1", "c2", 1.520, 0.015),
    ("benzene", "c1", "c2", 1.3915, 0.01),
    ("benzene", "c1", "h1", 1.080, 0.01),
    ("iodopyridine", "c2", "i", 2.10, 0.06),
    ("iodopyridine", "c6", "n", 1.338, 0.015),
]

# 1 / cm (T. Shimanouchi, NSRDS-NBS 39 (1972)): those that are far from all others.
FUNDAMENTALS = [
    ("ethanol", (-1, 3653.0)),
    ("ethanol", (2, 419.0)),
    ("ethanol", (4, 885.0)),
    ("acetone", (-7, 1731.0)),
    ("acetone", (2, 385.0)),
    ("acetone", (4, 530.0)),
    ("acetone", (5, 777.0)),
    ("benzene", (0, 398.0)),
    ("benzene", (2, 608.0)),
    ("benzene", (4, 673.0)),
    ("benzene", (-7, 1601.0)),
    ("benzene", (-1, 3074.0)),
]

# Root-mean-square amplitudes of bonds, angstrom, by electron diffraction.
AMPLITUDES = [
    ("acetone", "c1", "o", 0.038),
    ("acetone", "c1", "c2", 0.051),
    ("benzene", "c1", "c2", 0.046),
    ("benzene", "c1", "h1", 0.077),
    ("ethanol", "c1", "c2", 0.051),
    ("iodopyridine", "c2", "i", 0.050),
]


def _modes(name: str) -> tuple[Molecule, NormalModesPrior]:
    molecule = Molecule.load(name)
    prior = build_prior(molecule)
    assert isinstance(prior, NormalModesPrior)
    return molecule, prior


@pytest.mark.parametrize(("name", "one", "two", "length", "tolerance"), LENGTHS)
def test_bonds_are_as_long_as_measured(
    name: str, one: str, two: str, length: float, tolerance: float
) -> None:
    """Equilibrium against experiment."""
    molecule = Molecule.load(name)
    i, j = molecule.labels.index(one), molecule.labels.index(two)
    assert (min(i, j), max(i, j)) in {(min(b), max(b)) for b in molecule.bonds}
    found = np.linalg.norm(molecule.equilibrium[i] - molecule.equilibrium[j]) / ANGSTROM
    assert found == pytest.approx(length, abs=tolerance)


@pytest.mark.parametrize(("name", "line"), FUNDAMENTALS)
def test_vibrations_are_those_of_the_spectrum(name: str, line: tuple[int, float]) -> None:
    """Within 7 %, soft bends being the farthest."""
    assert Molecule.load(name).priors["equilibrium"]["wavenumbers"][line[0]] == pytest.approx(
        line[1], rel=0.07
    )


@pytest.mark.parametrize(("name", "one", "two", "amplitude"), AMPLITUDES)
def test_zero_point_amplitudes(name: str, one: str, two: str, amplitude: float) -> None:
    """Of a bond, over 4,000 geometries."""
    molecule, prior = _modes(name)
    i, j = molecule.labels.index(one), molecule.labels.index(two)
    x = prior.sample(4000, np.random.default_rng(1))
    assert np.linalg.norm(x[:, i] - x[:, j], axis=1).std() / ANGSTROM == pytest.approx(amplitude, rel=0.12)


@pytest.mark.parametrize("name", COMPUTED)
def test_modes_are_complete_and_bonds_make_one_molecule(name: str) -> None:
    """3N - 6 vibrations, so that there is a density; ions singly charged; a ring has one bond more."""
    molecule, prior = _modes(name)
    assert prior.has_density
    assert len(molecule.priors["equilibrium"]["wavenumbers"]) == 3 * len(molecule) - 6
    assert len(molecule.bonds) == len(molecule) - 1 + (name in ("iodopyridine", "benzene"))
    assert (molecule.charges == 1).all()


def test_the_density_of_six_and_six_like_ions_does_not_depend_on_their_labels() -> None:
    """518,400 orders of benzene: any relabelling, the same answer, and above that of one order's share."""
    molecule, prior = _modes("benzene")
    x = prior.sample(3, np.random.default_rng(3))
    shuffled = x[:, [3, 0, 5, 1, 2, 4, 9, 11, 6, 10, 7, 8]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = prior.log_prob_unlabelled(x, molecule.identical)
        np.testing.assert_allclose(prior.log_prob_unlabelled(shuffled, molecule.identical), found, atol=1e-6)
    assert (found >= prior.log_prob(x) - np.log(720.0**2) - 1e-9).all()


@pytest.mark.slow
def test_eleven_atoms_explode() -> None:
    """2-iodopyridine: momenta add up to zero, and carry the Coulomb energy of the geometry."""
    events = simulate("iodopyridine", 4, seed=1)
    assert events.positions is not None
    x, p = events.positions, events.momenta
    i, j = np.triu_indices(11, 1)
    energy = (1.0 / np.linalg.norm(x[:, i] - x[:, j], axis=2)).sum(axis=1)
    np.testing.assert_allclose(
        (p**2 / (2 * events.molecule.masses[:, None])).sum(axis=(1, 2)), energy, rtol=1e-6
    )
    np.testing.assert_allclose(p.sum(axis=1), 0.0, atol=1e-5 * np.abs(p).max())  # in single precision


def test_geometries_far_from_benzene_are_refused_at_once() -> None:
    """None of 518,400 orders is near one from a ball: unknown, with a warning, if all of a batch are."""
    molecule, prior = _modes("benzene")
    far = build_prior(molecule, "ball").sample(2, np.random.default_rng(1))
    with pytest.warns(UserWarning, match="2 of 2 geometries have so many orders"):
        assert np.isnan(prior.log_prob_unlabelled(far, molecule.identical)).all()
