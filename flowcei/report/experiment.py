"""The section of the page on the experiment: what is stated of it, and what the events say themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.check.measuring import measure_experiment
from flowcei.errors import DataError, UsageError
from flowcei.events.container import Events
from flowcei.experiment.accidents import ACCIDENT, P_TRUE
from flowcei.experiment.experiment import Experiment
from flowcei.physics.explosion import PLAIN
from flowcei.plot.figure import events_figure
from flowcei.posterior.flags import FLAG_BITS, counted
from flowcei.report.figures import p_true_figure
from flowcei.report.sections import Picture, Section, Table
from flowcei.units import ANGSTROM, compact

if TYPE_CHECKING:
    from flowcei.check.measuring import ExperimentMeasurement
    from flowcei.experiment.measurement import Measurement
    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Bools
    from flowcei.posterior.samples import PosteriorSamples
    from flowcei.report.sections import Material

_MEASURED = 20_000  # events at most, from the whole length of a run
_FAR = 4.0  # standard errors
_FLAGS = "momentum-sum", "evidence", "experiment", "accident", "mixing"


def experiment_section(material: Material) -> Section:
    """What is stated and what is measured of it, accidents, events that lack ions, and sums of momenta."""
    s = material.samples
    stated = None if "experiment" not in s.origin else Experiment.from_dict(s.origin["experiment"])
    own = None if stated is None else stated.of(s.molecule)
    complete = np.ones(len(s), bool) if s.lost is None else np.asarray(~s.lost.any(axis=1))
    rows, remarks = _numbers(material, own)
    words = [f"No experiment is stated (--experiment): noise {s.origin.get('noise', 'unknown')} on all axes."]
    if stated is not None:
        words = ["Stated is what the samples were drawn with; measured is what the events say themselves."]
    bits = sum(FLAG_BITS[name] for name in _FLAGS)
    words += remarks + ([counted(s.flag_bits, bits) + "."] if (s.flag_bits & bits).any() else [])
    caption = f"From {int(complete.sum()):,} complete events; 0.12(3) is 0.12 with the standard error 0.03"
    columns: tuple[str, ...] = ("quantity", "unit", "stated", "measured")
    if not any(row[3] for row in rows):
        rows, columns, caption = [row[:3] for row in rows], columns[:3], "What is stated"
    tables = [Table(columns, rows, caption)] if rows else []
    tables += [*_accidents(s), *_missing(material, complete)]
    pictures = []
    if complete.any():
        kinds = "Sums of the momenta of complete events, freed of the stated drift"
        pictures.append(Picture.of(events_figure(material.events[np.flatnonzero(complete)], ("sum",)), kinds))
    if P_TRUE in s.columns:
        text = f"P(true) of the events; left of the line ({ACCIDENT:.0%}) they are left out as accidents"
        pictures.append(Picture.of(p_true_figure(s.columns[P_TRUE], ACCIDENT), text))
    facts = {} if stated is None else {"stated": str(stated)}
    shown: Any = {"tables": tuple(tables), "pictures": tuple(pictures)}
    return Section("experiment", "The experiment", tuple(words), facts, **shown)


def _numbers(material: Material, own: Measurement | None) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Rows of what is stated and measured, and what is to be said of them."""
    s, remarks = material.samples, list[str]()
    stated = {} if own is None else dict(_stated(own, s.molecule))
    table = dict[str, tuple[float, float, str, str]]()
    if {"max_sum", "ker_ev"} & set(s.origin.get("events", {}).get("selection", {})):
        remarks.append("Events were left out by their momenta (--max-sum, --ker): not measured.")
    elif "assignments" in s.origin.get("experiment", {}):
        remarks.append("Which ions some hits are is not known, so their sums tell nothing: not measured.")
    else:
        try:
            measured = _measured(material, own)
        except (DataError, UsageError) as error:
            remarks.append(f"Not measured: {error}.")
        else:
            numbers = [row for name, one in measured.quantities.items() for row in one.rows(name)]
            table = {name: (number, off, text, unit) for name, number, off, text, unit in numbers}
            remarks += [f"{remark[0].upper()}{remark[1:]}." for remark in measured.remarks]
            if measured.fit is not None and measured.fit.correlation is not None:
                remarks.append(f"Correlation of momentum scale and build-up: {measured.fit.correlation:.3f}.")
    rows = list[tuple[Any, ...]]()
    for name in dict.fromkeys([*stated, *table]):
        number, text, unit = stated.get(name, (None, "", ""))
        value, off, measured_text, unit = table.get(name, (0.0, 0.0, "", unit))
        rows.append((name, unit, text, measured_text))
        if number is not None and abs(value - number) > _FAR * off > 0.0:
            remarks.append(f"The {name} is stated as {text} {unit}, and measured as {measured_text}.")
    return rows, remarks


