"""Models side by side on the same events, with the null models beside them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.errors import DataError
from flowcei.evaluation.metrics import score
from flowcei.evaluation.nulls import NULL_MODELS
from flowcei.fitting import split_rows
from flowcei.posterior.spread import in_recoil_frame

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.models.interface import Latent
    from flowcei.physics.detector import Noise
    from flowcei.reconstructor import Reconstructor

__all__ = ["compare", "unseen"]

_MIN_EVENTS = 10


def compare(
    models: dict[str, Reconstructor],
    events: Events,
    *,
    n: int = 100,
    noise: Noise | str | None = None,
    latent: Latent = "prior",
    seed: int = 0,
) -> pd.DataFrame:
    """Score models and null models on events whose positions are known.

    Args:
        models: Name in the table -> model.
        events: With positions; those that a model may have seen in training are for the
            caller to leave out, with `unseen`.
        n: Samples an event.
        noise: As for `Reconstructor.sample`.
        latent: As for `Reconstructor.sample`.
        seed: Of samples and null models.

    Returns:
        A row per model, the null models last; columns as the fields of `Scores`.

    Raises:
        DataError: For events without positions, or too few.
        UsageError: For a model of another molecule.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 50, noise="1%", seed=3)
        >>> table = compare({"bundled": flowcei.load()}, events, n=20)
        >>> list(table.index)
        ['bundled', 'mean', 'marginal']
    """
    if events.positions is None:
        msg = "the data have momenta only; a comparison needs the true positions"
        raise DataError(msg)
    if len(events) < _MIN_EVENTS:
        msg = f"{len(events)} events are too few to compare on; {_MIN_EVENTS} at the least"
        raise DataError(msg)
    molecule = events.molecule
    truth = in_recoil_frame(molecule, events.momenta, events.positions[:, None])[:, 0]
    rows = {}
    for name, model in models.items():
        drawn = model.sample(events, n, noise=noise, latent=latent, seed=seed)
        turned = in_recoil_frame(molecule, events.momenta, drawn.positions)
        rows[name] = asdict(score(truth, turned))
    for name, answer in NULL_MODELS.items():
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
        rows[name] = asdict(score(truth, answer(truth, n, rng)))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def unseen(model: Reconstructor, events: Events) -> Events:
    """Return the events a model did not see in training.

    A model trained on a file remembers a fingerprint of it and how it was split: of that
    file only the test rows are returned, of any other events all.
    """
    data = model.card.get("data")
    if not data or data["digest"] != events.digest():
        return events
    return events[np.sort(split_rows(len(events), data["split_seed"])[2])]
