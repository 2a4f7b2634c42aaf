"""Molecules: the built-in ones, a user's own, and files that are not sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowcei.errors import DataError, UsageError
from flowcei.molecules.molecule import Molecule, built_in_molecules
from flowcei.units import ANGSTROM, DALTON, length_in_bohr

TOML = """
symbols = ["N", "N", "O"]
charges = [1, 1, 1]
bonds = [["n1", "n2"], ["n2", "o"]]
[equilibrium]
unit = "angstrom"
positions = [[0, 0, 0], [0, 0, 1.128], [0, 0, 2.312]]
[priors.around]
kind = "displaced"
sigma = 0.2
"""


def test_built_in_molecules() -> None:
    """All of them, charges as stated; those with normal modes are in a file of their own."""
    small = {"ocs", "co2", "h2o", "ch4", "c2h2", "chbrclf", "ch2o", "n2o"}
    assert set(built_in_molecules()) == small | {"iodopyridine", "ethanol", "acetone"}
    for name in built_in_molecules():
        molecule = Molecule.load(name)
        assert (molecule.charges == (2 if name == "ocs" else 1)).all()
        assert len(molecule.bonds) == len(molecule) - 1 + (name == "iodopyridine")  # a ring
        assert {"equilibrium", "ball"} <= set(molecule.priors)


def test_ocs_has_the_masses_of_the_first_study() -> None:
    """12.011, 15.999 and 32.06 u in electron masses."""
    np.testing.assert_allclose(
        Molecule.load("ocs").masses, [21894.71361, 29164.39289, 58441.80487], rtol=1e-6
    )


def test_labels_angles_and_identical_ions() -> None:
    """Numbers where a symbol repeats; six angles of methane; its hydrogens alike."""
    methane = Molecule.load("ch4")
    assert methane.labels == ("c", "h1", "h2", "h3", "h4")
    assert methane.identical == ((1, 2, 3, 4),)
    assert len(methane.angles) == 6
    assert Molecule.load("ocs").identical == ()


@pytest.mark.parametrize("name", built_in_molecules())
def test_table_round_trip(name: str) -> None:
    """from_dict(to_dict) is the same molecule."""
    one = Molecule.load(name)
    two = Molecule.from_dict(one.to_dict())
    assert two.same_ions(one)
    assert (two.bonds, two.priors, two.default_prior) == (one.bonds, one.priors, one.default_prior)
    np.testing.assert_allclose(two.equilibrium, one.equilibrium)


def test_own_molecule_from_toml(tmp_path: Path) -> None:
    """Units are converted, the name is the file's, the first prior is the default."""
    path = tmp_path / "n2o.toml"
    path.write_text(TOML)
    molecule = Molecule.load(path)
    assert molecule.name == "n2o"
    assert molecule.default_prior == "around"
    assert molecule.equilibrium[1, 2] == pytest.approx(1.128 * ANGSTROM)
    assert molecule.masses[2] == pytest.approx(15.999 * DALTON)


def test_own_molecule_from_xyz(tmp_path: Path) -> None:
    """Bonds from covalent radii: water has two."""
    path = tmp_path / "water.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0.757 0.587 0\nH -0.757 0.587 0\n")
    molecule = Molecule.load(str(path))
    assert molecule.bonds == ((0, 1), (0, 2))
    assert molecule.labels == ("o", "h1", "h2")
    assert set(molecule.priors) == {"equilibrium", "ball"}


