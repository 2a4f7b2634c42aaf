"""Tables of modes and of refined samples: one row each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.events.extracolumns import add_columns
from flowcei.events.text import columns
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.modes import VERDICTS, Modes
from flowcei.posterior.refinement import STATUS, Refinement
from flowcei.posterior.spread import quantities

if TYPE_CHECKING:
    from flowcei.posterior.samples import PosteriorSamples

__all__ = ["labelled_modes", "modes_table", "refined_table"]


def modes_table(modes: Modes, samples: PosteriorSamples) -> pd.DataFrame:
    """Return a row for each mode.

    Args:
        modes: Of the samples.
        samples: Their molecule, and the number of each event.

    Returns:
        Number of the event and of the mode, its probability, how it was found, its bonds (bohr)
        and angles (degrees) with the deviations of the local (Laplace) posterior, its
        extra columns of its event, and its positions (bohr, in the frame of the momenta), identical ions
        labelled by the geometry.

    Example:
        >>> import flowcei
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
        >>> modes_table(s.modes(), s)[["event", "mode", "probability", "verdict"]].values.tolist()
        [[0, 1, 1.0, 'unique'], [1, 1, 1.0, 'unique']]
    """
    table: dict[str, np.ndarray] = {
        "event": samples.ids[modes.event],
        "mode": modes.number,
        "probability": modes.probability,
        "verdict": np.array(VERDICTS)[modes.verdict[modes.event]],
        "status": np.array(STATUS)[modes.status],
        "source": modes.source[modes.event],
        "laplace": modes.laplace,
        "starts": modes.starts,
        "error": modes.error,
        "chi_squared": modes.chi_squared,
    }
    modes = labelled_modes(modes, samples)
    names, values = quantities(samples.molecule, modes.positions)
    deviations = _deviations(modes, samples)
    for k, quantity in enumerate(names):
        if quantity.kind != "atom":
            table[quantity.name] = values[:, k]
            table[f"sd_{quantity.name}"] = deviations[:, k]
    flat = modes.positions.reshape(len(modes), -1)
    table = add_columns(table, samples.columns, modes.event)
    return pd.DataFrame(table | dict(zip(columns(samples.molecule.labels), flat.T, strict=True)))


def labelled_modes(modes: Modes, samples: PosteriorSamples) -> Modes:
    """Return modes with identical ions labelled by the geometry: see `flowcei.posterior.labels`."""
    momenta, x = samples.momenta[modes.event], modes.positions[:, None]
    order = label_by_geometry(samples.molecule, momenta, x, samples.known_prior())
    places = (3 * order[:, 0, :, None] + np.arange(3)).reshape(len(modes), 3 * len(samples.molecule))
    rows = np.arange(len(modes))[:, None, None]
    covariance = modes.covariance[rows, places[:, :, None], places[:, None]]
    return replace(modes, positions=relabel(x, order)[:, 0], covariance=covariance)


def _deviations(modes: Modes, samples: PosteriorSamples) -> np.ndarray:
    """Return the local standard deviation of every quantity of `quantities`, (M, Q)."""
    x, step = modes.positions, 1e-5
    shifts = step * np.eye(x[0].size).reshape(-1, *x.shape[1:])
    ends = [quantities(samples.molecule, x[:, None] + sign * shifts)[1] for sign in (1.0, -1.0)]
    slope = (ends[0] - ends[1]) / (2.0 * step)  # (M, 3N, Q)
    with np.errstate(invalid="ignore"):
        variance = np.einsum("mdq,mde,meq->mq", slope, modes.covariance, slope)
        return np.sqrt(variance)


def refined_table(refinement: Refinement, samples: PosteriorSamples) -> pd.DataFrame:
    """Return a row for each sample: its status, |dp| / |p|, chi squared and refined positions.

    Positions in bohr, in the frame of the momenta, identical ions labelled by the geometry.
    """
    e, n = refinement.status.shape
    table: dict[str, np.ndarray] = {
        "event": np.repeat(samples.ids, n),
        "sample": np.tile(np.arange(n), e),
        "status": np.array(STATUS)[refinement.status.reshape(-1)],
        "error": refinement.error.reshape(-1),
        "chi_squared": refinement.chi_squared.reshape(-1),
    }
    flat = samples.labelled(refinement.positions).reshape(e * n, -1)
    table |= dict(zip(columns(samples.molecule.labels), flat.T, strict=True))
    return pd.DataFrame(add_columns(table, samples.columns, np.repeat(np.arange(e), n)))
