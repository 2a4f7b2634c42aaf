"""Masses, charges and length units of a molecule: stated, named, contradicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shell import Shell

import flowcei
from flowcei.errors import DataError, UsageError
from flowcei.events.container import events_of
from flowcei.events.foreign.structures import read_geometries
from flowcei.events.storage import read_events, write_events
from flowcei.experiment.likelihood import Likelihood
from flowcei.molecules.isotopes import average_mass_warnings, isotope_masses
from flowcei.molecules.molecule import Molecule
from flowcei.posterior.refinement import refine
from flowcei.units import ANGSTROM, DALTON

CHBRCLF = Molecule.load("chbrclf")
# Angstrom; bonds from 0.96 (water) to 2.14 (methyl iodide), nothing that is not bonded.
STRUCTURES = {
    "ocs": [("C", 0, 0, 0), ("O", 0, 0, 1.156), ("S", 0, 0, -1.561)],
    "h2o": [("O", 0, 0, 0), ("H", 0.757, 0.587, 0), ("H", -0.757, 0.587, 0)],
    "ch3i": [("C", 0, 0, 0), ("I", 0, 0, 2.14)]
    + [("H", 1.03 * np.cos(a), 1.03 * np.sin(a), -0.35) for a in (0.0, 2.0944, 4.1888)],
    "ethane": [("C", 0, 0, 0.76), ("C", 0, 0, -0.76)]
    + [
        ("H", s * 1.02 * np.cos(a), s * 1.02 * np.sin(a), s * 1.16)
        for s in (1, -1)
        for a in (0, 2.0944, 4.1888)
    ],
    "n2": [("N", 0, 0, 0), ("N", 0, 0, 1.098)],
    "f2": [("F", 0, 0, 0), ("F", 0, 0, 1.412)],
}


def _xyz(path: Path, rows: list, scale: float = 1.0, comment: str = "") -> Path:
    lines = [f"{s} {scale * x:.6f} {scale * y:.6f} {scale * z:.6f}" for s, x, y, z in rows]
    path.write_text("\n".join([str(len(rows)), comment, *lines, ""]))
    return path


def test_isotope_masses_against_another_table() -> None:
    """CODATA's deuteron and triton with their electrons; the averages of bromine and chlorine."""
    electron = 1.0 / DALTON
    assert isotope_masses("H")[2] == pytest.approx(2.013553212745 + electron, abs=1e-7)
    assert isotope_masses("H")[3] == pytest.approx(3.01550071621 + electron, abs=1e-7)
    br, cl = isotope_masses("Br"), isotope_masses("Cl")
    assert 0.5069 * br[79] + 0.4931 * br[81] == pytest.approx(79.904, abs=1e-3)
    assert 0.7576 * cl[35] + 0.2424 * cl[37] == pytest.approx(35.453, abs=1e-3)
    assert isotope_masses("C")[12] == 12.0


def test_average_masses_are_warned_of() -> None:
    """Br, Cl, Cu, Ga, B: no isotope has them; C, H, O, S, I: one does, to half a per cent."""
    positions = {"unit": "angstrom", "positions": (2.0 * np.eye(3)).tolist()}
    for symbols, warned in ((["Br", "Cl", "Cu"], 3), (["Ga", "B", "Ag"], 3), (["C", "H", "I"], 0)):
        molecule = Molecule.from_dict({"name": "x", "symbols": symbols, "equilibrium": positions})
        assert len(average_mass_warnings(molecule)) == warned
    assert not average_mass_warnings(CHBRCLF.with_isotopes("81Br,37Cl"))


def test_isotopes_of_elements_and_of_single_atoms() -> None:
    """An element's atoms, one atom of several, by its own symbol; one atom wins over its element."""
    water = Molecule.load("h2o")
    heavy = isotope_masses("H")
    for text, masses in (
        ("D", (heavy[2], heavy[2])),
        ("2H", (heavy[2], heavy[2])),
        ("h1=D", (heavy[2], 1.008)),
        ("h2=T, 1H", (heavy[1], heavy[3])),
        ("H=D,h1=H-1", (heavy[1], heavy[2])),
    ):
        np.testing.assert_allclose(water.with_isotopes(text).masses[1:] / DALTON, masses, rtol=1e-12)
    for text in ("81Br", "h3=D", "o=2H", "5H", "heavy", "h1=D=T"):
        with pytest.raises(UsageError, match="isotope"):
            water.with_isotopes(text)


