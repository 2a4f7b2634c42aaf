"""The sections of the page: each a function of the material, and one more is one more entry of `SECTIONS`."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.check.run import OF_EXPERIMENT, check_run
from flowcei.evaluation.verdicts import CHECKS
from flowcei.events.container import Events
from flowcei.experiment.accidents import P_TRUE
from flowcei.experiment.detector import rms_component
from flowcei.molecules.isotopes import described_ions
from flowcei.plot.events import FEWEST
from flowcei.plot.figure import events_figure, samples_figure
from flowcei.plot.geometry import predicted
from flowcei.posterior.assignments import P_ASSIGNMENT
from flowcei.posterior.files import SAMPLES_AT_ONCE, stream_samples
from flowcei.posterior.flags import FLAGS
from flowcei.posterior.modes import AMBIGUOUS, UNEXPLAINED, VERDICTS
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.spread import quantities
from flowcei.report.figures import training_figure
from flowcei.storage.card import versions
from flowcei.units import ANGSTROM

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from flowcei.check.run import RunCheck
    from flowcei.evaluation.calibration import Calibration
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.spread import Quantity, Spread
    from flowcei.reconstruction.model import Reconstructor

_DPI = 110
_SEARCHED = 300  # events whose modes are sought, beside those of the cards
_POOLED = 5_000  # events of which figures are, from the whole length of a longer run
_OWN = (
    "evidence_p",
    "p_true",
    P_ASSIGNMENT,
    "inside_prior",
    "r_hat",
    "acceptance",
)  # columns that flowcei adds
_SHOWN = 3_000  # events that are re-simulated for pictures


_KINDS = {
    "newton": "Newton plot: momenta of all ions, one of them along x",
    "ker": "Kinetic energy release",
    "shares": "Shares of the ions in the kinetic energy",
    "angles": "Angles between momenta",
    "dalitz": "Dalitz plot",
    "covariance": "Correlation of the momenta in the recoil frame",
}


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; numbers are given as numbers, and are shown with four digits."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in the page, with what it shows in words."""

    png: str
    words: str

    @classmethod
    def of(cls, figure: Figure, words: str) -> Picture:
        """Return a figure as PNG, base64."""
        file = io.BytesIO()
        figure.savefig(file, dpi=_DPI, format="png", bbox_inches="tight")
        return cls.of_png(file.getvalue(), words)

    @classmethod
    def of_png(cls, png: bytes, words: str) -> Picture:
        """Return a PNG, base64."""
        return cls(b64encode(png).decode(), words)


@dataclass(frozen=True)
class Section:
    """A heading, and below it in this order: paragraphs, facts, tables, pictures, and what a script shows.

    Of `frames` a slider shows one at a time, all where no script runs; `framed` says what they are.
    """

    anchor: str
    title: str
    words: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    frames: tuple[Picture, ...] = ()
    framed: str = ""
    commands: tuple[str, ...] = ()
    viewer: bool = False
    search: bool = False


