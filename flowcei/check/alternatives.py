"""What else a run may be: other orders, charges, isotopes, molecules, priors, charges that build up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from typing import TYPE_CHECKING

import numpy as np

from flowcei.check.diagnostic import Cause
from flowcei.errors import FlowceiError
from flowcei.molecules.isotopes import isotope_masses
from flowcei.molecules.molecule import Molecule, built_in_molecules
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.units import DALTON

if TYPE_CHECKING:
    from flowcei.posterior.arrays import Floats

_ALL_ORDERS = 5  # ions: of more only exchanges of two are tried
_SEARCHED = 10  # ions: of more, orders and charges are too many to try
_MOST_CHARGE = 4
_MOST_COMBINATIONS = 256  # of charges: 4 each of four ions, 3 each of five, 2 each of eight
_SAME_MASS = 5e-3  # relative: no isotope is nearer to another, and average masses of light elements are


@dataclass(frozen=True, eq=False)
class Alternative:
    """Another belief of what a run is."""

    cause: Cause  # order, charges, isotopes, molecule or prior
    molecule: Molecule
    prior: GeometryPrior
    order: tuple[int, ...]  # column of the run that holds each of its ions, (N,)


def alternatives_of(molecule: Molecule, prior: GeometryPrior) -> Iterator[Alternative]:
    """Yield what a run of a molecule may be instead, one change at a time."""
    own, searched = tuple(range(len(molecule))), len(molecule) <= _SEARCHED
    todo = "give the ions in the order of the columns: --columns, or a mapping"
    for order in _orders(molecule) if searched else ():
        ions = [molecule.labels[order.index(k)] for k in own]
        message = f"ion order: columns read as {', '.join(molecule.labels)} are {', '.join(ions)}"
        yield Alternative(Cause("order", message, todo, {"columns": " ".join(ions)}), molecule, prior, order)
    for charges in _charges(molecule) if searched else ():
        values = {"charges": charges.tolist()}
        message = f"other charges: {_each(molecule, charges)}"
        cause = Cause("charges", message, "state these charges: --charges", values)
        yield Alternative(cause, replace(molecule, charges=charges), prior, own)
    for names, masses in _isotopes(molecule):
        values = {"isotopes": ",".join(names)}
        todo = f"state them: --isotopes {','.join(names)}"
        cause = Cause("isotopes", f"other isotopes: {', '.join(names)}", todo, values)
        yield Alternative(cause, replace(molecule, masses=masses), prior, own)
    yield from _molecules(molecule)
    todo = "take that prior, and a model trained for it"
    for name, table in molecule.priors.items():
        other = None if table == prior.spec() else _built(molecule, name)
        if other is not None:
            cause = Cause("prior", f"other geometries: those of the prior {name}", todo, {"prior": name})
            yield Alternative(cause, molecule, other, own)


def _each(molecule: Molecule, charges: Iterable[float]) -> str:
    return ", ".join(f"{label} {q:+g}" for label, q in zip(molecule.labels, charges, strict=True))


def _orders(molecule: Molecule) -> Iterator[tuple[int, ...]]:
    """Yield which column each ion may stand in instead; exchanges of like ions are no other order."""
    own, kinds = tuple(range(len(molecule))), molecule.kinds
    exchanges = (tuple({i: j, j: i}.get(k, k) for k in own) for i, j in combinations(own, 2))
    seen = {kinds}
    for order in permutations(own) if len(own) <= _ALL_ORDERS else exchanges:
        # The kinds of the ions in the order of the columns: what tells one order from another.
        arranged = tuple(kinds[order.index(k)] for k in own)
        if arranged not in seen:
            seen.add(arranged)
            yield order


def _charges(molecule: Molecule) -> Iterator[Floats]:
    """Yield other small integer charges; of many ions one at a time."""
    own, n = np.abs(molecule.charges), len(molecule)
    most = next((q for q in range(_MOST_CHARGE, 1, -1) if q**n <= _MOST_COMBINATIONS), 0)
    trials = [np.array(q, float) for q in product(range(1, most + 1), repeat=n)]
    if not most:
        sizes = np.arange(1.0, _MOST_CHARGE + 1)
        trials = [np.full(n, q) for q in sizes]
        trials += [np.where(np.arange(n) == k, q, own) for k, q in product(range(n), sizes)]
    yield from (np.sign(molecule.charges[0]) * q for q in trials if not np.array_equal(q, own))


def _isotopes(molecule: Molecule) -> Iterator[tuple[list[str], Floats]]:
    """Yield names and masses (N,) of other isotopes of one or two elements, each of all its atoms."""
    symbols, elements = np.array(molecule.symbols), dict.fromkeys(molecule.symbols)
    singles = [(symbol, a, mass) for symbol in elements for a, mass in isotope_masses(symbol).items()]
    pairs = [pair for pair in combinations(singles, 2) if pair[0][0] != pair[1][0]]
    for change in [*((single,) for single in singles), *pairs]:
        masses = molecule.masses.copy()
        for symbol, _, mass in change:
            masses[symbols == symbol] = mass * DALTON
        moved = symbols[np.abs(masses / molecule.masses - 1.0) > _SAME_MASS]
        if all(symbol in moved for symbol, _, _ in change):
            yield [f"{number}{symbol}" for symbol, number, _ in change], masses


def _molecules(molecule: Molecule) -> Iterator[Alternative]:
    """Yield the built-in molecules with as many ions, in all orders, with their own charges and these."""
    own = tuple(range(len(molecule)))
    for name in built_in_molecules():
        other = Molecule.load(name)
        if len(other) != len(own) or sorted(other.symbols) == sorted(molecule.symbols):
            continue
        for charges in dict.fromkeys((tuple(other.charges.tolist()), tuple(molecule.charges.tolist()))):
            charged = replace(other, charges=np.array(charges))
            prior = _built(charged, other.default_prior)
            if prior is None:
                continue
            for order in (own, *_orders(charged)):
                ions = ", ".join(charged.symbols[order.index(k)] for k in own)
                message = f"another molecule: {name}, ions in the order {ions}; "
                message += f"charges {_each(charged, charges)}"
                cause = Cause("molecule", message, "give that molecule: --molecule", {"molecule": name})
                yield Alternative(cause, charged, prior, order)


def _built(molecule: Molecule, name: str) -> GeometryPrior | None:
    """Return a prior of a molecule, None for one that cannot be built."""
    try:
        return build_prior(molecule, name)
    except FlowceiError:
        return None
