"""Three geometries of OCS with the same momenta: does a flow find them all?

python examples/three_geometries.py [--quick]

A flow is trained on a prior that allows all three (two minutes). From the momenta of one of
them it draws 200 samples, for each of 20 seeds, and the exact simulator refines them.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

import flowcei
from flowcei.posterior.gathering import find_modes
from flowcei.posterior.laplace import ModeRules
from flowcei.units import ANGSTROM, DALTON

TRIPLE = (  # r(CO), r(CS) in angstrom, angle in degrees; charges 2, masses of the isotopes below
    (1.8949, 1.2990, 160.601),
    (2.4867739876466066, 1.075257818100003, 164.5746329841263),
    (0.9828330292144174, 2.931679982361075, 168.3020480061613),
)
ISOTOPES = np.array([12.0, 15.9949146, 31.9720707]) * DALTON


def shape(positions: np.ndarray) -> np.ndarray:
    """Return the distances CO, CS and OS, (..., 3), bohr."""
    return np.stack([np.linalg.norm(positions[..., i, :] - positions[..., j, :], axis=-1)
                     for i, j in ((0, 1), (0, 2), (1, 2))], axis=-1)  # fmt: skip


def main(*, quick: bool = False) -> None:
    """Train, sample, refine; print what was found."""
    ocs = replace(flowcei.Molecule.load("ocs"), name="ocs-isotopes", masses=ISOTOPES)
    model = flowcei.train(
        molecule=ocs,
        prior="wide",
        noise="1%",
        options={"coupling": "spline", "couplings": 6, "hidden": 64, "context": 24},
        schedule=flowcei.Schedule(epochs=1 if quick else 30, learning_rate=2e-3),
        events_per_epoch=2_000 if quick else 50_000,
        seed=1,
    )
    known = []
    for co, cs, angle in TRIPLE:
        a = np.radians(angle)
        known.append([[0, 0, 0], [co, 0, 0], [cs * np.cos(a), cs * np.sin(a), 0]])
    places = np.array(known) * ANGSTROM
    momenta = flowcei.asymptotic_momenta(places[0], ocs.masses, ocs.charges, accuracy=1e-10)
    complete, seeds = 0, 2 if quick else 20
    for seed in range(seeds):
        samples = model.sample(momenta, 200, noise="1%", seed=seed, weigh=True)
        # At 1 % the noise does not tell the first two apart: samples.modes() counts them as one.
        modes = find_modes(
            samples.refine(keep_flagged=True), samples.likelihood, rules=ModeRules(resolve=False)
        )
        away = np.abs(shape(modes.positions)[:, None] - shape(places)).max(axis=2).min(axis=0)
        complete += bool((away < 1e-6).all())
        print(f"seed {seed}: {len(modes)} geometries, probabilities {modes.probability.round(2).tolist()}")
    print(f"all three, to 1e-6 bohr, in {complete} of {seeds} seeds")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
