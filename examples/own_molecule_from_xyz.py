"""Use a molecule of your own, from an XYZ file.

python examples/own_molecule_from_xyz.py [--quick]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import flowcei

FORMIC_ACID = """5
formic acid, angstrom
C  0.000  0.420  0.000
O  1.140  0.720  0.000
O -1.020  1.300  0.000
H -0.380 -0.620  0.000
H -0.640  2.190  0.000
"""


def main(*, quick: bool = False) -> None:
    """Read the molecule, train on it, and print the spread of its bonds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "formic_acid.xyz"
        path.write_text(FORMIC_ACID)
        molecule = flowcei.Molecule.load(path)
    print(f"{molecule.name}: ions {', '.join(molecule.labels)}, each of charge +1")

    # Every atom up to about 0.15 bohr from equilibrium; see docs/priors-and-noise.md.
    size = {"epochs": 1, "events": 2_000} if quick else {"epochs": 10, "events": 50_000}
    model = flowcei.train(
        "cinn",
        molecule=molecule,
        prior="equilibrium",
        noise="1%",
        schedule=flowcei.Schedule(epochs=size["epochs"]),
        events_per_epoch=size["events"],
        seed=1,
    )
    events = flowcei.simulate(molecule, 100, noise="1%", seed=2)
    # Events that no sample explains are left out; a flow of one short epoch explains none.
    overall = model.sample(events, 100, seed=3).spread(keep_flagged=quick).overall()
    bonds = overall[overall["kind"] == "bond"]
    print(bonds[["quantity", "unit", "mean", "sd", "typical_sd"]].to_string(index=False))


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
