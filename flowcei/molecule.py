"""The molecule: which ions there are, where they sit at rest, what geometries are possible."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, UsageError
from flowcei.units import ANGSTROM, DALTON, length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Molecule", "built_in_molecules"]

_KEYS = {
    "name",
    "symbols",
    "labels",
    "charges",
    "masses",
    "bonds",
    "equilibrium",
    "priors",
    "default_prior",
}
_CLOSEST = 0.1  # bohr: nearer than any two nuclei rest
_BOND_STRETCH = 1.3  # of the sum of covalent radii: what counts as a bond in an XYZ file


@dataclass(frozen=True, eq=False)
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

    @classmethod
    def load(cls, source: str | Path) -> Molecule:
        """Return a built-in molecule by name, or read one from a TOML or XYZ file.

        An XYZ file gives symbols and equilibrium; every ion then has charge +1, bonds come
        from covalent radii, and the priors are `equilibrium` (each atom displaced by
        0.15 bohr) and `ball` (4 bohr, or what holds the molecule).

        Args:
            source: ``"ocs"``, ``"my.toml"`` or ``"my.xyz"``.

        Raises:
            UsageError: For a name that is neither built in nor a file.
            DataError: For a file that does not describe a molecule.

        Example:
            >>> Molecule.load("h2o").labels
            ('o', 'h1', 'h2')
        """
        path = Path(source)
        if path.suffix.lower() == ".xyz":
            return _from_xyz(path)
        if path.suffix.lower() == ".toml":
            return _from_toml(_read(path), path)
        if str(source) in built_in_molecules():
            text = (files("flowcei") / "molecules" / f"{source}.toml").read_text("utf-8")
            return _from_toml(text, Path(f"{source}.toml"))
        msg = (
            f"no molecule {str(source)!r}: built in are {', '.join(built_in_molecules())}; "
            "for your own give a .toml or .xyz file"
        )
        raise UsageError(msg)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Molecule:
        """Build a molecule from a table such as `to_dict` returns or a TOML file holds.

        Raises:
            DataError: Where the table does not describe a molecule.
        """
        return _from_table(table, None)

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

    def __len__(self) -> int:
        """Return the number of ions."""
        return len(self.symbols)

    def same_ions(self, other: Molecule) -> bool:
        """Whether the ions of two molecules agree in order, charge and mass (to 1 %)."""
        return (
            self.labels == other.labels
            and bool(np.array_equal(self.charges, other.charges))
            and bool(np.allclose(self.masses, other.masses, rtol=0.01))
        )

    def prior_table(self, name: str | None = None) -> dict[str, Any]:
        """Return the table of a named prior, or of the default one.

        Raises:
            UsageError: For a name the molecule does not have.
        """
        wanted = name or self.default_prior
        if wanted not in self.priors:
            msg = f"{self.name} has no prior {wanted!r}; it has {', '.join(self.priors) or 'none'}"
            raise UsageError(msg)
        return self.priors[wanted]

    @property
    def kinds(self) -> tuple[tuple[str, float, float], ...]:
        """Symbol, charge and mass of each ion: equal ones cannot be told apart."""
        rows = zip(self.symbols, self.charges.tolist(), self.masses.tolist(), strict=True)
        return tuple(rows)

    @property
    def identical(self) -> tuple[tuple[int, ...], ...]:
        """Groups of two or more ions that a detector cannot tell apart."""
        kinds = self.kinds
        groups = (tuple(i for i, k in enumerate(kinds) if k == kind) for kind in dict.fromkeys(kinds))
        return tuple(group for group in groups if len(group) > 1)

    @property
    def angles(self) -> tuple[tuple[int, int, int], ...]:
        """Bond angles (end, vertex, end) at every atom with two or more bonds."""
        near: dict[int, list[int]] = {i: [] for i in range(len(self))}
        for i, j in self.bonds:
            near[i].append(j)
            near[j].append(i)
        return tuple(
            (a, vertex, b)
            for vertex, ends in near.items()
            for k, a in enumerate(sorted(ends))
            for b in sorted(ends)[k + 1 :]
        )


def built_in_molecules() -> tuple[str, ...]:
    """Return the names of the molecules that come with flowcei.

    Example:
        >>> "ocs" in built_in_molecules()
        True
    """
    folder = files("flowcei") / "molecules"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        msg = f"no molecule file {str(path)!r}"
        raise UsageError(msg) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({error})", path=path) from error


def _from_toml(text: str, path: Path) -> Molecule:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"is not TOML: {error}", path=path) from error
    return _from_table({"name": path.stem} | table, path)


def _from_table(table: dict[str, Any], path: Path | None) -> Molecule:
    unknown = set(table) - _KEYS
    if unknown:
        what = f"unknown key {min(unknown)!r}; a molecule has {', '.join(sorted(_KEYS))}"
        raise DataError(what, path=path)
    try:
        return _build(table)
    except KeyError as error:
        raise DataError(f"the molecule lacks {error}", path=path) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"the molecule is not sound: {error}", path=path) from error


def _build(table: dict[str, Any]) -> Molecule:
    symbols = tuple(str(s) for s in table["symbols"])
    n = len(symbols)
    labels = tuple(table.get("labels") or _labels(symbols))
    geometry = table["equilibrium"]
    equilibrium = np.array(geometry["positions"], dtype=float) * length_in_bohr(geometry["unit"])
    charges = np.array(table.get("charges", [1.0] * n), dtype=float)
    masses = _masses(symbols, table.get("masses"))
    for name, array, shape in (
        ("equilibrium.positions", equilibrium, (n, 3)),
        ("charges", charges, (n,)),
        ("masses", masses, (n,)),
    ):
        if array.shape != shape or not np.isfinite(array).all():
            msg = f"{name} must be finite with shape {shape}; got shape {array.shape}"
            raise ValueError(msg)
    if n < 2 or len(set(labels)) != n or len(labels) != n:
        msg = f"{n} symbols with labels {list(labels)}: at least two ions, each label its own"
        raise ValueError(msg)
    if not (masses > 0).all():
        msg = "masses must be positive"
        raise ValueError(msg)
    _check_charges(charges)
    gaps = np.linalg.norm(equilibrium[:, None] - equilibrium[None], axis=-1) + 9.0 * np.eye(n)
    if gaps.min() < _CLOSEST:
        i, j = (int(k) for k in np.unravel_index(gaps.argmin(), gaps.shape))
        msg = f"atoms {labels[i]} and {labels[j]} are {gaps[i, j]:.2g} bohr apart"
        raise ValueError(msg)
    bonds = tuple(_bond(labels, pair) for pair in table.get("bonds", []))
    priors = {str(k): dict(v) for k, v in table.get("priors", {}).items()}
    default = table.get("default_prior") or next(iter(priors), "")
    name = str(table["name"])
    return Molecule(name, symbols, charges, masses, equilibrium, labels, bonds, priors, default)


def _bond(labels: tuple[str, ...], pair: Sequence[str]) -> tuple[int, int]:
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(labels):
        msg = f"a bond joins two of the labels {list(labels)}; got {pair!r}"
        raise ValueError(msg)
    return labels.index(pair[0]), labels.index(pair[1])


def _check_charges(charges: NDArray[np.float64]) -> None:
    if not ((charges > 0).all() or (charges < 0).all()):
        msg = f"charges must be non-zero and of one sign, or nothing explodes; got {charges.tolist()}"
        raise ValueError(msg)


def _labels(symbols: Sequence[str]) -> tuple[str, ...]:
    total, seen = Counter(symbols), Counter[str]()
    labels = []
    for symbol in symbols:
        seen[symbol] += 1
        labels.append(symbol.lower() + (str(seen[symbol]) if total[symbol] > 1 else ""))
    return tuple(labels)


def _masses(symbols: Sequence[str], table: dict[str, Any] | None) -> NDArray[np.float64]:
    if table is not None:
        units = {"electron": 1.0, "u": DALTON}
        if table["unit"] not in units:
            msg = f"unknown unit of mass {table['unit']!r}; use one of {', '.join(units)}"
            raise ValueError(msg)
        return np.array(table["values"], dtype=float) * units[table["unit"]]
    # Imported here: ASE takes a quarter of a second, and most commands never need it.
    from ase.data import atomic_masses, atomic_numbers

    unknown = [s for s in symbols if not atomic_numbers.get(s)]  # 0 is ASE's dummy atom
    if unknown:
        msg = f"unknown chemical symbol {unknown[0]!r}"
        raise ValueError(msg)
    return np.array([atomic_masses[atomic_numbers[s]] for s in symbols]) * DALTON


def _from_xyz(path: Path) -> Molecule:
    from ase.data import covalent_radii
    from ase.io import read

    try:
        atoms = read(path, index=0, format="extxyz")
    except FileNotFoundError as error:
        msg = f"no molecule file {str(path)!r}"
        raise UsageError(msg) from error
    except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise DataError(f"is not an XYZ file: {str(error) or 'it holds no atoms'}", path=path) from error
    angstrom = atoms.get_positions()
    reach = _BOND_STRETCH * covalent_radii[atoms.numbers]
    gaps = np.linalg.norm(angstrom[:, None] - angstrom[None], axis=-1)
    symbols = atoms.get_chemical_symbols()
    labels = _labels(symbols)
    bonds = [
        [labels[i], labels[j]]
        for i in range(len(symbols))
        for j in range(i + 1, len(symbols))
        if gaps[i, j] < (reach[i] + reach[j])
    ]
    size = np.linalg.norm(angstrom - angstrom.mean(axis=0), axis=1).max() * ANGSTROM
    table = {
        "name": path.stem,
        "symbols": symbols,
        "bonds": bonds,
        "equilibrium": {"unit": "angstrom", "positions": angstrom.tolist()},
        "priors": {
            "equilibrium": {"kind": "displaced", "sigma": 0.15},
            "ball": {"kind": "ball", "radius": float(max(4.0, size)), "minimal_separation": 0.5},
        },
    }
    return _from_table(table, path)
