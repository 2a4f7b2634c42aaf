"""The lines of a check, and the result of the check of a file."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from flowcei.events.container import Events

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the worst first
FAR = 1.25  # factor of the momenta, beyond which lengths are wrong by half


@dataclass(frozen=True)
class Diagnostic:
    """One fact about events, what it means for training, and what to do about it."""

    severity: Severity  # error: what is trained on them is wrong
    code: str  # a word for programs, such as frames
    message: str  # the fact, with numbers
    means: str
    todo: str = ""
    # Coordinates in which the likelihood of a flow has no upper bound: chart (relative positions in the
    # recoil frame, which flowcei trains on, and so in any), raw (the columns of the file), or neither.
    unbounded: Literal["", "raw", "chart"] = ""
    values: dict[str, Any] = field(default_factory=dict)  # the numbers of the message


@dataclass(frozen=True)
class Cause:
    """What may make a run another than the predicted one."""

    # drift, noise, axis, directions; scale, units, order, charges, isotopes, molecule, build-up, prior
    kind: str
    message: str  # the cause with its size, a semicolon, details
    todo: str
    values: dict[str, Any] = field(default_factory=dict)  # the numbers of the message
    p_value: float = 1.0  # of the comparisons that remain with this cause taken into account, together
    fits: bool = True  # whether it explains all of them; else it comes nearest

    @property
    def brief(self) -> str:
        """The cause with its size, without details."""
        return self.message.partition("; ")[0]

    @property
    def severity(self) -> Severity:
        """``error`` where every answer would be wrong, ``note`` where none is, else ``warning``."""
        if self.kind in ("directions", "drift"):
            return "note"
        far = self.kind == "scale" and abs(math.log(self.values["factor"])) > math.log(FAR)
        return "error" if far or self.kind in ("units", "order", "charges", "molecule") else "warning"


@dataclass(frozen=True, eq=False)
class FileCheck:
    """What is wrong with a file of events, or worth knowing before training."""

    path: str  # as it was named; empty for events in memory
    molecule: str  # name of the one that the file was taken to be of
    rows: int  # events in the file, sound or not
    events: Events | None  # the sound ones; None where there is none
    diagnostics: list[Diagnostic]  # the worst first

    def count(self, severity: Severity) -> int:
        """Return the number of diagnostics of a severity."""
        return sum(line.severity == severity for line in self.diagnostics)

    @property
    def sound(self) -> bool:
        """Whether nothing is an error."""
        return not self.count("error")

    @property
    def usable(self) -> Events | None:
        """The sound events; None where their numbers are so large or small that nothing follows from them."""
        return None if any(line.code == "extreme" for line in self.diagnostics) else self.events

    @property
    def verdict(self) -> str:
        """What the diagnostics come to, in one line."""
        counted = [(self.count("error"), "error"), (self.count("warning"), "warning")]
        counts = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counted)
        if not self.sound:
            return f"not sound: {counts}; what is trained on this file is not to be believed"
        if self.events is not None and self.events.positions is None:
            alone = "momenta alone, which can be sampled, not trained on"
            return f"no fault in the file itself: {counts}; {alone}"
        if self.count("warning"):
            return f"usable with care: {counts}"
        return f"sound: {counts}; the positions explain the momenta"

    def to_dict(self) -> dict[str, Any]:
        """Return a table of plain numbers and text."""
        return {
            "file": self.path,
            "molecule": self.molecule,
            "rows": self.rows,
            "sound_rows": 0 if self.events is None else len(self.events),
            "sound": self.sound,
            "verdict": self.verdict,
            "findings": [as_table(line) for line in self.diagnostics],
        }


def as_table(line: DataclassInstance) -> dict[str, Any]:
    """Return a line of a check as it stands in JSON, where its message is called `what`."""
    return {"what" if key == "message" else key: value for key, value in asdict(line).items()}


def percent(share: float) -> str:
    """Return a share in per cent for a sentence: 0.0123 is '1.23 %', 3e-17 '0 %'."""
    return f"{100.0 * share:.3g} %" if share > 1e-9 else "0 %"
