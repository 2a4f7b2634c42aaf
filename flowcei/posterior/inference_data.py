"""Posterior samples in the layout of ArviZ: groups of an `xarray.DataTree`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import UsageError
from flowcei.posterior.spread import quantities

if TYPE_CHECKING:
    from flowcei.posterior.samples import PosteriorSamples


def to_datatree(samples: PosteriorSamples, *, seed: int = 0) -> Any:  # noqa: ANN401 (xarray is optional)
    """The groups of `PosteriorSamples.to_arviz`.

    Variables of `posterior` have the dimensions chain (one), draw, event: `positions` (bohr), and each bond
    (bohr) and angle (degrees) by its name, of geometries labelled as in `spread`. Draws of
    `posterior_resampled` count alike, those of `posterior` by `weight`.
    """
    try:
        import xarray as xr
    except ImportError as error:
        msg = "to_arviz needs xarray: pip install flowcei[xarray]; or use to_dataframe"
        raise UsageError(msg) from error
    coordinates = {"event": samples.event_id, "ion": list(samples.molecule.labels), "axis": list("xyz")}
    stats = {"lp": samples.log_prob, "assignment": samples.assignment}
    if samples.weights is not None:
        stats |= {"weight": samples.weights.normalised, "log_weight": samples.weights.log_weights}
    drawn = {name: (("chain", "draw", "event"), a.T[None]) for name, a in stats.items() if a is not None}
    constant = {"flags": ("event", samples.flag_bits)} | {
        name: ("event", values) for name, values in samples.columns.items()
    }
    observed = {
        "momenta": (("event", "ion", "axis"), samples.momenta, {"unit": "hbar/bohr"}),
        "sigma": ("event", samples.sigma, {"unit": "hbar/bohr"}),
    }
    groups = {
        "posterior": xr.Dataset(_geometries(samples), coordinates),
        "sample_stats": xr.Dataset(drawn, {"event": samples.event_id}),
        "observed_data": xr.Dataset(observed, coordinates),
        "constant_data": xr.Dataset(constant, {"event": samples.event_id}),
    }
    if samples.weights is not None:
        groups["posterior_resampled"] = xr.Dataset(_geometries(samples.equally_weighted(seed)), coordinates)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {"molecule": samples.molecule.name, "origin": json.dumps(samples.origin)}
    return tree


def _geometries(samples: PosteriorSamples) -> dict[str, Any]:
    """Variables (chain, draw, event, ...) of positions, bonds and angles."""
    x = samples.labelled()
    names, values = quantities(samples.molecule, x)
    dims = ("chain", "draw", "event")
    variables: dict[str, Any] = {
        "positions": ((*dims, "ion", "axis"), np.swapaxes(x, 0, 1)[None], {"unit": "bohr"})
    }
    if samples.build_up is not None:
        variables["build_up"] = (dims, samples.build_up.T[None], {"unit": "fs"})
    return variables | {
        quantity.name: (dims, values[:, :, k].T[None], {"unit": quantity.unit})
        for k, quantity in enumerate(names)
        if quantity.kind != "atom"
    }
