"""Train a flow on OCS and read geometries out of momenta.

python examples/train_and_sample_ocs.py [--quick]
"""

from __future__ import annotations

import sys

import flowcei


def main(*, quick: bool = False) -> None:
    """Train, sample, and print what the first event looked like."""
    size = {"epochs": 1, "events": 2_000} if quick else {"epochs": 10, "events": 100_000}
    model = flowcei.train(
        "cinn",
        molecule="ocs",
        options={"couplings": 8},
        schedule=flowcei.Schedule(epochs=size["epochs"]),
        events_per_epoch=size["events"],
        seed=1,
        on_epoch=lambda r: print(f"epoch {r.epoch}: validation loss {r.validation_loss:.3f}"),
    )

    # Momenta of five events as a detector with 1 % noise would see them.
    events = flowcei.simulate("ocs", 5, noise="1%", seed=2)
    samples = model.sample(events.momenta, 200, noise="1%", seed=3)

    # A flow of one short epoch explains few events within the noise: they are flagged, and shown here.
    table = samples.spread(keep_flagged=quick).to_dataframe()
    first = table[(table["event"] == 0) & (table["kind"] != "atom")]
    print(first.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
