"""The molecule: which ions there are, where they sit at rest, what geometries are possible."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import as_file, files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowcei.errors import DataError, UsageError
from flowcei.molecules.isotopes import HYDROGENS, read_isotope
from flowcei.storage.files import read_toml
from flowcei.storage.html import html_table
from flowcei.storage.xyz import default_labels, molecule_table
from flowcei.units import ANGSTROM, DALTON, length_in_bohr

_MAX_IONS = 100
_LABEL = re.compile(r"[^\W_][\w.+-]{0,39}")  # they name columns of tables: no separators, no formulas
_LARGEST_CHARGE, _LARGEST_MASS, _LARGEST_LENGTH = 1e3, 1e9, 1e6  # elementary charges, electron masses, bohr
_MASSES_AGREE = 1e-4  # relative: isotopes differ by more, tables of one isotope by less
_CLOSEST = 0.1  # bohr: nearer than any two nuclei rest


@dataclass(frozen=True, eq=False, repr=False)
class Molecule:
    """A molecule and the ions it breaks into.

    Attributes:
        name: What files and models call it.
        symbols: Chemical symbols, in the order of every array.
        charges: Charges of the ions, (N,), elementary charges.
        masses: Masses of the ions, (N,), electron masses.
        equilibrium: Equilibrium positions, (N, 3), bohr.
        labels: One per ion, `c` or, where a symbol repeats, `h1`, `h2`.
        bonds: Pairs of ion indices that are bonded.
        priors: Tables of the named geometry priors.
        default_prior: The one meant where none is named.
    """

    name: str
    symbols: tuple[str, ...]
    charges: NDArray[np.float64]
    masses: NDArray[np.float64]
    equilibrium: NDArray[np.float64]
    labels: tuple[str, ...]
    bonds: tuple[tuple[int, int], ...]
    priors: dict[str, dict[str, Any]] = field(default_factory=dict)
    default_prior: str = ""

    def __repr__(self) -> str:
        """Say in a line which ions, and which priors there are."""
        ions = " ".join(f"{x} {q:+g}" for x, q in zip(self.labels, self.charges, strict=True))
        return f"Molecule: {self.name} ({ions}), priors {', '.join(self.priors) or 'none'}"

    @classmethod
    def load(cls, source: str | Path, *, unit: str | None = None) -> Molecule:
        """Return a built-in molecule by name, or read one from a TOML or XYZ file.

        An XYZ file gives symbols and equilibrium; every ion then has charge +1, bonds come
        from covalent radii, and the priors are `equilibrium` (each atom displaced by
        0.15 bohr) and `ball` (4 bohr, or what holds the molecule).

        Args:
            source: ``"ocs"``, ``"my.toml"`` or ``"my.xyz"``.
            unit: Of the positions in an XYZ file, ``"angstrom"`` or ``"bohr"``; where None what
                its comment names, else angstrom, if bonds are then as long as bonds are.

        Raises:
            UsageError: For a name that is neither built in nor a file.
            DataError: For a file that does not describe a molecule.

        Example:
            >>> Molecule.load("h2o").labels
            ('o', 'h1', 'h2')
        """
        path = Path(source)
        if path.suffix.lower() == ".xyz":
            return cls.from_dict(molecule_table(path, unit), path)
        if path.suffix.lower() == ".toml":
            return cls.from_dict({"name": path.stem} | read_toml(path), path)
        name = str(source).lower()
        if name in built_in_molecules():
            with as_file(files("flowcei") / "molecules" / f"{name}.toml") as built_in:
                return cls.from_dict({"name": name} | read_toml(built_in), built_in)
        names = ", ".join(built_in_molecules())
        raise UsageError(
            f"no molecule {str(source)!r}: built in are {names}; for your own give a .toml or .xyz file"
        )

    @classmethod
    def from_dict(cls, table: dict[str, Any], path: Path | None = None) -> Molecule:
        """Build a molecule from a table such as `to_dict` returns or a TOML file holds.

        Args:
            table: Its entries; lengths and masses with their unit.
            path: The file that holds it, named where it is refused.

        Raises:
            DataError: Where the table does not describe a molecule.
        """
        if not isinstance(table, dict):
            raise DataError("a molecule is a table", path=path)
        keys = sorted({"isotopes", *(entry.name for entry in fields(cls))})
        if unknown := [key for key in table if key not in keys]:
            message = f"unknown key {str(unknown[0])[:40]!r}; a molecule has {', '.join(keys)}"
            raise DataError(message, path=path)
        try:
            with np.errstate(over="ignore"):
                return _build(table)
        except KeyError as error:
            raise DataError(f"the molecule lacks {error}", path=path) from error
        except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f"the molecule is not sound: {str(error)[:300]}", path=path) from error

    def to_dict(self) -> dict[str, Any]:
        """Return a table of plain numbers and text that `from_dict` reads.

        Example:
            >>> ocs = Molecule.load("ocs")
            >>> Molecule.from_dict(ocs.to_dict()).same_ions(ocs)
            True
        """
        return {
            "name": self.name,
            "symbols": list(self.symbols),
            "labels": list(self.labels),
            "charges": self.charges.tolist(),
            "masses": {"unit": "electron", "values": self.masses.tolist()},
            "bonds": [[self.labels[i], self.labels[j]] for i, j in self.bonds],
            "equilibrium": {"unit": "bohr", "positions": self.equilibrium.tolist()},
            "priors": self.priors,
            "default_prior": self.default_prior,
        }

    def to_ase(self, positions: ArrayLike | None = None) -> Any:  # noqa: ANN401 - ASE carries no types
        """Return a geometry as `ase.Atoms`, positions in angstrom, masses in u.

        Args:
            positions: (N, 3), bohr; the equilibrium where None.

        Example:
            >>> print(f"{Molecule.load('ocs').to_ase().get_distance(0, 1):.2f}")  # C to O, angstrom
            1.16
        """
        from ase import Atoms  # takes a quarter of a second

        symbols = ["H" if symbol in HYDROGENS else symbol for symbol in self.symbols]
        x = self.equilibrium if positions is None else np.asarray(positions)
        return Atoms(symbols, x / ANGSTROM, masses=self.masses / DALTON)

    def _repr_html_(self) -> str:
        """A table of the ions, with their masses and charges, for notebooks."""
        rows = zip(self.labels, self.symbols, self.masses / DALTON, self.charges, strict=True)
        ions = {label: f"{symbol}, {mass:.6g} u, charge {q:+g}" for label, symbol, mass, q in rows}
        priors = ", ".join(self.priors) or "none"
        return html_table(f"Molecule {self.name}", ions | {"geometry priors": priors})

    def __len__(self) -> int:
        """Return the number of ions."""
        return len(self.symbols)

    def same_ions(self, other: Molecule) -> bool:
        """Whether the ions of two molecules agree in order, charge and mass (to 1e-4)."""
        return not self.difference(other)

    def difference(self, other: Molecule) -> str:
        """Return in what the ions of another molecule differ from these, and what to do; else nothing.

        Example:
            >>> usual = Molecule.load("chbrclf")
            >>> usual.difference(usual.with_isotopes("81Br"))
            'br has 79.904 u, not 80.9163 u: state the isotopes (--isotopes, [isotopes] in TOML)'
        """
        if self.labels != other.labels:
            return f"ions {', '.join(self.labels)}, not {', '.join(other.labels)}"
        charges = zip(self.labels, self.charges, other.charges, strict=True)
        masses = zip(self.labels, self.masses / DALTON, other.masses / DALTON, strict=True)
        for label, own, its in charges:
            if own != its:
                todo = "charges are stated with --charges, of a model when it is trained"
                return f"{label} has charge {own:+g}, not {its:+g}: {todo}"
        for label, own, its in masses:
            if abs(own - its) > _MASSES_AGREE * its:
                todo = "state the isotopes (--isotopes, [isotopes] in TOML)"
                return f"{label} has {own:.6g} u, not {its:.6g} u: {todo}"
        return ""

    def with_isotopes(self, isotopes: str) -> Molecule:
        """Return this molecule with the masses of isotopes.

        Args:
            isotopes: ``"81Br,37Cl"`` for all atoms of an element, ``"h1=2H"`` or ``"h1=D"`` for one.

        Raises:
            UsageError: For what is no isotope, or of an element that the molecule lacks.

        Example:
            >>> Molecule.load("h2o").with_isotopes("h1=D").nuclides
            ('O', 'D', 'H')
        """
        entries = [word.strip().rpartition("=")[::2] for word in isotopes.split(",") if word.strip()]
        try:
            masses = _with_isotopes(self, entries)
        except ValueError as error:
            raise UsageError(f"isotopes {isotopes!r}: {error}") from error
        return replace(self, masses=masses)

    def with_charges(self, charges: str) -> Molecule:
        """Return this molecule with other charges.

        Args:
            charges: ``"2,2,2"``, one for each ion, or one for all; elementary charges.

        Raises:
            UsageError: For another number of charges, or such that nothing explodes.

        Example:
            >>> Molecule.load("co2").with_charges("2").charges.tolist()
            [2.0, 2.0, 2.0]
        """
        try:
            values = np.array([float(word) for word in charges.split(",")])
            if len(values) not in (1, len(self)):
                raise ValueError(f"{len(values)} charges for {len(self)} ions ({', '.join(self.labels)})")
            values = np.broadcast_to(values, len(self)).copy()
            if not (np.abs(values) < _LARGEST_CHARGE).all():
                raise ValueError("charges must be finite, in elementary charges")
            _check_charges(values)
        except ValueError as error:
            raise UsageError(f"charges {charges!r}: {error}") from error
        return replace(self, charges=values)

    def prior_table(self, name: str | None = None) -> dict[str, Any]:
        """Return the table of a named prior, of a TOML file that holds one, or of the default one.

        Raises:
            UsageError: For a name the molecule does not have.
            DataError: For a file that cannot be read.
        """
        wanted = name or self.default_prior
        if wanted and wanted.endswith(".toml"):
            return read_toml(Path(wanted))
        if wanted not in self.priors:
            has = ", ".join(self.priors) or "none"
            raise UsageError(f"{self.name} has no prior {wanted!r}; it has {has}, or give a .toml file")
        return self.priors[wanted]

    @property
    def kinds(self) -> tuple[tuple[str, float, float], ...]:
        """Symbol, charge and mass of each ion: equal ones cannot be told apart."""
        return tuple(zip(self.symbols, self.charges.tolist(), self.masses.tolist(), strict=True))

    @property
    def nuclides(self) -> tuple[str, ...]:
        """Symbols, with D and T for heavy hydrogen."""
        heavy = {name: read_isotope(name)[1] for name in HYDROGENS}
        return tuple(
            next((d for d, its in heavy.items() if s == "H" and abs(mass - its) < 0.1 * DALTON), s)
            for s, mass in zip(self.symbols, self.masses, strict=True)
        )

    @property
    def identical(self) -> tuple[tuple[int, ...], ...]:
        """Groups of two or more ions that a detector cannot tell apart."""
        kinds = self.kinds
        groups = (tuple(i for i, k in enumerate(kinds) if k == kind) for kind in dict.fromkeys(kinds))
        return tuple(group for group in groups if len(group) > 1)

    @property
    def angles(self) -> tuple[tuple[int, int, int], ...]:
        """Bond angles (end, vertex, end) at every atom with two or more bonds."""
        ends = [sorted(sum(bond) - i for bond in self.bonds if i in bond) for i in range(len(self))]
        return tuple((a, i, b) for i, near in enumerate(ends) for a, b in combinations(near, 2))


def built_in_molecules() -> tuple[str, ...]:
    """Names of the molecules that come with flowcei."""
    folder = files("flowcei") / "molecules"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def _build(table: dict[str, Any]) -> Molecule:
    """The molecule of a table; KeyError or ValueError, among others, where it describes none."""
    geometry = table["equilibrium"]
    symbols, labels, name, default = _names(table)
    n = len(symbols)
    equilibrium = np.array(geometry["positions"], dtype=float) * length_in_bohr(geometry["unit"])
    charges = np.array(table.get("charges", [1.0] * n), dtype=float)
    masses = _masses(symbols, table.get("masses"))
    symbols = tuple("H" if s in HYDROGENS else s for s in symbols)
    bonds = tuple(_bond(labels, pair) for pair in table.get("bonds", []))
    priors = {str(k): dict(v) for k, v in table.get("priors", {}).items()}
    default = default or next(iter(priors), "")
    molecule = Molecule(name, symbols, charges, masses, equilibrium, labels, bonds, priors, default)
    _check_ions(molecule)
    if "isotopes" not in table:
        return molecule
    if "masses" in table:
        raise ValueError("masses and isotopes are both given; leave one out")
    return replace(molecule, masses=_with_isotopes(molecule, list(table["isotopes"].items())))


def _check_ions(molecule: Molecule) -> None:
    n, equilibrium = len(molecule), molecule.equilibrium
    for key, array, shape, most in (
        ("equilibrium.positions", equilibrium, (n, 3), _LARGEST_LENGTH),
        ("charges", molecule.charges, (n,), _LARGEST_CHARGE),
        ("masses", molecule.masses, (n,), _LARGEST_MASS),
    ):
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{key} must be finite with shape {shape}; got shape {array.shape}")
        if np.abs(array).max() > most:
            raise ValueError(f"{key} must be below {most:g} (elementary charges, electron masses, bohr)")
    if not (molecule.masses > 0).all():
        raise ValueError("masses must be positive")
    _check_charges(molecule.charges)
    gaps = np.linalg.norm(equilibrium[:, None] - equilibrium[None], axis=-1) + 9.0 * np.eye(n)
    if gaps.min() < _CLOSEST:
        i, j = (molecule.labels[k] for k in np.unravel_index(gaps.argmin(), gaps.shape))
        raise ValueError(f"atoms {i} and {j} are {gaps.min():.2g} bohr apart")


def _bond(labels: tuple[str, ...], pair: Sequence[str]) -> tuple[int, int]:
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(labels):
        raise ValueError(f"a bond joins two of the labels {list(labels)}; got {pair!r}")
    return labels.index(pair[0]), labels.index(pair[1])


def _names(table: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], str, str]:
    """Symbols, labels, name and default prior: short and printable, as they name columns."""
    count = len(table["symbols"])
    if not 2 <= count <= _MAX_IONS:
        raise ValueError(f"{count} symbols; a molecule has at least two ions, and {_MAX_IONS} at the most")
    symbols = tuple(table["symbols"])
    labels = tuple(table.get("labels") or default_labels(symbols))
    name, default = table["name"], table.get("default_prior", "")
    words = [("name", name, 200), ("default_prior", default, 200), *(("symbol", s, 10) for s in symbols)]
    for key, word, most in words:
        if not isinstance(word, str) or not word.isprintable() or len(word) > most:
            raise ValueError(f"{key} {str(word)[:40]!r}: text of at most {most} printable characters")
    for label in labels:
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            rule = "letters, digits and . + - _, the first a letter or a digit"
            raise ValueError(f"label {str(label)[:40]!r}: {rule}")
    if len(set(labels)) != count or len(labels) != count:
        own = list(labels)[:_MAX_IONS]
        raise ValueError(f"{count} symbols with labels {own}: each ion has a label of its own")
    return symbols, labels, name, default


def _masses(symbols: Sequence[str], table: dict[str, Any] | None) -> NDArray[np.float64]:
    """Masses (N,), electron masses: as stated, else of D or T, else the average of the element."""
    if table is not None:
        units = {"electron": 1.0, "u": DALTON}
        if table["unit"] not in units:
            raise ValueError(f"unknown unit of mass {table['unit']!r}; use one of {', '.join(units)}")
        return np.array(table["values"], dtype=float) * units[table["unit"]]
    # Imported here: ASE takes a quarter of a second, and most commands never need it.
    from ase.data import atomic_masses, atomic_numbers

    average = {s: atomic_masses[k] * DALTON for s, k in atomic_numbers.items() if k}  # 0 is a dummy atom
    masses = average | {s: read_isotope(s)[1] for s in HYDROGENS}
    if unknown := [s for s in symbols if s not in masses]:
        raise ValueError(f"unknown chemical symbol {unknown[0]!r}")
    return np.array([masses[s] for s in symbols])


def _with_isotopes(molecule: Molecule, entries: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Masses (N,) with those of isotopes, each of a label, of an element, or of its own element."""
    masses = molecule.masses.copy()
    for owner, isotope in sorted(entries, key=lambda entry: entry[0] in molecule.labels):  # one atom wins
        symbol, mass = read_isotope(isotope)
        by_element = owner in ("", symbol) and owner not in molecule.labels
        ions = [
            i
            for i, (label, own) in enumerate(zip(molecule.labels, molecule.symbols, strict=True))
            if owner == label or (by_element and symbol == own)
        ]
        if not ions or any(molecule.symbols[i] != symbol for i in ions):
            labels = ", ".join(molecule.labels)
            raise ValueError(f"{isotope} is no isotope of {owner or 'an atom'} of {molecule.name} ({labels})")
        masses[ions] = mass
    return masses


def _check_charges(charges: NDArray[np.float64]) -> None:
    if not ((charges > 0).all() or (charges < 0).all()):
        rule = "charges must be non-zero and of one sign, or nothing explodes"
        raise ValueError(f"{rule}; got {charges.tolist()}")
