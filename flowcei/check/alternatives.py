"""What else a run may be: other orders of the ions, charges, isotopes, molecules, priors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import FlowceiError
from flowcei.molecules.isotopes import isotope_masses
from flowcei.molecules.molecule import Molecule, built_in_molecules
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.units import DALTON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_ALL_ORDERS = 5  # ions: of more only exchanges of two are tried
_SEARCHED = 10  # ions: of more, orders and charges are too many to try
_MOST_CHARGE = 4
_MOST_COMBINATIONS = 256  # of charges: 4 each of four ions, 3 each of five, 2 each of eight

_SAME_MASS = 5e-3  # relative: no isotope is nearer to another, and average masses of light elements are


@dataclass(frozen=True, eq=False)
class Alternative:
    """Another belief of what a run is."""

    kind: str  # of the cause: order, charges, isotopes, molecule or prior
    what: str
    molecule: Molecule
    prior: GeometryPrior
    order: tuple[int, ...]  # column of the run that holds each of its ions, (N,)
    values: dict[str, Any]  # the numbers of `what`


def alternatives_of(molecule: Molecule, prior: GeometryPrior) -> Iterator[Alternative]:
    """Yield what a run of a molecule may be instead, one change at a time."""
    own = tuple(range(len(molecule)))
    for order in _orders(molecule) if len(molecule) <= _SEARCHED else ():
        names = ", ".join(molecule.labels[order.index(k)] for k in own)
        what = f"ion order: columns read as {', '.join(molecule.labels)} are {names}"
        yield Alternative("order", what, molecule, prior, order, {"columns": names.replace(",", "")})
    for charges in _charges(molecule) if len(molecule) <= _SEARCHED else ():
        what = "other charges: " + _each(molecule, [f"{q:+g}" for q in charges])
        other = replace(molecule, charges=charges)
        yield Alternative("charges", what, other, prior, own, {"charges": charges.tolist()})
    yield from _isotopes(molecule, prior)
    yield from _molecules(molecule)
    for name, table in molecule.priors.items():
        if table == prior.spec():
            continue
        other_prior = _built(molecule, name)
        if other_prior is not None:
            what = f"other geometries: those of the prior {name}"
            yield Alternative("prior", what, molecule, other_prior, own, {"prior": name})


def _each(molecule: Molecule, values: list[str]) -> str:
    return ", ".join(f"{label} {value}" for label, value in zip(molecule.labels, values, strict=True))


def _orders(molecule: Molecule) -> Iterator[tuple[int, ...]]:
    """Yield which column each ion may stand in instead; exchanges of like ions are no other order."""
    n, kinds = len(molecule), molecule.kinds
    seen = {kinds}
    if n <= _ALL_ORDERS:
        orders: list[tuple[int, ...]] = list(permutations(range(n)))
    else:
        orders = []
        for i, j in combinations(range(n), 2):
            exchanged = {i: j, j: i}
            orders.append(tuple(exchanged.get(k, k) for k in range(n)))
    for order in orders:
        # The kinds of the ions in the order of the columns: what tells one order from another.
        arranged = tuple(kinds[order.index(k)] for k in range(n))
        if arranged not in seen:
            seen.add(arranged)
            yield order


def _charges(molecule: Molecule) -> Iterator[NDArray[np.float64]]:
    """Yield other small integer charges; of many ions one at a time."""
    own, n = molecule.charges, len(molecule)
    sign = np.sign(own[0])
    most = next((q for q in range(_MOST_CHARGE, 1, -1) if q**n <= _MOST_COMBINATIONS), 0)
    if most:
        trials = [sign * np.array(q, dtype=np.float64) for q in product(range(1, most + 1), repeat=n)]
    else:
        trials = [sign * np.full(n, float(q)) for q in range(1, _MOST_CHARGE + 1)]
        for k, q in product(range(n), range(1, _MOST_CHARGE + 1)):
            trials.append(np.where(np.arange(n) == k, sign * q, own))
    yield from (charges for charges in trials if not np.array_equal(charges, own))


def _isotopes(molecule: Molecule, prior: GeometryPrior) -> Iterator[Alternative]:
    """Yield other isotopes of one or two elements, each of all its atoms."""
    masses_of = {symbol: isotope_masses(symbol) for symbol in dict.fromkeys(molecule.symbols)}
    changes = [((element, number),) for element, masses in masses_of.items() for number in masses]
    pairs = [(a[0], b[0]) for a, b in combinations(changes, 2) if a[0][0] != b[0][0]]
    for change in [*changes, *pairs]:
        masses = molecule.masses.copy()
        for element, number in change:
            here = np.array([symbol == element for symbol in molecule.symbols])
            masses[here] = masses_of[element][number] * DALTON
        moved = np.abs(masses / molecule.masses - 1.0) > _SAME_MASS
        if all(
            any(moved[k] for k, s in enumerate(molecule.symbols) if s == element) for element, _ in change
        ):
            names = ", ".join(f"{number}{element}" for element, number in change)
            other = replace(molecule, masses=masses)
            own = tuple(range(len(molecule)))
            what = f"other isotopes: {names}"
            yield Alternative("isotopes", what, other, prior, own, {"isotopes": names.replace(" ", "")})


def _molecules(molecule: Molecule) -> Iterator[Alternative]:
    """Yield the built-in molecules with as many ions, in all orders, with their own charges and these."""
    n = len(molecule)
    for name in built_in_molecules():
        other = Molecule.load(name)
        if len(other) != n or sorted(other.symbols) == sorted(molecule.symbols):
            continue
        for charges in dict.fromkeys((tuple(other.charges.tolist()), tuple(molecule.charges.tolist()))):
            charged = replace(other, charges=np.array(charges))
            prior = _built(charged, other.default_prior)
            if prior is None:
                continue
            for order in [tuple(range(n)), *_orders(charged)]:
                ions = ", ".join(charged.symbols[order.index(k)] for k in range(n))
                what = f"another molecule: {name}, ions in the order {ions}; "
                what += f"charges {_each(charged, [f'{q:+g}' for q in charges])}"
                yield Alternative("molecule", what, charged, prior, order, {"molecule": name})


def _built(molecule: Molecule, name: str) -> GeometryPrior | None:
    """Return a prior of a molecule, None for one that cannot be built."""
    try:
        return build_prior(molecule, name)
    except FlowceiError:
        return None
