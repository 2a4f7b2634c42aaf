"""XYZ files, a structure at a time, trusting no number in them."""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError
from flowcei.storage.files import check_end, check_readable
from flowcei.units import ANGSTROM, length_in_bohr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MAX_ATOMS = 1000
_MAX_LINE = 1 << 16
_MOST_COMMENT = 1000  # characters that are looked at
_BOND_STRETCH = 1.3
"""Of the sum of covalent radii: what counts as a bond.

Bonds of molecules at rest are 0.77 (N2) to 1.24 (F2) of it, so that in bohr, read as angstrom, they are
1.46 and more (radii: B. Cordero et al., Dalton Trans. 2832 (2008), as ASE has them).
"""
_BOND_SQUEEZE = 0.7
"""Of the same sum: bonds at rest are longer; in angstrom, read as bohr, they are 0.66 and less."""
_HEAVY = re.compile(r"^(\s*)([DT])(?=\s)")
# A number before "au" makes it the unit of an energy or a charge: "E = -113.2 au".
_UNIT = re.compile(r"\b(angstroms?|bohr|(?<!\d )(?:a\.u\.|au|atomic units))(?![\w.])|\u00c5", re.IGNORECASE)
_PROPERTIES = re.compile(
    r'(?:^|\s)Properties="?((?:\w{1,40}:[SRIL]:[1-9])(?::\w{1,40}:[SRIL]:[1-9]){0,49})(?=["\s]|$)'
)


def read_structures(path: Path) -> Iterator[Any]:
    r"""Yield the structures of an XYZ file, plain or extended, as `ase.Atoms`.

    Of the comment only the columns that it names are read. Atoms and characters of a line are
    bounded before ASE sees them: it takes memory for as many columns as a comment announces, and
    time for as many atoms.

    Raises:
        UsageError: For a missing file.
        DataError: For what is no XYZ file, or damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "co.xyz"
        >>> _ = path.write_text("2\n\nC 0 0 0\nO 0 0 1.1\n")
        >>> [len(atoms) for atoms in read_structures(path)]
        [2]
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
                    atoms.info = {"comment": lines[1][:_MOST_COMMENT]}
                    names = zip(atoms.get_chemical_symbols(), heavy, strict=False)
                    atoms.new_array("nuclides", np.array([found[2] if found else s for s, found in names]))
                    yield atoms
    except DataError:
        raise
    except Exception as error:  # ASE raises whatever its parsers stumble over
        raise DataError("not an XYZ file, or damaged", path=path) from error


def nuclides(atoms: Any) -> list[str]:  # noqa: ANN401 - ASE carries no types
    """Return the symbols of a structure that `read_structures` read, D and T as they are in the file."""
    return [str(name) for name in atoms.arrays["nuclides"]]


def default_labels(symbols: Sequence[str]) -> tuple[str, ...]:
    """Return a label for each symbol, numbered where one repeats.

    Example:
        >>> default_labels(["O", "H", "H"])
        ('o', 'h1', 'h2')
    """
    total, seen = Counter(symbols), Counter[str]()
    labels = []
    for symbol in symbols:
        seen[symbol] += 1
        labels.append(symbol.lower() + (str(seen[symbol]) if total[symbol] > 1 else ""))
    return tuple(labels)


def check_length_unit(
    structures: Sequence[Any], unit: str | None, path: Path, *, at_rest: bool = False
) -> str:
    """Return the unit of the positions of an XYZ file.

    Args:
        structures: Those that it is told from.
        unit: What the user states, or None.
        path: The file.
        at_rest: Whether nearest atoms are bonded, so that a unit is refused that squeezes them.

    Returns:
        ``"angstrom"`` or ``"bohr"``: what is stated, else what the comment names, else angstrom,
        where the nearest atoms are then as far apart as bonds are.

    Raises:
        DataError: Where the comment contradicts what is stated, or nothing tells the unit.
    """
    if unit is not None:
        length_in_bohr(unit)
    words = _UNIT.finditer(structures[0].info.get("comment", ""))
    names = {"angstrom" if word[0][:2].lower() in ("an", "\u00e5") else "bohr" for word in words}
    named = names.pop() if len(names) == 1 else ""  # "from bohr to angstrom" names neither
    if unit is not None and named and unit != named:
        raise DataError(f"its comment says {named}, you say {unit}; correct the one that is wrong", path=path)
    chosen = unit or named or "angstrom"
    apart = float(np.median([_nearest(atoms) for atoms in structures])) * length_in_bohr(chosen) / ANGSTROM
    # Too near in angstrom is nearer still in bohr: that is no question of the unit.
    too_near = chosen == "bohr" and apart < _BOND_SQUEEZE and (at_rest or not unit)
    if not too_near and (unit or named or apart < _BOND_STRETCH):
        return chosen
    why = "another unit, or no molecule" if too_near else "they are in bohr, or the molecule has come apart"
    what = f"nearest atoms are {apart:.2f} times as far apart as bonded ones if positions are in {chosen}"
    todo = "state --length-unit bohr or angstrom, or write that word in the comment line"
    raise DataError(f"the {what}: {why}; {todo}", path=path)


def _nearest(atoms: Any) -> float:  # noqa: ANN401
    """Return the least distance of two atoms over the sum of their covalent radii, angstrom."""
    from ase.data import covalent_radii

    x, radius = atoms.get_positions(), covalent_radii[atoms.numbers]
    first, second = np.triu_indices(len(x), 1)
    if not len(first):
        return 0.0
    return float((np.linalg.norm(x[first] - x[second], axis=1) / (radius[first] + radius[second])).min())


def molecule_table(path: Path, unit: str | None = None) -> dict[str, Any]:
    """Return what the first structure of an XYZ file says of a molecule, as a table of `Molecule`.

    Args:
        path: The file.
        unit: As of `check_length_unit`.

    Raises:
        UsageError: For a missing file.
        DataError: For what is no XYZ file, or in no unit that can be told.
    """
    from ase.data import covalent_radii

    atoms = next(read_structures(path), None)
    if atoms is None:
        raise DataError("is not an XYZ file: it holds no atoms", path=path)
    check_end(path, "add a line end")
    unit = check_length_unit([atoms], unit, path, at_rest=True)
    x = atoms.get_positions() * length_in_bohr(unit)
    reach = _BOND_STRETCH * covalent_radii[atoms.numbers] * ANGSTROM
    gaps = np.linalg.norm(x[:, None] - x[None], axis=-1)
    labels = default_labels(nuclides(atoms))
    bonds = [
        [labels[i], labels[j]]
        for i in range(len(x))
        for j in range(i + 1, len(x))
        if gaps[i, j] < (reach[i] + reach[j])
    ]
    size = np.linalg.norm(x - x.mean(axis=0), axis=1).max()
    return {
        "name": path.stem,
        "symbols": nuclides(atoms),
        "bonds": bonds,
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
        lines = [first]
        for _ in range(count + 1):
            lines.append(file.readline(_MAX_LINE))
            if not lines[-1]:
                raise DataError(f"a cut XYZ file: a structure of {count} atoms ends too early", path=path)
            if len(lines[-1]) >= _MAX_LINE:
                raise DataError(f"not an XYZ file: a line of more than {_MAX_LINE} characters", path=path)
        yield "".join(lines)


def _columns(comment: str) -> dict[str, str]:
    """Return what the comment says of the columns; ASE's defaults hold where it says nothing."""
    found = _PROPERTIES.search(comment)
    if found:
        return {"Properties": found[1]}
    if "Properties" in comment:
        msg = "columns that cannot be understood"
        raise ValueError(msg)
    return {}
