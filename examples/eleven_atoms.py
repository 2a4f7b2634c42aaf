#!/usr/bin/env python3
"""Image the zero-point motion of all 11 atoms of 2-iodopyridine from simulated events that lack ions.

    python examples/eleven_atoms.py [--events 50000] [--seed 1] [-o eleven_atoms] [--quick]

Eleven singly charged ions, momenta known to 1 %, each ion detected with a chance of 0.6: events that lack up
to three are kept, and most lack three. Molecules vibrate at 0 K; the search begins with a law of 300 K. Which
of the carbon and of the hydrogen ions is which is taken as known. Writes the law of the 27 modes (law.h5),
their widths (table.csv) and a picture of their correlations. 5,000 events take 150 s of CPU time, and
50,000 some 25 minutes of one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import flowcei
from flowcei.physics.priors import build_prior
from flowcei.plot.style import save

MOLECULE = flowcei.Molecule.load("iodopyridine")
COLD = MOLECULE.prior_table("equilibrium")
WARM = COLD | {"temperature": 300.0}
EXPERIMENT = flowcei.Experiment(noise="1%", spread=1.0, efficiency=0.6)


def main() -> None:
    """Simulate, find the law, compare it with the truth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("eleven_atoms"))
    parser.add_argument("--quick", action="store_true", help="40 events, the law of one mode")
    given = parser.parse_args()
    names = ["mode-1"] if given.quick else []
    count = 40 if given.quick else given.events
    how = {"experiment": EXPERIMENT, "missing": 3, "seed": given.seed}
    events = flowcei.simulate(MOLECULE, count, prior=COLD, **how)
    law = flowcei.vibrational_law(events, names, prior=WARM, experiment=EXPERIMENT, seed=1)

    given.output.mkdir(exist_ok=True)
    law.write(given.output / "law.h5", overwrite=True)
    if not given.quick:
        save(law.plot("correlation"), given.output / "correlation.png", overwrite=True)
    # Coordinates are in deviations at 300 K; the truth is that of the events.
    table = law.to_dataframe()[["quantity", "blur", "mean", "mean_error", "sd", "sd_error"]]
    truth = build_prior(MOLECULE, WARM).normal_coordinates(events.positions)[0][:, : len(table)]
    table["truth"] = truth.std(axis=0)
    table["sd_over_truth"] = table["sd"] / table["truth"]
    table.to_csv(given.output / "table.csv", index=False)
    print(table.round(3).to_string(index=False))
    worst = abs(table["sd_over_truth"] - 1).max()
    print(f"{law.events} events, {law.left_out} left out; widths within {worst:.1%}")
    away = (table["mean"] - truth.mean(axis=0)) / table["truth"]
    print(f"means within {abs(away).max():.3f} deviations")
    if not given.quick:
        pairs, known = law.correlations(), np.corrcoef(truth.T)[np.triu_indices(len(table), 1)]
        off = pairs["correlation"] - known
        print(
            f"correlations within {abs(off).max():.3f} of those of the events, which have none beyond chance"
        )
        each = {"means": away * table["truth"] / table["mean_error"], "correlations": off / pairs["error"]}
        each["widths"] = (table["sd"] - table["truth"]) / table["sd_error"]
        print({name: f"{np.sqrt((x**2).mean()):.2f} of their errors away (rms)" for name, x in each.items()})


if __name__ == "__main__":
    main()