def trusted_rows(samples: PosteriorSamples) -> NDArray[np.intp]:
    """Rows of the events that no flag excludes, of all where none is left; thinned over the run."""
    flagged = samples.flagged
    rows = np.arange(len(flagged)) if flagged.all() else np.flatnonzero(~flagged)
    return rows[:: -(-len(rows) // _POOLED)]


def read_for_page(path: Path, at_once: int = SAMPLES_AT_ONCE) -> tuple[PosteriorSamples, PosteriorSamples]:
    """One sample of each event of a file, and all of those that a page shows, so many read at once."""
    one = PosteriorSamples.concatenate([block.first() for block in stream_samples(path, at_once)])
    shown = stream_samples(path, at_once, trusted_rows(one))
    return one, PosteriorSamples.concatenate(list(shown))


@dataclass(frozen=True, eq=False)
class Material:
    """All that a page is made of.

    Attributes:
        samples: Posterior samples of the events, weighed or not.
        source: Name of the file that was read.
        model: The model that drew them, where it is there.
        calibration: Of that model, on events simulated from its prior.
        metrics: Losses of its training, a row an epoch, where they are there.
        notes: What was said while the file was read, a line each.
        commands: Those that make the page again.
        shown: Samples of the `trusted_rows`, where `samples` has but one of each event.
    """

    samples: PosteriorSamples
    source: str
    model: Reconstructor | None = None
    calibration: Calibration | None = None
    metrics: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    shown: PosteriorSamples | None = None

    @cached_property
    def trusted(self) -> PosteriorSamples:
        """Samples of the events that no flag excludes, of all where none is left; thinned over the run."""
        return self.samples[trusted_rows(self.samples)] if self.shown is None else self.shown

    @cached_property
    def spread(self) -> Spread:
        """Spread of the trusted events."""
        return self.trusted.spread(keep_flagged=True)

    @cached_property
    def width(self) -> NDArray[np.float64]:
        """Rms distance of the atoms from their mean within each trusted event, (E,), bohr."""
        return np.asarray(np.sqrt((self.spread.per_atom() ** 2).mean(axis=1)))

    @cached_property
    def searched(self) -> NDArray[np.intp]:
        """Rows of the trusted events whose modes are sought: the widest, and others from the whole run."""
        count = len(self.trusted)
        even = np.linspace(0, count - 1, min(count, _SEARCHED)).astype(np.intp)
        return np.unique([*even, self.typical, int(self.width.argmax())])

    @cached_property
    def typical(self) -> int:
        """The trusted event whose width is next to the median."""
        return int(np.abs(self.width - np.median(self.width)).argmin())

    @cached_property
    def modes(self) -> Modes:
        """Modes of the searched events."""
        return self.trusted[self.searched].modes(keep_flagged=True)

    @cached_property
    def check(self) -> RunCheck | None:
        """The run beside the prior; None where nobody stated one."""
        prior = self.samples.known_prior()
        return None if prior is None else check_run(self.events, prior)

    def searched_row(self, row: int) -> int:
        """Row of a trusted event among those whose modes are sought."""
        return int(np.flatnonzero(self.searched == row)[0])

    @property
    def events(self) -> Events:
        """The measured events."""
        s = self.samples
        return Events(s.molecule, s.momenta, sigma=s.sigma, columns=s.columns)

    @cached_property
    def cards(self) -> dict[str, int]:
        """Rows of trusted events that are shown one by one, by why."""
        verdict = self.modes.verdict
        cards = {"typical": self.typical, "least certain": int(self.width.argmax())}
        if (verdict == AMBIGUOUS).any():
            cards["ambiguous"] = int(self.searched[self.modes.most_ambiguous])
        if (verdict == UNEXPLAINED).any():
            cards["unexplained"] = int(self.searched[(verdict == UNEXPLAINED).argmax()])
        return cards


def data_section(material: Material) -> Section:
    """What was read, which events were left out, and which are flagged."""
    s, origin = material.samples, material.samples.origin
    selection, n = origin.get("events", {}).get("selection", {}), material.trusted.positions.shape[1]
    facts = {
        "file": material.source,
        "events": f"{len(s):,}",
        "samples of each": f"{n:,}{', of the exact posterior' if s.exact else ''}",
        "molecule": f"{s.molecule.name}: {described_ions(s.molecule)}",
        "noise": _noise_of(s),
        "extra columns": ", ".join(name for name in s.columns if not name.startswith(_OWN)) or "none",
    }
    facts |= {f"left out: {reason}": f"{count:,}" for reason, count in selection.get("rejected", {}).items()}
    left_out = int(s.flagged.sum())
    counts = {name: sum(name in names for names in s.flag_names) for name in FLAGS}
    rows = [(name, count, FLAGS[name]) for name, count in counts.items() if count]
    table = Table(("flag", "events", "meaning"), rows, "Flagged events") if rows else None
    words = (
        *material.notes,
        "No event is flagged." if table is None else f"{left_out or 'No'} events are left out below.",
    )
    return Section("data", "What was read", words, facts, (table,) if table else ())


def _noise_of(samples: PosteriorSamples) -> str:
    """The noise that was assumed, as it was stated, or as a share of the momenta."""
    if "experiment" in samples.origin:
        return "of the experiment, below"
    if stated := samples.origin.get("noise"):
        return str(stated)
    if samples.sigma is None:
        return "unknown"
    share = float(np.median(samples.sigma / rms_component(samples.momenta)))
    return f"{share:.3g} of the rms momentum component (median): of the file, or assumed where it says none"


def check_section(material: Material) -> Section | None:
    """Whether the run is what the prior of the model predicts."""
    title = "Is the run what the model believes?"
    if not material.samples.isotropic:
        return Section("check", title, (f"Not compared here: {OF_EXPERIMENT}.",))
    check = material.check
    if check is None:
        return None
    table = check.table()
    rows = [tuple(row) for row in table.itertuples(index=False)]
    words = (
        check.verdict,
        *(f"Possible cause: {cause.message}. {cause.todo}" for cause in check.causes),
        *check.remarks,
    )
    return Section("check", title, words, tables=(Table(tuple(table.columns), rows),))


def momenta_section(material: Material) -> Section:
    """Measured momenta beside those that the samples predict."""
    step = max(1, len(material.trusted) // _SHOWN)
    sets = predicted(material.trusted[::step])
    kinds = [
        "newton",
        "ker",
        "shares",
        "angles",
        *(["dalitz"] if len(material.samples.molecule) == 3 else []),
    ]
    pictures = [Picture.of(events_figure(sets, (kind,)), _KINDS[kind]) for kind in kinds]
    if len(sets["measured"]) >= FEWEST:
        pictures.append(Picture.of(events_figure(sets["measured"], ("covariance",)), _KINDS["covariance"]))
    words = "Filled: measured; lines: one sample of each event, exploded by the exact simulator."
    return Section("momenta", "Momenta", (words,), pictures=tuple(pictures))


def geometry_section(material: Material) -> Section:
    """Bonds and angles: of all events together, and within one event."""
    rows = []
    overall = material.spread.overall()  # of events that may be accidents each counts by its P(true)
    for quantity, (_, row) in zip(material.spread.rows(), overall.iterrows(), strict=True):
        if quantity.kind != "atom":
            unit, scale = unit_of(quantity)
            numbers = [float(row[name]) / scale for name in ("p50", "p16", "p84", "typical_sd")]
            rows.append((quantity.name, unit, *numbers, quantity.like))
    columns = ["quantity", "unit", "median", "16 %", "84 %", "within one event", "remark"]
    used = len(columns) - (not any(row[-1] for row in rows))
    words = (
        f"Median and central 68 % are of all samples of {len(material.trusted):,} of "
        f"{len(material.samples):,} events together, the average of their posteriors: wider than the "
        "distribution of the molecules by what one event leaves open (the median standard deviation within "
        "one event)."
    )
    if P_TRUE in material.spread.columns:
        words += " Each event counts by its probability to be true, p_true, here and in the pictures."
    return Section(
        "geometry",
        "Bonds and angles",
        (words,),
        tables=(Table(tuple(columns[:used]), [row[:used] for row in rows]),),
    )


def unit_of(quantity: Quantity) -> tuple[str, float]:
    """Unit in which a bond or an angle is shown, and its size in the unit of the quantity."""
    return ("angstrom", ANGSTROM) if quantity.kind == "bond" else ("deg", 1.0)


def events_section(material: Material) -> Section:
    """Single events: a structure that turns, their geometries, and a search by number."""
    # Labelled as samples are: of like atoms bonds would else join the wrong ones.
    verdict, modes = material.modes.verdict, material.modes.labelled()
    molecule = material.samples.molecule
    counts = {word: int((verdict == k).sum()) for k, word in enumerate(VERDICTS)}
    listed = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    pictures, rows = [], list[tuple[Any, ...]]()
    internal = [(k, *unit_of(material.spread.names[k])) for k in material.spread.internal]
    for why, row in material.cards.items():
        number = int(material.trusted.event_id[row])
        figure = samples_figure(material.trusted[row], "structure")
        pictures.append(Picture.of(figure, f"{why}: event {number}"))
        values = [material.spread.values[row, :, k] / scale for k, _, scale in internal]
        estimate = [f"{v.mean():.3f} \u00b1 {v.std():.3f}" for v in values]
        rows.append((why, number, "posterior, mean \u00b1 sd", "", *estimate))
        exact = quantities(molecule, modes.positions[modes.of(material.searched_row(row))])[1]
        for mode, x in zip(modes.of(material.searched_row(row)), exact, strict=True):
            internals = [float(x[k]) / scale for k, _, scale in internal]
            rows.append(
                (why, number, f"exact, {modes.number[mode]}", float(modes.probability[mode]), *internals)
            )
    named = [f"{material.spread.names[k].name} ({unit})" for k, unit, _ in internal]
    columns = ("event is", "number", "geometry", "probability", *named)
    caption = "The estimate of these events, and what gives their momenta exactly, most probable first"
    table = Table(columns, rows, caption)
    words = (
        "Geometries that give the measured momenta exactly, and so follow their noise, were sought for "
        f"{len(verdict):,} of {len(material.trusted):,} events, evenly over the run: {listed}. The estimate "
        "of an event is its posterior, which knows the noise and the prior."
    )
    shown: Any = {"tables": (table,), "pictures": tuple(pictures), "viewer": True, "search": True}
    return Section("events", "Single events", (words,), **shown)


def model_section(material: Material) -> Section | None:
    """What the model is, and whether its posteriors are right on events of its prior."""
    model, calibration = material.model, material.calibration
    if model is None:
        return None
    record, loss = model.training, model.sampler.options.loss
    facts = {
        "architecture": model.architecture,
        "prior": record.prior_name or "unnamed",
        "noise": str(model.noise),
        "parameters": f"{record.parameters:,}",
        "validation loss": "unknown"
        if record.validation_loss is None
        else f"{record.validation_loss:.4f} {loss}",
    }
    pictures = tuple[Picture, ...]()
    if material.metrics is not None:
        words = "Loss of each epoch of the training, on training and on validation events."
        pictures = (Picture.of(training_figure(material.metrics, loss), words),)
    if calibration is None:
        return Section("model", "The model", facts=facts, pictures=pictures)
    columns = ("check", "quantity", "passed", "p")
    rows = [
        (CHECKS[v.check], v.quantity, "yes" if v.passed else "no", float(v.p_value))
        for v in calibration.verdicts
    ]
    level = f"noise {model.default_noise}"
    lines = (f"On {len(calibration.sbc)} events simulated from its prior, {level}, {calibration.outcome}.",)
    return Section("model", "The model", lines, facts, (Table(columns, rows),), pictures)


def provenance_section(material: Material) -> Section:
    """What made the page, and the commands that make it again."""
    facts = versions()
    facts |= {
        name: json.dumps(value) if isinstance(value, dict | list) else str(value)
        for name, value in material.samples.origin.items()
        if value is not None
    }
    return Section("provenance", "How this was made", facts=facts, commands=material.commands)
