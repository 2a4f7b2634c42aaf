"""What the script of the page reads: structures that turn, and events to be looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.molecules.isotopes import HYDROGENS
from flowcei.physics.explosion import kinetic_energy
from flowcei.posterior.flags import in_words
from flowcei.report.sections import unit_of
from flowcei.units import ANGSTROM, ELECTRONVOLT

if TYPE_CHECKING:
    from flowcei.report.sections import Material

_LISTED = 20_000  # events that can be searched by number
_STICKS = 25  # samples drawn as sticks in the structure that turns


def viewer_data(material: Material) -> list[dict[str, Any]]:
    """Of each card: its title, mean geometry, samples and modes, as XYZ in angstrom."""
    molecule, trusted, modes = material.samples.molecule, material.trusted, material.modes.labelled()
    symbols = ["H" if symbol in HYDROGENS else symbol for symbol in molecule.symbols]

    def xyz(positions: NDArray[Any]) -> str:
        rows = zip(symbols, positions / ANGSTROM, strict=True)
        return "\n".join([str(len(symbols)), "", *(f"{s} {x[0]:.4f} {x[1]:.4f} {x[2]:.4f}" for s, x in rows)])

    cards = []
    for why, row in material.cards.items():
        samples = trusted[row].equally_weighted().labelled()[0]
        cards.append(
            {
                "title": f"{why}: event {trusted.event_id[row]}",
                "mean": xyz(samples.mean(axis=0)),
                "samples": [xyz(x) for x in samples[:_STICKS]],
                "modes": [xyz(modes.positions[k]) for k in modes.of(material.searched_row(row))],
            }
        )
    return cards


def search_data(material: Material) -> dict[str, Any]:
    """Columns and rows of the events that can be searched by number: of 20,000 at the most."""
    s, spread = material.samples[:_LISTED], material.spread
    internal = [k for k, quantity in enumerate(spread.names) if quantity.kind != "atom"]
    columns = [f"{spread.names[k].name} ({unit_of(spread.names[k])[0]})" for k in internal]
    scale = np.array([unit_of(spread.names[k])[1] for k in internal])
    percentiles = np.stack([spread.statistics[name][internal].T for name in ("p50", "p16", "p84")], axis=1)
    cells = {
        number: [f"{middle:.3f} [{low:.3f}, {high:.3f}]" for middle, low, high in table.T]
        for number, table in zip(material.trusted.event_id.tolist(), percentiles / scale, strict=True)
    }
    energies = (kinetic_energy(s.momenta, s.molecule.masses) / ELECTRONVOLT).tolist()
    known = zip(s.event_id.tolist(), energies, s.flag_bits.tolist(), strict=True)
    rows = [[number, f"{ker:.1f}", in_words(flags), *cells.get(number, [])] for number, ker, flags in known]
    return {"columns": ["event", "KER (eV)", "flags", *columns], "rows": rows}
