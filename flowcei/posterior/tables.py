"""Tables of modes and of refined samples: one row each."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flowcei.events.extracolumns import add_columns
from flowcei.events.extracolumns import component_names as columns
from flowcei.experiment.likelihood import nonfinite_allowed
from flowcei.posterior.covariance import correlated
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.modes import VERDICTS, Modes
from flowcei.posterior.refinement import STALLED, STATUS, Refinement
from flowcei.posterior.spread import quantities

if TYPE_CHECKING:
    from flowcei.posterior.samples import PosteriorSamples


def modes_table(modes: Modes, samples: PosteriorSamples) -> pd.DataFrame:
    """Return a row for each mode.

    Args:
        modes: Of the samples.
        samples: Their molecule, and the number of each event.

    Returns:
        Number of the event and of the mode, its probability, how it was found, its bonds (bohr)
        and angles (degrees) with the deviations of the local posterior and the correlations of
        each two of them (`sd_c-o`, `corr_c-o_c-s`), extra columns of its event, and its positions
        (bohr, in the frame of the momenta), identical ions labelled by the geometry. A nearest miss
        (`stalled`) has no deviation: NaN.

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
    covariance = _covariances(modes, samples)
    deviations, correlation = correlated(covariance)
    internal = [k for k, quantity in enumerate(names) if quantity.kind != "atom"]
    for k in internal:
        table[names[k].name] = values[:, k]
        table[f"sd_{names[k].name}"] = deviations[:, k]
    for i, j in combinations(internal, 2):
        table[f"corr_{names[i].name}_{names[j].name}"] = correlation[:, i, j]
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


@nonfinite_allowed
def _covariances(modes: Modes, samples: PosteriorSamples) -> np.ndarray:
    """Return the local covariance of all `quantities`, (M, Q, Q), by their derivative; NaN of a near miss."""
    x, step = modes.positions, 1e-5
    size = 3 * x.shape[1]
    shifts = step * np.eye(size).reshape(size, -1, 3)
    ends = [quantities(samples.molecule, x[:, None] + sign * shifts)[1] for sign in (1.0, -1.0)]
    slope = (ends[0] - ends[1]) / (2.0 * step)  # (M, 3N, Q)
    covariance = np.einsum("mdq,mde,mer->mqr", slope, modes.covariance, slope)
    # Where nothing meets the momenta the derivative says how flat the miss is, not how sure the geometry.
    covariance[modes.status == STALLED] = np.nan
    return np.asarray(covariance)


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
