"""What the commands say of a run beside its prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowcei.cli.streams import note, show, text_table, warn

if TYPE_CHECKING:
    from flowcei.check.run import RunCheck
    from flowcei.events.container import Events
    from flowcei.reconstruction.model import Reconstructor

NO_PRIOR = "the model was trained on data whose prior nobody stated: nothing is predicted of a run"
"""Why a run is not compared with some models."""

_CAUSES = 2  # that `sample` names


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


def note_run_check(model: Reconstructor, events: Events | None, noise: str | None) -> None:
    """Say on stderr whether a run (None: no events) is what the prior of a model predicts."""
    from dataclasses import replace

    from flowcei.check.run import check_run

    if events is None:
        return
    if model.prior_spec is None:
        note(f"the run was not compared with a prediction: {NO_PRIOR}")
        return
    stated = replace(events, sigma=model.stated_sigma(events, noise), molecule=model.molecule)
    check = check_run(stated, model.prior)
    if check.sound or not check.compared or check.severity == "note":
        note(check.verdict)
        return
    warn(check.summary, "run")
    for cause in check.causes[:_CAUSES]:
        warn(f"likely: {cause.message}", cause.kind)
