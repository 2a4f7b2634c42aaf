"""Where a posterior is right: ranks by regions of the kinetic energy and of the angle between momenta.

A posterior that is too low in one place and too high in another is right on average over the
prior. The ranks of a right one are uniform among any events that are chosen by their momenta alone:
here by thirds of the KER, of the angle between the two largest momenta of each event, and of both,
and by the outer tenths of each: where molecules are all but linear, flows have most trouble.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import binomtest

from flowcei.evaluation.verdicts import LEVEL, Verdict, rank_shape
from flowcei.experiment.likelihood import centred_momenta
from flowcei.physics.explosion import kinetic_energy
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.evaluation.ranks import Ranks
    from flowcei.molecules.molecule import Molecule

_THIRDS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
# Of OCS `broad` 12 % are straighter than 165 degrees: in the third with the largest angles their
# efficiency of 0.14 would pass for 0.31.
_TENTHS = ((0.0, 0.1), (0.9, 1.0))
_FEWEST = 30  # events of a region: fewer show nothing but what is grossly wrong
_CENTRAL = 0.5  # the interval that is counted: its coverage moves most with a bias or a wrong width


@dataclass(frozen=True, eq=False)
class Region:
    """Events that are alike by their momenta.

    Attributes:
        name: What they have in common.
        events: Which are in it, (E,).
    """

    name: str
    events: NDArray[np.bool_]


def regions_of(molecule: Molecule, momenta: NDArray[np.float64]) -> list[Region]:
    """Return the regions of events (E, N, 3), hbar / bohr, that have enough events to be judged.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 300, noise="1%", seed=1)
        >>> [region.name for region in regions_of(e.molecule, e.momenta)][2:5]
        ['KER above 110 eV', 'KER below 101 eV', 'KER above 115 eV']
    """
    p = centred_momenta(momenta, molecule.masses)
    energy = _bands("KER", kinetic_energy(p, molecule.masses) / ELECTRONVOLT, "eV")
    if len(molecule) < 3:  # two momenta are opposite
        return [region for region in energy if region.events.sum() >= _FEWEST]
    # The two largest, of whatever ions: no label of identical ions matters.
    size = np.linalg.norm(p, axis=2)
    a, b = np.moveaxis(np.take_along_axis(p, np.argsort(-size, axis=1)[:, :2, None], axis=1), 1, 0)
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))
    angles = _bands("angle of momenta", angle, "deg")
    thirds = itertools.product(energy[: len(_THIRDS)], angles[: len(_THIRDS)])
    both = [Region(f"{k.name} and {j.name}", k.events & j.events) for k, j in thirds]
    return [region for region in (*energy, *angles, *both) if region.events.sum() >= _FEWEST]


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
    """Return a row for each region and quantity.

    Args:
        ranks: Of the truth among the samples, (E, Q).
        errors: Posterior mean less the truth, (E, Q).
        regions: Of the events.

    Returns:
        `events` in it, `coverage_50` of the central half, `rank` and `error`, the means of ranks and
        errors, and `p`: for a right posterior, of mean rank and coverage, not corrected.
    """
    rows = []
    for region in regions:
        count = int(region.events.sum())
        for k, name in enumerate(ranks.names):
            values = ranks.values[region.events, k]
            inside = int((np.abs(2.0 * values - 1.0) <= _CENTRAL).sum())
            above = (values.mean() - 0.5) * np.sqrt(12.0 * count)
            p = 2.0 * min(2.0 * float(ndtr(-abs(above))), binomtest(inside, count, _CENTRAL).pvalue)
            error = float(errors[region.events, k].mean())
            rows.append((region.name, name, count, inside / count, float(values.mean()), error, min(p, 1.0)))
    columns = ["region", "quantity", "events", "coverage_50", "rank", "error", "p"]
    return pd.DataFrame(rows, columns=columns)


def check_regions(
    ranks: Ranks, table: pd.DataFrame, regions: list[Region], units: dict[str, str], *, level: float = LEVEL
) -> list[Verdict]:
    """Judge each quantity by its worst region.

    Args:
        ranks: As of `regions_table`.
        table: What it returned.
        regions: As of `regions_table`.
        units: Of the quantities.
        level: How often one of all quantities and regions of a right posterior fails.

    Example:
        >>> import flowcei
        >>> from flowcei.evaluation.ranks import Ranks
        >>> e = flowcei.simulate("ocs", 600, noise="1%", seed=1)
        >>> regions = regions_of(e.molecule, e.momenta)
        >>> u = np.random.default_rng(0).random((600, 1))
        >>> low = Ranks(("c-s",), np.where(regions[7].events[:, None], u**0.4, u))
        >>> table = regions_table(low, np.zeros((600, 1)), regions)
        >>> check_regions(low, table, regions, {})[0].text.split(":")[0]
        'with angle of momenta above 165 deg (200 events) the central 50 % hold 44 %'
    """
    found = []
    for k, name in enumerate(ranks.names):
        rows = table[table["quantity"] == name]
        worst = rows.sort_values("p").iloc[0]
        p = min(1.0, float(worst["p"]) * len(table))
        share, count = float(worst["coverage_50"]), int(worst["events"])
        of = f"with {worst['region']} ({count} events) the central 50 % hold {100.0 * share:.0f} %"
        passed = p >= level
        text = f"as everywhere; the worst: {of}"
        if not passed:
            chosen = next(region.events for region in regions if region.name == worst["region"])
            words = rank_shape(ranks.values[chosen, k]) or "wrong in shape"
            text = f"{of}: {words}; mean error {worst['error']:+.2g} {units.get(name, '')}".rstrip()
        found.append(Verdict("regions", name, passed, share - _CENTRAL, p, text))
    return found
