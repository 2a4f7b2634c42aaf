"""`flowcei molecules`, and what `flowcei info` says of a molecule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flowcei.cli import options
from flowcei.cli.streams import show, show_json

if TYPE_CHECKING:
    from flowcei.molecules.molecule import Molecule


@click.command()
@options.json_option()
def molecules(*, as_json: bool) -> None:
    """List the built-in molecules: ions, their charges and masses, priors (the default first)."""
    from flowcei.molecules.molecule import Molecule, built_in_molecules

    table = {name: molecule_facts(Molecule.load(name)) for name in built_in_molecules()}
    if as_json:
        show_json(table)
        return
    for name, facts in table.items():
        show(f"{name:12s} {facts['ions']}; priors {', '.join(facts['priors'])}")


def molecule_facts(molecule: Molecule) -> dict[str, Any]:
    """What a molecule is, with the bonds and angles of its equilibrium, angstrom and degrees."""
    import numpy as np

    from flowcei.molecules.isotopes import described_ions
    from flowcei.units import ANGSTROM

    x, labels = molecule.equilibrium / ANGSTROM, molecule.labels
    shape = {
        f"{labels[i]}-{labels[j]} (angstrom)": float(np.linalg.norm(x[i] - x[j])) for i, j in molecule.bonds
    }
    for i, vertex, j in molecule.angles:
        a, b = x[i] - x[vertex], x[j] - x[vertex]
        angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))
        shape[f"{labels[i]}-{labels[vertex]}-{labels[j]} (deg)"] = float(angle)
    priors = sorted(molecule.priors, key=lambda name: name != molecule.default_prior)
    equilibrium = {name: round(value, 4) for name, value in shape.items()}
    return {"ions": described_ions(molecule), "priors": priors, "equilibrium": equilibrium}
