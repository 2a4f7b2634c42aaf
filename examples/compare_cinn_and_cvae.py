"""Score a flow and a CVAE beside the null models.

python examples/compare_cinn_and_cvae.py [--quick]
"""

from __future__ import annotations

import sys

import flowcei
from flowcei.evaluation.comparison import compare


def main(*, quick: bool = False) -> None:
    """Train both on the same kind of events and print their scores."""
    size = {"epochs": 1, "events": 2_000} if quick else {"epochs": 8, "events": 100_000}
    models = {
        architecture: flowcei.train(
            architecture,
            molecule="ocs",
            schedule=flowcei.Schedule(epochs=size["epochs"]),
            events_per_epoch=size["events"],
            seed=1,
        )
        for architecture in ("cinn", "cvae")
    }
    unseen = flowcei.simulate("ocs", 200 if quick else 4_000, noise="1%", seed=2)
    table = compare(models, unseen, n=100).to_dataframe()
    print(table[["std_mse_mean", "atom_error_mean", "coverage_50", "coverage_90"]])


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
