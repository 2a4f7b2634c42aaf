"""What tests of run folders share: a tiny training, what it leaves, and when two are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from flowcei.storage.modelfile import read_model

TINY = ["--hidden", "8", "--couplings", "2", "--batch", "50", "--seed", "1"]
LINE = ["train", *TINY, "--epochs", "4", "--events", "200", "-o", "run"]
FINISHED = {"model.safetensors", "metrics.csv", "config.toml", "loss.png", "train.log"}


def names_in(folder: str) -> set[str]:
    """Return the names of what is in a folder."""
    return {p.name for p in Path(folder).iterdir()}


def assert_same_runs(one: str, two: str) -> None:
    """Two runs have the same weights and the same metrics, times apart."""
    (card, tensors), (other, expected) = (read_model(Path(run) / "model.safetensors") for run in (one, two))
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)
    assert card.training.validation_loss == other.training.validation_loss
    tables = [pd.read_csv(Path(run) / "metrics.csv") for run in (one, two)]
    pd.testing.assert_frame_equal(*(t.drop(columns=["seconds", "rows_per_second"]) for t in tables))