DAMAGED = {
    "not toml": "symbols = [",
    "unknown key": TOML.replace("charges", "charge"),
    "no symbols": "charges = [1, 1]",
    "unknown symbol": TOML.replace('"O"]', '"Qq"]'),
    "mixed charges": TOML.replace("[1, 1, 1]", "[1, -1, 1]"),
    "too few positions": TOML.replace(", [0, 0, 2.312]", ""),
    "unit": TOML.replace("angstrom", "furlong"),
    "unknown bond": TOML.replace('["n2", "o"]', '["n2", "x"]'),
    "one ion": 'symbols = ["H"]\n[equilibrium]\nunit = "bohr"\npositions = [[0, 0, 0]]',
    "text in numbers": TOML.replace("2.312", '"far"'),
    "nan": TOML.replace("2.312", "nan"),
    "dummy atom": TOML.replace('"O"]', '"X"]'),
    "zero charge": TOML.replace("[1, 1, 1]", "[1, 0, 1]"),
    "labels twice": TOML.replace("charges", 'labels = ["n", "n", "o"]\ncharges'),
    "negative mass": TOML.replace(
        "[equilibrium]", '[masses]\nunit = "u"\nvalues = [14, -14, 16]\n[equilibrium]'
    ),
    "masses of two": TOML.replace("[equilibrium]", '[masses]\nunit = "u"\nvalues = [14, 14]\n[equilibrium]'),
    "unit of mass": TOML.replace(
        "[equilibrium]", '[masses]\nunit = "kg"\nvalues = [14, 14, 16]\n[equilibrium]'
    ),
    "a bond of three": TOML.replace('["n2", "o"]', '["n1", "n2", "o"]'),
    "a prior that is a number": TOML.split("[priors", maxsplit=1)[0].replace(
        "symbols", "priors = {a = 3}\nsymbols"
    ),
    "empty": "",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_files_that_are_not_sound_are_rejected(text: str, tmp_path: Path) -> None:
    """One line with the name of the file."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.toml"):
        Molecule.load(path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """Unknown names list the known ones; missing and foreign files are named."""
    with pytest.raises(UsageError, match="built in are"):
        Molecule.load("unobtainium")
    with pytest.raises(UsageError, match="no file"):
        Molecule.load(tmp_path / "missing.toml")
    with pytest.raises(UsageError, match="no file"):
        Molecule.load(tmp_path / "missing.xyz")
    (tmp_path / "x.xyz").write_text("hello")
    with pytest.raises(DataError, match=r"x\.xyz"):
        Molecule.load(tmp_path / "x.xyz")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"x\.toml"):
        Molecule.load(tmp_path / "x.toml")
    with pytest.raises(UsageError, match="no prior"):
        Molecule.load("ocs").prior_table("none")
    with pytest.raises(ValueError, match="furlong"):
        length_in_bohr("furlong")


def test_an_unknown_unit_of_mass_is_named(tmp_path: Path) -> None:
    """The message says which unit was meant, not that a key is lacking."""
    path = tmp_path / "bad.toml"
    path.write_text(DAMAGED["unit of mass"])
    with pytest.raises(DataError, match="unknown unit of mass 'kg'; use one of electron, u"):
        Molecule.load(path)


def test_masses_in_either_unit(tmp_path: Path) -> None:
    """One u is 1822.888486 electron masses."""
    for unit, scale in (("u", 1.0), ("electron", DALTON)):
        values = [14.003 * scale, 14.003 * scale, 15.995 * scale]
        text = f'[masses]\nunit = "{unit}"\nvalues = {values}\n[equilibrium]'
        path = tmp_path / f"{unit}.toml"
        path.write_text(TOML.replace("[equilibrium]", text))
        masses = Molecule.load(path).masses
        np.testing.assert_allclose(masses, np.array([14.003, 14.003, 15.995]) * 1822.888486209, rtol=1e-12)


BAD_XYZ = {
    "empty": "",
    "one atom": "1\n\nO 0 0 0\n",
    "too few lines": "3\n\nO 0 0 0\nH 0 0 1\n",
    "text in numbers": "2\n\nO 0 0 zero\nH 0 0 1\n",
    "unknown symbol": "2\n\nQq 0 0 0\nH 0 0 1\n",
    "dummy atom": "2\n\nX 0 0 0\nH 0 0 1\n",
    "nan": "2\n\nO 0 0 nan\nH 0 0 1\n",
}


@pytest.mark.parametrize("text", BAD_XYZ.values(), ids=BAD_XYZ)
def test_xyz_files_that_are_not_sound_are_rejected(text: str, tmp_path: Path) -> None:
    """One line with the name of the file."""
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.xyz"):
        Molecule.load(path)


def test_atoms_on_top_of_each_other_are_rejected(tmp_path: Path) -> None:
    """The message names both."""
    path = tmp_path / "x.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0 0 1\nH 0 0 1.01\n")
    with pytest.raises(DataError, match=r"atoms h1 and h2 are 0\.019 bohr apart"):
        Molecule.load(path)


def test_an_xyz_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    """In its last number, between two atoms, between two numbers: not a molecule with other bonds."""
    text = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
    path = tmp_path / "w.xyz"
    path.write_text(text)
    assert Molecule.load(path).labels == ("o", "h1", "h2")
    for end in (-1, -3, -12, text.index("H 0 -"), text.index("H 0 0.7")):
        path.write_text(text[:end])
        with pytest.raises(DataError, match=r"line end|cut XYZ file|damaged"):
            Molecule.load(path)


def test_n2o_has_the_rotational_constant_that_spectroscopy_extrapolates_to() -> None:
    """B_e = B_0 + (alpha_1 + 2 alpha_2 + alpha_3) / 2 of 14N14N16O, MHz (NIST Triatomic Database)."""
    n2o = Molecule.load("n2o").with_isotopes("14N,16O")
    z, mass = n2o.equilibrium[:, 2], n2o.masses
    z = z - (mass * z).sum() / mass.sum()
    hartree = 1.0 / (2.0 * (mass * z**2).sum())  # hbar^2 / 2I
    expected = 12561.635 + 0.5 * (103.46 - 2 * 16.88 + 52.64)
    assert hartree * 6.579683920502e9 == pytest.approx(expected, rel=2e-4)


def test_ase_has_the_equilibrium_in_angstrom() -> None:
    """Bonds as the file of water states them, 0.9578 angstrom and 104.48 degrees; masses of the isotopes."""
    atoms = Molecule.load("h2o").with_isotopes("h1=D").to_ase()
    assert atoms.get_chemical_symbols() == ["O", "H", "H"]
    assert atoms.get_distance(0, 1) == pytest.approx(0.9578, abs=1e-4)
    assert atoms.get_angle(1, 0, 2) == pytest.approx(104.48, abs=0.02)
    np.testing.assert_allclose(atoms.get_masses(), [15.999, 2.01410178, 1.008], rtol=1e-6)
    moved = Molecule.load("h2o").to_ase(np.eye(3) * ANGSTROM)
    np.testing.assert_allclose(moved.positions, np.eye(3), rtol=1e-12)


def test_a_notebook_shows_a_table_of_the_ions() -> None:
    """A row for each ion with its mass and charge; text of a file is escaped."""
    table = Molecule.load("h2o").with_isotopes("h1=D").with_charges("2,1,1").to_dict()
    html = Molecule.from_dict(table | {"name": "<b>"})._repr_html_()
    assert "<caption>Molecule &lt;b&gt;</caption>" in html
    assert "<tr><th>o</th><td>O, 15.999 u, charge +2</td></tr>" in html
    assert "<tr><th>h1</th><td>H, 2.0141 u, charge +1</td></tr>" in html
    assert "<th>geometry priors</th><td>equilibrium, ball" in html
