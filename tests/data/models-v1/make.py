"""Make tiny model files of every architecture, and what they answer.

    PYTHONPATH=. python tests/data/models-v1/make.py FOLDER

The files beside this script were made by it with flowcei 0.1.0 before its model files had
format 2. They are never made again: see README.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flowcei

FLOW = {"couplings": 2, "hidden": 8, "context": 4}
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "cinn-glow": ("cinn", "ocs", FLOW, "recoil"),
    "cinn-spline": ("cinn", "ocs", FLOW | {"coupling": "spline", "bins": 4}, "recoil"),
    "cinn-ch2o": ("cinn", "ch2o", FLOW, "recoil"),
    "mlp-raw": ("mlp", "ocs", {"hidden": 8}, "raw"),
    "latent-cinn": ("latent-cinn", "ocs", FLOW | {"latent": 3}, "recoil"),
    "cvae": ("cvae", "ocs", {"latent": 3, "hidden": 8, "depth": 2}, "recoil"),
    "ae-cvae": ("ae-cvae", "ocs", {"latent": 3, "hidden": 8, "depth": 2}, "recoil"),
    "mlp": ("mlp", "ocs", {"hidden": 8}, "recoil"),
    "solver": ("solver", "ocs", {"starts": 3, "steps": 10}, "recoil"),
    "nearest": ("nearest", "ocs", {}, "recoil"),
    "mean": ("mean", "ocs", {}, "recoil"),
    "marginal": ("marginal", "ocs", {}, "recoil"),
}
"""Name of the file -> architecture, molecule, options, frame."""

EVENTS, SAMPLES, SEED = 200, 64, 2


def made(name: str) -> flowcei.Reconstructor:
    """Return a model, trained for seconds."""
    architecture, molecule, options, frame = MODELS[name]
    given: dict[str, Any] = {"molecule": molecule, "events_per_epoch": EVENTS}
    if frame == "raw":
        given = {"data": flowcei.simulate(molecule, EVENTS, noise="1%", seed=3), "frame": frame}
    schedule = flowcei.Schedule(epochs=100, batch=100, learning_rate=5e-3)
    return flowcei.train(architecture, options=options, schedule=schedule, seed=7, **given)


def answers(model: flowcei.Reconstructor) -> dict[str, Any]:
    """Return what a model says of three events: densities of two geometries, means of samples."""
    events = flowcei.simulate(model.molecule.name, 3, noise="1%", seed=5)
    assert events.positions is not None
    x = np.stack([events.positions, 1.02 * events.positions], axis=1)
    drawn = model.sample(events.momenta, SAMPLES, noise="1%", seed=SEED)
    found = {
        "molecule": model.molecule.name,
        "momenta": events.momenta.tolist(),
        "positions": x.tolist(),
        "mean": drawn.positions.mean(axis=1, dtype=np.float64).tolist(),
    }
    if model.network.has_density:
        found["log_prob"] = model.log_prob(x, events.momenta, noise="1%").tolist()
    elif hasattr(model.network, "iwae_bound"):
        found["log_prob_bound"] = model.log_prob(x, events.momenta, noise="1%", draws=8).tolist()
    return found


def main() -> None:
    """Write all of it into a folder."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    said = {}
    for name in MODELS:
        path = folder / f"{name}.safetensors"
        made(name).save(path)
        said[name] = answers(flowcei.load(path))
    (folder / "answers.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