def test_isotopes_and_deuterium_in_files(tmp_path: Path) -> None:
    """[isotopes] in TOML, D as a symbol in TOML and XYZ; masses beside isotopes are refused."""
    toml = tmp_path / "hod.toml"
    text = 'symbols = ["O", "D", "H"]\n[equilibrium]\nunit = "angstrom"\n'
    text += "positions = [[0, 0, 0], [0.757, 0.587, 0], [-0.757, 0.587, 0]]\n"
    toml.write_text(text + '[isotopes]\nO = "18O"\n')
    xyz = _xyz(tmp_path / "hod.xyz", [("O", 0, 0, 0), ("D", 0.757, 0.587, 0), ("H", -0.757, 0.587, 0)])
    for path, oxygen in ((toml, isotope_masses("O")[18]), (xyz, 15.999)):
        molecule = Molecule.load(path)
        assert molecule.labels == ("o", "d", "h")
        assert molecule.symbols == ("O", "H", "H")
        assert molecule.identical == ()
        np.testing.assert_allclose(
            molecule.masses / DALTON, [oxygen, isotope_masses("H")[2], 1.008], rtol=1e-9
        )
        assert Molecule.from_dict(molecule.to_dict()).same_ions(molecule)
    swapped = _xyz(tmp_path / "dho.xyz", [("H", -0.8, 0.6, 0), ("D", 0.8, 0.6, 0), ("O", 0, 0, 0)])
    found = read_geometries(swapped, Molecule.load(xyz))[0] / ANGSTROM
    np.testing.assert_allclose(found[:, 0], [0.0, 0.8, -0.8], atol=1e-9)
    toml.write_text(text + '[isotopes]\nO = "18O"\n[masses]\nunit = "u"\nvalues = [16, 2, 1]\n')
    with pytest.raises(DataError, match="both given"):
        Molecule.load(toml)


def test_masses_that_differ_are_never_silent(tmp_path: Path) -> None:
    """Events of 81Br are no events of the average: both masses are named, and what to do."""
    exact = CHBRCLF.with_isotopes("81Br,37Cl")
    events = flowcei.simulate(exact, 3, seed=1)
    path = tmp_path / "e.h5"
    write_events(events, path)
    assert read_events(path).molecule.same_ions(exact)
    assert read_events(path, exact).molecule.same_ions(exact)
    with pytest.raises(DataError, match=r"br has 80\.9163 u, not 79\.904 u.*--isotopes"):
        read_events(path, CHBRCLF)
    with pytest.raises(UsageError, match=r"br has 80\.9163 u, not 79\.904 u.*--isotopes"):
        events_of(events, CHBRCLF)
    nearly = CHBRCLF.from_dict(
        CHBRCLF.to_dict() | {"masses": {"unit": "electron", "values": (CHBRCLF.masses * 1.00005).tolist()}}
    )
    assert nearly.same_ions(CHBRCLF)


def test_lengths_of_chbrclf_need_its_isotopes() -> None:
    """Momenta of 81Br and 37Cl: refined with them bonds are right to 1e-6, with averages off by per cents."""
    exact = CHBRCLF.with_isotopes("81Br,37Cl")
    events = flowcei.simulate(exact, 4, noise="0%", seed=2, accuracy=1e-9)
    assert events.positions is not None
    bonds = np.array(CHBRCLF.bonds)
    true = np.linalg.norm(events.positions[:, bonds[:, 0]] - events.positions[:, bonds[:, 1]], axis=-1)
    worst = {}
    for name, masses in (("isotopes", exact.masses), ("averages", CHBRCLF.masses)):
        sigma = 1e-3 * np.sqrt((events.momenta**2).mean(axis=(1, 2)))
        found = refine(
            Likelihood(masses, exact.charges, events.momenta, sigma), events.positions[:, None], threads=1
        )
        x = found.positions[:, 0]
        length = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)
        worst[name] = float(np.abs(length / true - 1.0).max())
    assert worst["isotopes"] < 1e-6
    assert worst["averages"] > 0.01


def test_charges_as_an_option() -> None:
    """One for each ion, or one for all; what cannot explode is refused."""
    ocs = Molecule.load("ocs")
    assert ocs.with_charges("1,2,3").charges.tolist() == [1.0, 2.0, 3.0]
    for text in ("1,2", "1,-1,1", "0", "two", "nan", "inf", ""):
        with pytest.raises(UsageError, match="charges"):
            ocs.with_charges(text)


