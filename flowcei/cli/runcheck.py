"""What the commands say of a run beside its prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowcei.cli.streams import note, show, text_table, warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowcei.check.evidence import EvidenceCheck
    from flowcei.check.run import RunCheck
    from flowcei.events.container import Events
    from flowcei.reconstruction.model import Reconstructor

NO_PRIOR = "the model was trained on data whose prior nobody stated: nothing is predicted of a run"
"""Why a run is not compared with some models."""

_CAUSES = 2  # that `sample` names
_FEWEST, _ACCIDENTS = 3, 0.02  # events, and share of a run, whose sums make accidents likely


def show_run_check(check: RunCheck, columns: str) -> None:
    """Print comparisons, causes, verdict (last); `columns` is the order of ions that the user gave, or ''."""
    from flowcei.check.run import LABORATORY

    show(f"\nThe run beside the prior {check.prior}: {check.compared} of {check.events} events compared")
    if check.comparisons:
        table = check.table()
        units = [f" ({unit})" if unit else "" for unit in table["unit"]]
        show(text_table(table.assign(observable=table["observable"] + units).drop(columns="unit"), digits=4))
    for remark in check.remarks if check.compared else ():
        show(f"  {remark}")
    if check.outlying > 0.01:
        show(f"  {check.outlying:.1%} have a momentum sum unlike the others and were left out")
    for k, cause in enumerate(check.causes):
        fit = f" (explains the rest, p {cause.p_value:.2g})" if cause.fits else " (does not explain all)"
        show(f"  {k + 1}. {cause.message}{'' if cause.kind in LABORATORY else fit}")
        show(f"      -> {cause.todo}")
        if cause.kind == "order" and columns:
            show(f'      -> --columns "{_reordered(columns, check, cause.values["columns"])}"')
    show(f"\n{check.verdict}")


def _reordered(columns: str, check: RunCheck, true: str) -> str:
    """Return the order of the ions to give instead of `columns`."""
    labels = dict(zip(check.labels, true.split(), strict=True))
    return " ".join(labels.get(word, word) for word in columns.replace(",", " ").split())


def checked_run(model: Reconstructor, events: Events | None, noise: str | None) -> RunCheck | None:
    """Compare a run (None: no events) with what the prior of a model predicts, where it has one."""
    from dataclasses import replace

    from flowcei.check.run import check_run

    if events is None or model.prior_spec is None:
        return None
    stated = replace(events, sigma=model.stated_sigma(events, noise), molecule=model.molecule)
    return check_run(stated, model.prior)


def verdict_of(
    check: RunCheck | None, evidence: EvidenceCheck | None, flags: NDArray[np.uint16]
) -> dict[str, Any] | None:
    """What the samples of a run are to say of it; None where nothing was looked at."""
    from flowcei.posterior.flags import EXCLUDING

    if check is None and evidence is None:
        return None
    faults = [] if check is None or _is_sound(check) else [check.verdict]
    faults += [] if faults or evidence is None or evidence.sound else [evidence.summary]  # the same once
    faults += [accidents] if (accidents := likely_accidents(flags)) else []
    verdict: dict[str, Any] = {"sound": not faults, "text": "; ".join(faults)}
    verdict |= {"events": len(flags), "flagged": int((flags & EXCLUDING > 0).sum())}
    if check is not None:
        causes = [{"kind": cause.kind} | cause.values for cause in check.likely]
        verdict |= {"compared": check.compared, "p_value": check.p_value, "causes": causes}
    if evidence is not None and evidence.events:
        verdict |= {"evidence_p": evidence.p_value}
    return verdict


def likely_accidents(flags: NDArray[np.uint16]) -> str:
    """What is said where so many of the events have sums of momenta that are not those of one molecule."""
    from flowcei.posterior.flags import FLAG_BITS

    count = int((flags & FLAG_BITS["momentum-sum"] > 0).sum())
    if count < max(_FEWEST, _ACCIDENTS * len(flags)):
        return ""
    return (
        f"the momenta of {count} of {len(flags)} events do not sum to zero: accidental coincidences, likely; "
        "flowcei experiment measures their share"
    )


def _is_sound(check: RunCheck) -> bool:
    return check.sound or not check.compared or check.severity == "note"


def note_run_check(check: RunCheck | None, flags: NDArray[np.uint16]) -> None:
    """Say on stderr whether a run (None: the model has no prior) is what was predicted."""
    if check is None:
        note(f"the run was not compared with a prediction: {NO_PRIOR}")
        return
    if accidents := likely_accidents(flags):
        warn(accidents, "run")
    if _is_sound(check):
        note(f"the other events: {check.verdict}" if accidents else check.verdict)
        return
    warn(check.summary, "run")
    for cause in check.causes[:_CAUSES]:
        warn(f"likely: {cause.message}", cause.kind)
