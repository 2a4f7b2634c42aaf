"""Whether data are sound, and whether they can bear the claim that is to rest on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from flowcei.check.agreement import compare_with_simulation
from flowcei.check.conservation import noisiness, sum_findings
from flowcei.check.degeneracy import constant_columns, degeneracies
from flowcei.check.explanation import agreement_findings
from flowcei.check.faults import read_with_faults
from flowcei.check.finding import SEVERITIES, Finding, Report
from flowcei.check.likeness import likeness
from flowcei.check.scale import plausible_energy
from flowcei.physics.explosion import centre_of_mass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.events.container import Events
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.molecules.molecule import Molecule

_MOST = 2000  # events that are re-simulated
_CENTRED = 1e-6  # of the size of the molecule
_EXTREME = 1e-50, 1e50  # beyond which products of a few numbers over- or underflow
_SHIFTED = 0.01  # bohr, rms: below it no model notices


def examine(events: Events) -> list[Finding]:
    """Look for everything that is wrong with events, or worth knowing before training.

    Args:
        events: Of one molecule; without positions what needs them is left out.

    Returns:
        The findings, the worst first.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 500, noise="1%", seed=1)
        >>> {finding.severity for finding in examine(events)}
        {'note'}
    """
    if extreme := _extremes(events):
        return extreme
    noise = noisiness(events)
    found = [*sum_findings(events, noise), *constant_columns(events), *_duplicates(events)]
    found += _identical_ions(events)
    if events.positions is None:
        what = "momenta only: nothing here shows which ions they are of, with which charges and prior"
        means = "the events can be reconstructed, if they are what a model believes: see below"
        found += [*plausible_energy(events), Finding("note", "momenta-only", what, means)]
        return _worst_first(found)
    comparison = compare_with_simulation(_some(events), noise)
    if comparison is None:
        what = "no event has positions that can explode: ions coincide in all of them"
        found.append(
            Finding("error", "coincident", what, "there is no geometry to learn", "look at the columns")
        )
        return _worst_first(found)
    found += [*agreement_findings(comparison), *_centre(events, events.positions)]
    found += [*degeneracies(events), *likeness(comparison.events)]
    return _worst_first(found)


def examine_file(
    path: str | Path, molecule: Molecule | str | None = None, reading: Reading | None = None
) -> Report:
    """Examine a file, read as by `read_events`: faulty rows and columns are reported, the others examined."""
    content = read_with_faults(Path(path), molecule, reading)
    findings = list(content.findings)
    if content.events is not None:
        findings += examine(content.events)
    return Report(str(path), content.molecule.name, content.rows, content.events, _worst_first(findings))


def unbounded(events: Events, *, coordinates: Literal["chart", "raw"] = "chart") -> list[Finding]:
    """Return what lets the likelihood of a flow grow without bound: positions that fill no volume.

    Coordinates: ``chart`` (relative positions, recoil frame: those of training), ``raw`` (columns).
    """
    found = [*constant_columns(events), *degeneracies(events)]
    return _worst_first([f for f in found if f.unbounded and coordinates in ("raw", f.unbounded)])


def _worst_first(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _some(events: Events) -> Events:
    """Return events from the whole length of a file: what is wrong may begin anywhere."""
    if len(events) <= _MOST:
        return events
    return events[np.linspace(0, len(events) - 1, _MOST).astype(np.int64)]


def _extremes(events: Events) -> list[Finding]:
    """Say where numbers are so large or so small that nothing can be computed from them."""
    least, most = _EXTREME
    size = np.abs(events.momenta).max(axis=(1, 2))
    bad = (size < least) | (size > most)
    if events.positions is not None:
        size = np.abs(events.positions).max(axis=(1, 2))
        bad |= (size > most) | ((size > 0) & (size < least))
    if not bad.any():
        return []
    what = f"{int(bad.sum())} of {len(events)} events hold numbers beyond 1e50, or none above 1e-50"
    means = "no unit makes momenta or positions of them; nothing else was looked at"
    values = {"count": int(bad.sum()), "first": int(np.argmax(bad)) + 1}
    return [Finding("error", "extreme", what, means, "remove the events", values=values)]


def _centre(events: Events, positions: NDArray[np.float64]) -> list[Finding]:
    masses = events.molecule.masses
    centre = centre_of_mass(positions, masses)[:, 0]
    size = float(np.sqrt(((positions - centre[:, None]) ** 2).mean()))
    squares = float((centre**2).sum(axis=1).mean())
    rms, floor = float(np.sqrt(squares)), squares / 3.0
    values = {"rms": rms, "floor": floor, "mean": centre.mean(axis=0).tolist()}
    if rms <= _CENTRED * size:
        means = "nothing in the positions is invisible to the momenta"
        return [Finding("note", "centred", "the centre of mass is at 0 in every event", means, values=values)]
    what = f"the centre of mass lies {rms:.4g} bohr (rms) from 0"
    means = (
        f"momenta cannot see it: a model of raw coordinates cannot have a mean squared error below "
        f"{floor:.3g} bohr^2 per coordinate; flowcei itself trains on relative positions"
    )
    todo = "subtract it from the positions: flowcei check FILE --repair OUT"
    severity: Literal["warning", "note"] = "warning" if rms > _SHIFTED else "note"
    return [Finding(severity, "centre-of-mass", what, means, todo, values=values)]


def _duplicates(events: Events) -> list[Finding]:
    momenta = _repeated(events.momenta)
    if not momenta.any():
        return []
    count = int(momenta.sum())
    first = int(np.argmax(momenta)) + 1
    values = {"count": count, "first": first}
    what = f"{count} of {len(events)} events have the momenta of an earlier one (first: event {first})"
    if events.positions is not None:
        both = int(_repeated(np.concatenate([events.momenta, events.positions], axis=1)).sum())
        if both < count:
            what += f", {count - both} of them with other positions"
        values["identical"] = both
    means = "the same event in training and test rows makes a model look better than it is"
    return [Finding("warning", "duplicates", what, means, "keep each event once", values=values)]


def _repeated(array: NDArray[np.float64]) -> NDArray[np.bool_]:
    flat = pd.DataFrame(array.reshape(len(array), -1))
    return flat.duplicated().to_numpy()


def _identical_ions(events: Events) -> list[Finding]:
    """Say in which order ions stand that no detector tells apart."""
    out = []
    labels = events.molecule.labels
    size = np.linalg.norm(events.momenta, axis=2)
    for group in events.molecule.identical:
        names = ", ".join(labels[i] for i in group)
        steps = np.diff(size[:, list(group)], axis=1)
        falling, rising = float((steps <= 0).all(axis=1).mean()), float((steps >= 0).all(axis=1).mean())
        values = {"falling": falling, "rising": rising}
        if max(falling, rising) == 1.0 and len(events) > 1:
            how = "sorted by " + ("falling" if falling == 1.0 else "rising") + " momentum"
        else:
            how = f"not sorted by momentum ({100 * falling:.3g} % of the events have it falling)"
        what = f"{names} are identical ions, {how}"
        means = "flowcei sorts them itself; a model that does not would average over their order"
        out.append(Finding("note", "identical-ions", what, means, values=values))
    return out
