"""XYZ files, a structure at a time, trusting no number in them."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError
from flowcei.storage.files import check_end, check_readable
from flowcei.units import ANGSTROM, length_in_bohr

_MAX_ATOMS = 1000
_MAX_LINE = 1 << 16
_MAX_COMMENT = 1000  # characters that are looked at
# Of the sum of covalent radii. Bonds of molecules at rest are 0.77 (N2) to 1.24 (F2) of it, so that in bohr,
# read as angstrom, they are 1.46 and more; in angstrom, read as bohr, 0.66 and less (radii: B. Cordero et
# al., Dalton Trans. 2832 (2008), as ASE has them).
_BOND_SQUEEZE, _BOND_STRETCH = 0.7, 1.3
_HEAVY = re.compile(r"^(\s*)([DT])(?=\s)")
# A number before "au" makes it the unit of an energy or a charge: "E = -113.2 au".
_UNIT = re.compile(r"\b(angstroms?|bohr|(?<!\d )(?:a\.u\.|au|atomic units))(?![\w.])|\u00c5", re.IGNORECASE)
_PROPERTIES = re.compile(
    r'(?:^|\s)Properties="?((?:\w{1,40}:[SRIL]:[1-9])(?::\w{1,40}:[SRIL]:[1-9]){0,49})(?=["\s]|$)'
)


def read_structures(path: Path) -> Iterator[Any]:
    """Yield the structures of an XYZ file, plain or extended, as `ase.Atoms`.

    Of the comment only the columns that it names are read. Atoms and characters of a line are bounded
    before ASE sees them: it takes memory for as many columns as a comment announces, and time for as
    many atoms.
    """
    from ase.io.extxyz import read_xyz

    check_readable(path)
    try:
        # newline="" would leave lone carriage returns inside a line.
        with path.open("r", encoding="utf-8") as file:
            for frame in _frames(file, path):
                lines = frame.split("\n")
                heavy = [_HEAVY.match(line) for line in lines[2:]]
                text = "\n".join([*lines[:2], *(_HEAVY.sub(r"\1H", line) for line in lines[2:])])
                for atoms in read_xyz(io.StringIO(text), index=slice(0, 1), properties_parser=_columns):
                    atoms.info = {"comment": lines[1][:_MAX_COMMENT]}
                    symbols = zip(atoms.get_chemical_symbols(), heavy, strict=False)
                    atoms.new_array("nuclides", np.array([match[2] if match else s for s, match in symbols]))
                    yield atoms
    except DataError:
        raise
    except Exception as error:  # ASE raises whatever its parsers stumble over
        raise DataError("not an XYZ file, or damaged", path=path) from error


def nuclides(atoms: Any) -> list[str]:  # noqa: ANN401 - ASE carries no types
    """Symbols of a structure that `read_structures` read, D and T as they are in the file."""
    return [str(symbol) for symbol in atoms.arrays["nuclides"]]


def default_labels(symbols: Sequence[str]) -> tuple[str, ...]:
    """A label for each symbol, numbered where one repeats: o, h1, h2."""
    total, count = Counter(symbols), Counter[str]()
    labels = []
    for symbol in symbols:
        count[symbol] += 1
        labels.append(symbol.lower() + (str(count[symbol]) if total[symbol] > 1 else ""))
    return tuple(labels)


def check_length_unit(
    structures: Sequence[Any], unit: str | None, path: Path, *, at_rest: bool = False
) -> str:
    """The unit of the positions of an XYZ file, ``"angstrom"`` or ``"bohr"``.

    It is `unit` where the user says one, else what the comment names, else angstrom where the nearest atoms
    are then as far apart as bonds are. DataError where nothing tells it, where the comment contradicts
    the user, or where it squeezes atoms `at_rest`, of which the nearest are bonded.
    """
    named = _named_unit(structures[0].info.get("comment", ""))
    if unit and named and unit != named:
        raise DataError(f"its comment says {named}, you say {unit}; correct the one that is wrong", path=path)
    chosen = unit or named or "angstrom"
    nearest = [_over_radii(atoms).min() if len(atoms) > 1 else 0.0 for atoms in structures]
    distance = float(np.median(nearest)) * length_in_bohr(chosen) / ANGSTROM
    # Too near in angstrom is nearer still in bohr: that is no question of the unit.
    if chosen == "bohr" and distance < _BOND_SQUEEZE and (at_rest or not unit):
        why = "another unit, or no molecule"
    elif not (unit or named) and distance >= _BOND_STRETCH:
        why = "they are in bohr, or the molecule has come apart"
    else:
        return chosen
    raise DataError(
        f"the nearest atoms are {distance:.2f} times as far apart as bonded ones if positions are in {chosen}"
        f": {why}; state --length-unit bohr or angstrom, or write that word in the comment line",
        path=path,
    )


def _named_unit(comment: str) -> str:
    """The unit that a comment names; "from bohr to angstrom" names neither."""
    words = {match[0][:2].lower() for match in _UNIT.finditer(comment)}
    units = {"angstrom" if word in ("an", "\u00e5") else "bohr" for word in words}
    return units.pop() if len(units) == 1 else ""


def _over_radii(atoms: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """Distances of atoms (angstrom) over the sums of their covalent radii; of each pair, in order."""
    from ase.data import covalent_radii

    x, radius = atoms.get_positions(), covalent_radii[atoms.numbers]
    first, second = np.triu_indices(len(x), 1)
    return np.asarray(np.linalg.norm(x[first] - x[second], axis=1) / (radius[first] + radius[second]))


def molecule_table(path: Path, unit: str | None = None) -> dict[str, Any]:
    """What the first structure of an XYZ file says of a molecule, as a table of `Molecule`."""
    atoms = next(read_structures(path), None)
    if atoms is None:
        raise DataError("is not an XYZ file: it holds no atoms", path=path)
    check_end(path, "add a line end")
    unit = check_length_unit([atoms], unit, path, at_rest=True)
    x = atoms.get_positions() * length_in_bohr(unit)
    size = np.linalg.norm(x - x.mean(axis=0), axis=1).max()
    bonded = _over_radii(atoms) * length_in_bohr(unit) / ANGSTROM < _BOND_STRETCH
    pairs = combinations(default_labels(nuclides(atoms)), 2)
    return {
        "name": path.stem,
        "symbols": nuclides(atoms),
        "bonds": [list(pair) for pair, bond in zip(pairs, bonded, strict=True) if bond],
        "equilibrium": {"unit": unit, "positions": atoms.get_positions().tolist()},
        "priors": {
            "equilibrium": {"kind": "displaced", "sigma": 0.15},
            "ball": {"kind": "ball", "radius": float(max(4.0, size)), "minimal_separation": 0.5},
        },
    }


def _frames(file: io.TextIOBase, path: Path) -> Iterator[str]:
    """Yield the text of a structure after the other."""
    while first := file.readline(_MAX_LINE):
        if not first.strip():
            continue
        count = int(first) if re.fullmatch(r"\s*\d{1,9}\s*", first, re.ASCII) else 0
        if not count:
            raise DataError("not an XYZ file: no number of atoms where a structure begins", path=path)
        if count > _MAX_ATOMS:
            raise DataError(f"{count} atoms in a structure; {_MAX_ATOMS} at the most", path=path)
        lines = [first, *(file.readline(_MAX_LINE) for _ in range(count + 1))]
        if not lines[-1]:
            raise DataError(f"a cut XYZ file: a structure of {count} atoms ends too early", path=path)
        if max(map(len, lines)) >= _MAX_LINE:
            raise DataError(f"not an XYZ file: a line of more than {_MAX_LINE} characters", path=path)
        yield "".join(lines)


def _columns(comment: str) -> dict[str, str]:
    """What the comment says of the columns; ASE's defaults hold where it says nothing."""
    if match := _PROPERTIES.search(comment):
        return {"Properties": match[1]}
    if "Properties" in comment:
        raise ValueError("columns that cannot be understood")
    return {}
