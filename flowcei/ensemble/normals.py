"""Mixtures of normal laws that are sought: their shares, means and widths."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flowcei.ensemble.fitting import maximised, pooled_start, searched
from flowcei.ensemble.mixture import Mixture, mixed
from flowcei.ensemble.prediction import check_ungated, compared
from flowcei.ensemble.uncertainty import check_covered, information, resampled
from flowcei.errors import DataError

if TYPE_CHECKING:
    from flowcei.ensemble.laws import NormalLaw
    from flowcei.ensemble.reduction import Ensemble
    from flowcei.posterior.arrays import Floats
    from flowcei.workers.order import Each

_STEPS = 60  # of the search for starts
_STARTED = 50  # samples of an event by which starts of several normals are judged


def normals(
    ensemble: Ensemble,
    components: int,
    bootstrap: int,
    seed: int,
    like: NormalLaw | None = None,
    *,
    check: bool = True,
    causes: bool = True,
    each: Each = map,
) -> Mixture:
    """Shares of several normal laws, which are sought; also from others, in whose order they are then.

    Raises:
        DataError: Where one normal law is enough.
    """
    check_ungated(ensemble)
    ensemble.check_told()
    chart, data = ensemble.chart, ensemble.weighted
    short = replace(data, z=data.z[:, :_STARTED], log_base=data.log_base[:, :_STARTED])
    starts = []
    for k in np.flatnonzero(~chart.bends):
        start = pooled_start(short, ensemble.weights[:, :_STARTED], chart.bends, components, int(k))
        starts.append(maximised(start, short, chart.images, steps=_STEPS))
    if like is not None:
        with suppress(DataError, np.linalg.LinAlgError):
            starts.append(maximised(like, short, chart.images, steps=_STEPS))
    law, height = searched(max(starts, key=lambda one: one[1])[0], data, chart.images)
    law = law.ordered(like)
    _, alone = searched(pooled_start(data, ensemble.weights, chart.bends, 1), data, chart.images)
    numbers = (components - 1) * (1 + len(chart.bends) * (len(chart.bends) + 3) // 2)
    if height - alone < 0.5 * numbers * np.log(len(data.z)):  # the criterion of Schwarz
        what = f"{components} normal laws are no better than one: log likelihood {height - alone:+.1f}"
        raise DataError(f"{what} for {numbers} numbers more; take --law normal")
    check_covered(chart, law, seed)
    known = information(law, data, ensemble.distinct)
    known.check(law, len(data.z))
    law = law.shifted(-known.bias, law.pairs)
    single = replace(law, share=np.ones(components))

    def log_each(rows: slice) -> Floats:
        return single.components.log_each(data.z[rows].astype(np.float64))

    names = tuple(f"normal-{c + 1}" for c in range(components))
    out = mixed(ensemble, names, data.log_base, log_each, seed)
    laws = resampled(law, data, chart.images, bootstrap, seed, None, each)
    # Shares whose laws are not known are less certain.
    own = known.covariance[2 * law.mean.size : law.widths, 2 * law.mean.size : law.widths]
    error = np.maximum(out.error, np.sqrt(np.append(np.diagonal(own), own.sum())))
    out = replace(out, error=error)
    if len(laws) > 1:
        error = np.maximum(out.bootstrap_error, np.std([one.share for one in laws], axis=0, ddof=1))
        out = replace(out, bootstrap_error=error)
    run = compared(ensemble, partial(chart.geometries, law), seed, causes=causes) if check else None
    return replace(out, law=law, chart=chart, laws=laws, information=known, check=run)
