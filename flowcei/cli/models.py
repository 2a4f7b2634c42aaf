"""`flowcei models`."""

from __future__ import annotations

from typing import Any

import click

from flowcei.cli import options
from flowcei.cli.runs import BUNDLED, MODEL, RUNS, unfinished_work
from flowcei.cli.streams import note, show, show_json, warn
from flowcei.errors import DataError


@click.command()
@options.json_option()
def models(*, as_json: bool) -> None:
    """List the models in runs/, the newest last, and the bundled one: what they are of, and how good."""
    from flowcei.experiment.detector import Noise
    from flowcei.storage.modelfile import bundled_model, read_model

    paths = sorted(RUNS.glob(f"*/{MODEL}"), key=lambda path: path.stat().st_mtime)
    table: dict[str, Any] = {}
    with bundled_model() as bundled:
        for name, path in [(BUNDLED, bundled), *((path.parent.name, path) for path in paths)]:
            try:
                card, _ = read_model(path)
            except DataError as error:
                warn(f"{name}: {error}")
                continue
            record = card.training
            about = {"molecule": card.molecule.get("name"), "architecture": card.architecture}
            noise, longest = str(Noise.of_card(card)), card.frame.get("build_up")
            noise += f", build-up 0..{longest:g}fs" if longest else ""
            about |= {"prior": record.prior_name or "unnamed", "noise": noise}
            table[name] = about | {"verdict": record.judgement.get("summary") or "not judged"}
    if as_json:
        show_json(table)
    else:
        for name, facts in table.items():
            *first, verdict = facts.values()
            show(f"{name}: {', '.join(map(str, first))}\n    {verdict}")
    for folder in sorted(RUNS.glob("*/")):
        if unfinished_work(folder):
            note(f"the training in {folder} is not finished: flowcei train --resume {folder} goes on with it")
