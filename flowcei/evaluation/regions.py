"""Where a posterior is right: ranks by regions of the kinetic energy and of the angle between momenta.

A posterior that is too low in one place and too high in another is right on average over the prior. The ranks
of a right one are uniform among any events that are chosen by their momenta alone.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import binomtest

from flowcei.evaluation.verdicts import RULES, CalibrationRules, Ranks, Verdict, rank_shape
from flowcei.experiment.likelihood import centred_momenta
from flowcei.physics.explosion import kinetic_energy
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule

_THIRDS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
# Of OCS `broad` 12 % are straighter than 165 degrees: in the third with the largest angles their
# efficiency of 0.14 would pass for 0.31.
_TENTHS = ((0.0, 0.1), (0.9, 1.0))
_CENTRAL = 0.5  # the interval that is counted: its coverage moves most with a bias or a wrong width


class Region(NamedTuple):
    """What events (E,) have in common by their momenta, and which they are."""

    name: str
    events: NDArray[np.bool_]


def regions_of(
    molecule: Molecule, momenta: NDArray[np.float64], rules: CalibrationRules = RULES
) -> list[Region]:
    """Return the regions of events (E, N, 3), hbar / bohr, that have enough events to be judged."""
    p = centred_momenta(momenta, molecule.masses)
    regions = energies = _bands("KER", kinetic_energy(p, molecule.masses) / ELECTRONVOLT, "eV")
    if len(molecule) > 2:  # two momenta are opposite
        # The two largest, of whatever ions: no label of identical ions matters.
        size = np.linalg.norm(p, axis=2)
        a, b = np.moveaxis(np.take_along_axis(p, np.argsort(-size, axis=1)[:, :2, None], axis=1), 1, 0)
        angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))
        angles = _bands("angle of momenta", angle, "deg")
        pairs = itertools.product(energies[: len(_THIRDS)], angles[: len(_THIRDS)])
        both = [Region(f"{k.name} and {j.name}", k.events & j.events) for k, j in pairs]
        regions = [*energies, *angles, *both]
    return [region for region in regions if region.events.sum() >= rules.region_events]


def _bands(name: str, values: NDArray[np.float64], unit: str) -> list[Region]:
    """Return thirds, then outer tenths."""
    regions = []
    for low, high in (*_THIRDS, *_TENTHS):
        left, right = np.quantile(values, (low, high))
        text = f"of {left:.3g} to {right:.3g}"
        if low == 0.0 or high == 1.0:
            text = f"below {right:.3g}" if low == 0.0 else f"above {left:.3g}"
        inside = ((values >= left) | (low == 0.0)) & ((values < right) | (high == 1.0))
        regions.append(Region(f"{name} {text} {unit}", inside))
    return regions


def regions_table(ranks: Ranks, errors: NDArray[np.float64], regions: list[Region]) -> pd.DataFrame:
    """Return a row for each region and quantity, from ranks and errors (posterior mean less truth) (E, Q).

    `events` in it, `coverage_50` of the central half, `rank` and `error`, the means of ranks and errors, and
    `p`: for a right posterior, of mean rank and coverage, not corrected.
    """
    rows = []
    for region in regions:
        count = int(region.events.sum())
        for name, values, error in zip(
            ranks.names, ranks.values[region.events].T, errors[region.events].T, strict=True
        ):
            inside = int((np.abs(2.0 * values - 1.0) <= _CENTRAL).sum())
            above = (values.mean() - 0.5) * np.sqrt(12.0 * count)
            p = 2.0 * min(2.0 * float(ndtr(-abs(above))), binomtest(inside, count, _CENTRAL).pvalue)
            rows.append((region.name, name, count, inside / count, values.mean(), error.mean(), min(p, 1.0)))
    columns = ["region", "quantity", "events", "coverage_50", "rank", "error", "p"]
    return pd.DataFrame(rows, columns=columns)


def check_regions(
    ranks: Ranks,
    table: pd.DataFrame,
    regions: list[Region],
    units: dict[str, str],
    rules: CalibrationRules = RULES,
) -> list[Verdict]:
    """Judge each quantity, with its unit, by its worst region in the table."""
    events_of = dict(regions)
    verdicts = []
    for name, values in zip(ranks.names, ranks.values.T, strict=True):
        worst = table[table["quantity"] == name].sort_values("p").iloc[0]
        p = min(1.0, float(worst["p"]) * len(table))
        share = float(worst["coverage_50"])
        text = (
            f"with {worst['region']} ({worst['events']} events) the central 50 % hold {100.0 * share:.0f} %"
        )
        passed = p >= rules.level
        if passed:
            text = f"as everywhere; the worst: {text}"
        else:
            shape = rank_shape(values[events_of[worst["region"]]], rules) or "wrong in shape"
            text = f"{text}: {shape}; mean error {worst['error']:+.2g} {units.get(name, '')}".rstrip()
        verdicts.append(Verdict("regions", name, passed, share - _CENTRAL, p, text))
    return verdicts