@pytest.mark.parametrize("name", STRUCTURES)
def test_units_of_xyz_files_are_told_or_asked(name: str, tmp_path: Path) -> None:
    """Angstrom is read; bohr is asked for, stated by the user, or named by the comment."""
    rows = STRUCTURES[name]
    expected = Molecule.load(_xyz(tmp_path / "a.xyz", rows)).equilibrium
    bohr = _xyz(tmp_path / "b.xyz", rows, ANGSTROM)
    with pytest.raises(DataError, match="state --length-unit bohr or angstrom"):
        Molecule.load(bohr)
    found = Molecule.load(bohr, unit="bohr")
    np.testing.assert_allclose(found.equilibrium, expected, atol=1e-5)
    for comment in ("unit=bohr", "positions in Bohr", "geometry (a.u.)", "units: au"):
        named = _xyz(tmp_path / "c.xyz", rows, ANGSTROM, comment)
        np.testing.assert_allclose(Molecule.load(named).equilibrium, expected, atol=1e-5)
        np.testing.assert_allclose(read_geometries(named, found)[0], expected, atol=1e-5)
        with pytest.raises(DataError, match="its comment says bohr, you say angstrom"):
            Molecule.load(named, unit="angstrom")
    assert len(found.bonds) == len(rows) - 1


@pytest.mark.parametrize("name", STRUCTURES)
def test_an_energy_in_the_comment_is_no_unit_of_length(name: str, tmp_path: Path) -> None:
    """An angstrom file of a program that writes its energy in a.u. keeps its bonds, or is asked about."""
    rows = STRUCTURES[name]
    expected = Molecule.load(_xyz(tmp_path / "a.xyz", rows)).equilibrium
    for comment in ("E = -510.2 a.u.", "energy -510.2 au", "converted from bohr to angstrom"):
        read = Molecule.load(_xyz(tmp_path / "b.xyz", rows, 1.0, comment))
        np.testing.assert_allclose(read.equilibrium, expected, atol=1e-9)
    asked = _xyz(tmp_path / "c.xyz", rows, 1.0, "energy (a.u.): -510.2")
    with pytest.raises(DataError, match=r"0\.[3-6]\d times .* in bohr: another unit.*state --length-unit"):
        Molecule.load(asked)
    with pytest.raises(DataError, match="in bohr: another unit"):  # what is stated is not believed either
        Molecule.load(_xyz(tmp_path / "d.xyz", rows), unit="bohr")


def test_molecules_that_come_apart_are_asked_about(tmp_path: Path) -> None:
    """One bond broken: still angstrom; all broken: it could be bohr, so somebody must say."""
    rows = STRUCTURES["ocs"]
    one = _xyz(tmp_path / "one.xyz", [*rows[:2], ("S", 0, 0, -5.0)])
    assert len(Molecule.load(one).bonds) == 1
    all_apart = _xyz(tmp_path / "all.xyz", rows, 2.5)
    with pytest.raises(DataError, match="or the molecule has come apart"):
        read_geometries(all_apart, Molecule.load("ocs"))
    stated = read_geometries(all_apart, Molecule.load("ocs"), unit="angstrom")
    assert stated[0, 1, 2] == pytest.approx(2.5 * 1.156 * ANGSTROM, rel=1e-6)


def test_commands_state_masses_and_charges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`simulate` says and warns, the file holds what was stated, `check` says it; nonsense is exit code 2."""
    shell, place = Shell(monkeypatch, capsys), str(tmp_path / "e.h5")
    simulate = ("simulate", "chbrclf", "-n", "5", "--seed", "1", "-o", place, "--overwrite")
    assert shell(*simulate) == 0
    for text in (
        "masses (u) C 12.011, H 1.008, Br 79.904, Cl 35.45, F 18.9984; charges +1, +1, +1, +1, +1",
        "prior equilibrium; noise 0%",
        "warning (mass): Br: 79.904 u is the average mass, that of no isotope; --isotopes 79Br or 81Br",
    ):
        assert text in shell.err
    for command in (("info", place), ("check", place)):  # the molecule comes from the file
        shell(*command)
        assert "warning (mass): Br: 79.904 u is the average mass" in shell.err
    stated = ("--isotopes", "81Br,37Cl", "--charges", "2")
    assert shell(*simulate, *stated) == 0
    assert "warning" not in shell.err
    molecule = read_events(place).molecule
    assert molecule.masses[2] / DALTON == pytest.approx(80.9162882)
    assert (molecule.charges == 2.0).all()
    assert shell("check", place, "--molecule", "chbrclf") != 0
    assert "charge +2, not +1" in shell.out + shell.err
    shell("check", place, "--molecule", "chbrclf", *stated)
    assert "Br 80.9163" in shell.out
    assert shell("info", place) == 0
    assert "br 80.9163" in shell.out
    assert shell("check", place, "--isotopes", "81Br") == 2
    assert "name it with --molecule" in shell.err
    assert shell(*simulate, "--isotopes", "80Br") == 2
    assert "Br has 79Br, 81Br" in shell.err
