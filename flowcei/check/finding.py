"""What a check found: one fact, what it means for training, what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from flowcei.events.container import Events

Severity = Literal["error", "warning", "note"]
Unbounded = Literal["", "raw", "chart"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found out.

    Attributes:
        severity: ``error`` (what is trained on it is wrong), ``warning`` or ``note``.
        code: A word for programs, such as ``frames``.
        what: The fact, with numbers.
        means: What it means for training.
        todo: What to do; empty where nothing is to be done.
        unbounded: In which coordinates the likelihood of a flow has no upper bound:
            ``chart`` (relative positions in the recoil frame, which flowcei trains on, and so
            in any), ``raw`` (the columns of the file as they are), or "" for neither.
        values: The numbers of `what`, for programs.

    Example:
        >>> Finding("note", "frames", "one frame", "all is well").severity
        'note'
    """

    severity: Severity
    code: str
    what: str
    means: str
    todo: str = ""
    unbounded: Unbounded = ""
    values: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a table of plain numbers and text."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Report:
    """What was found in a file.

    Attributes:
        path: The file, as it was named.
        molecule: Name of the molecule it was taken to be of.
        rows: Events in the file, sound or not.
        events: The sound ones; None where there is none.
        findings: The worst first.
    """

    path: str
    molecule: str
    rows: int
    events: Events | None
    findings: list[Finding]

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(f.severity == severity for f in self.findings)

    @property
    def sound(self) -> bool:
        """Whether no finding is an error."""
        return self.count("error") == 0

    @property
    def verdict(self) -> str:
        """What the findings come to, in one line."""
        errors, warnings = self.count("error"), self.count("warning")
        counts = f"{errors} error{_s(errors)}, {warnings} warning{_s(warnings)}"
        if errors:
            return f"not sound: {counts}; what is trained on this file is not to be believed"
        if self.events is not None and self.events.positions is None:
            return (
                f"no fault in the file itself: {counts}; momenta alone, which can be sampled, not trained on"
            )
        if warnings:
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
            "findings": [f.to_dict() for f in self.findings],
        }


def percent(share: float) -> str:
    """Return a share in per cent for a sentence: 0.0123 is '1.23 %', 3e-17 '0 %'."""
    return f"{100.0 * share:.3g} %" if share > 1e-9 else "0 %"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
