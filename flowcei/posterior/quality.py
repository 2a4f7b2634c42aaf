"""What samples say of themselves, event by event: what judges a run is made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.events.extracolumns import dataset_name
from flowcei.experiment.detector import rms_component
from flowcei.experiment.missing import LOST, lost_ions
from flowcei.posterior.arrays import RowArrays
from flowcei.posterior.flags import EXCLUDING
from flowcei.posterior.weights import scaled_evidence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Bools, Floats, Numbers


@dataclass(frozen=True, eq=False)
class Quality(RowArrays):
    """What samples say of themselves, an array (E,) each; weights only where they were weighed."""

    ROWS = (
        *("event_id", "flags", "ess", "drawn", "sigma", "size", "statistic", "evidence_p", "p_true"),
        *("log_evidence", "momenta", "lost"),
    )

    event_id: Numbers
    flags: NDArray[np.uint16]
    ess: Floats | None
    drawn: Numbers | None
    sigma: Floats  # noise that was assumed, hbar / bohr
    size: Floats  # rms momentum component, hbar / bohr
    statistic: Floats | None  # `scaled_evidence`
    evidence_p: Floats | None = None  # chance of momenta as improbable, once that was judged
    p_true: Floats | None = None  # probability that the ions are of one molecule, likewise
    accidents: dict[str, Any] | None = None  # what was found of them, for the origin
    verdict: dict[str, Any] | None = None  # on the run, likewise
    # Where accidents are to be told from true events:
    log_evidence: Floats | None = None
    momenta: Floats | None = None  # (E, N, 3), hbar / bohr
    lost: Bools | None = None  # ions that were not detected, (E, N)

    @property
    def all_flagged(self) -> bool:
        """Whether no event has samples that are to be trusted."""
        return bool((self.flags & EXCLUDING).all())

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], molecule: Molecule, *, mixed: bool = False) -> Quality:
        """Judge from `arrays_of` samples, as a file holds them; `mixed` with accidents, to be told apart."""
        flags = arrays.get("flags", np.zeros(len(arrays["event"]), np.uint16))
        momenta, evidence = arrays["momenta"], arrays.get("log_evidence")
        statistic = None if evidence is None else scaled_evidence(evidence, momenta, molecule.masses)
        if statistic is not None and dataset_name(LOST) in arrays:  # of fewer numbers: not to be compared
            statistic = np.where(arrays[dataset_name(LOST)] > 0, np.nan, statistic)
        weighed, size = (arrays.get("ess"), arrays.get("drawn")), rms_component(momenta)
        out = cls(arrays["event"], flags, *weighed, arrays["sigma"], size, statistic)
        if not mixed:
            return out
        lost = lost_ions({LOST: arrays.get(dataset_name(LOST), np.zeros(len(flags)))}, len(molecule))
        lost = np.zeros(momenta.shape[:2], dtype=bool) if lost is None else lost
        return replace(out, log_evidence=evidence, momenta=momenta, lost=lost)