def _stated(own: Measurement, molecule: Molecule) -> Iterator[tuple[str, tuple[float | None, str, str]]]:
    """Name of each number that is stated, with it (None where unknown), its text and its unit."""

    def entry(number: float, unit: str = "") -> tuple[float | None, str, str]:
        return (float(number), f"{number:.4g}", unit) if np.isfinite(number) else (None, "unknown", unit)

    unit, scale = ("%", 100.0) if own.relative else ("hbar/bohr", 1.0)
    ions = [""] if (own.noise == own.noise[0]).all() else [f"{label} " for label in molecule.labels]
    for label, levels in zip(ions, own.noise, strict=False):
        for axis, level in zip("xyz", levels, strict=True):
            yield f"noise {label}{axis}", (None, f"{scale * level:.3g}", unit)
    for name, numbers in {"drift": own.drift, "spread": own.spread}.items():
        for axis, number in zip("xyz", numbers, strict=True):
            yield f"{name} {axis}", entry(own.scale * number, "hbar/bohr")
    yield "accidents", entry(own.accidents)
    if own.efficiency is not None:
        for label, number in zip(molecule.labels, own.efficiency, strict=True):
            yield f"efficiency {label}", entry(number)
    if own.scale != 1.0:
        yield "momentum_scale", entry(own.scale)
    if own.build_up is not None:
        one = own.build_up.times[0] if len(set(own.build_up.times)) == 1 else np.inf
        yield "build_up", (one, f"{one:g}", "fs") if np.isfinite(one) else (None, str(own.build_up), "")


def _measured(material: Material, own: Measurement | None) -> ExperimentMeasurement:
    """What the events say; scale and build-up only where they are stated, as that trusts the prior."""
    s = material.samples[:: 1 + len(material.samples) // _MEASURED]
    if own is None:
        return measure_experiment(Events(s.molecule, s.momenta, columns=s.columns))
    momenta = s.momenta + own.shares[:, None] * own.drift
    levels = {
        label: [f"{100.0 * level}%" for level in ion] if own.relative else ion.tolist()
        for label, ion in zip(s.molecule.labels, own.levels, strict=True)
    }
    fit = {(True, True): "both", (True, False): "scale", (False, True): "build_up"}.get(
        (own.scale != 1.0, own.build_up is not None)
    )
    fit = None if own.build_up is None and own.forward.name != PLAIN else fit  # other forces are not fitted
    prior = s.known_prior() if fit else None
    events = Events(s.molecule, momenta * own.scale, columns=s.columns)
    return measure_experiment(events, noise=levels, prior=prior, fit=fit or "both")


def _accidents(s: PosteriorSamples) -> Iterator[Table]:
    """The share of accidents by evidence and by sums, of complete events and of those that lack an ion."""
    told: Mapping[str, Mapping[str, float]] = s.origin.get("accidents") or {}
    rows = []
    for kind, one in told.items():
        by_evidence = compact(one["share"], one["error"]) if "share" in one else "as stated"
        by_sums = compact(one["share_by_sums"], one["error_by_sums"]) if "share_by_sums" in one else ""
        rows.append((kind, int(one.get("events", 0)), by_evidence, by_sums))
    if rows:
        columns = ("events", "number", "share by evidence and sums", "share by sums alone")
        yield Table(columns, rows, "Accidents: events whose ions are of different molecules")


def _missing(material: Material, complete: Bools) -> Iterator[Table]:
    """How many events lack which ion, how many of these are flagged, and how well the others are known."""
    s = material.samples
    if s.lost is None:
        return
    several = s.lost.sum(axis=1) > 1
    kinds = {"none": complete}
    kinds |= {label: s.lost[:, k] & ~several for k, label in enumerate(s.molecule.labels)} | {
        "several": several
    }
    rows = []
    width = dict(zip(material.trusted.event_id.tolist(), material.width, strict=True))
    for name, mine in kinds.items():
        if mine.any():
            known = [width[event] for event in s.event_id[mine].tolist() if event in width]
            middle = float(np.median(known)) / ANGSTROM if known else ""
            rows.append((name, int(mine.sum()), int(s.flagged[mine].sum()), middle))
    columns = ("ion that is missing", "events", "flagged", "uncertainty of an atom (angstrom)")
    yield Table(
        columns, rows, "Events that lack an ion; the uncertainty is the median of those that are not flagged"
    )
