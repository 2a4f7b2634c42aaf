"""What `compare` and `calibrate` share: models, judged on events of a file that they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowcei
from flowcei.cli import options
from flowcei.cli.experiment_options import experiment_option
from flowcei.cli.inputs import note_what_is_assumed, read_noted
from flowcei.cli.runs import load_named
from flowcei.cli.sharing import sharing_options
from flowcei.cli.streams import note, show, show_json, warn, write_results
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from flowcei.cli.options import Decorator


@dataclass(frozen=True)
class Judging:
    """On which events, with which samples, and where results go: the options of the command."""

    data: Path
    count: int
    noise: str | None
    experiment: Path | None
    latent: Any
    output: Path
    seed: int
    as_json: bool
    keep_flagged: bool
    drift: str
    device: str
    overwrite: bool

    @property
    def sampling(self) -> dict[str, Any]:
        """How samples are drawn of events from which flagged ones are left out already."""
        how = {"n": self.count, "noise": self.noise, "latent": self.latent, "seed": self.seed}
        return how | {"keep_flagged": True, "experiment": self.stated}

    @property
    def stated(self) -> flowcei.Experiment | None:
        """The experiment that is stated, beside no noise."""
        return None if self.experiment is None else flowcei.Experiment.load(self.experiment)

    def load(self, names: Sequence[str]) -> dict[str, flowcei.Reconstructor]:
        """Load the models meant, by the names that they go by in tables."""
        options.check_folder(self.output, overwrite=self.overwrite)
        models = dict(load_named(name, self.device) for name in names)
        if len(models) < len(names):
            raise UsageError(f"models share a name: {', '.join(names)}; name each once")
        return models

    def events(self, models: Mapping[str, flowcei.Reconstructor]) -> tuple[flowcei.Events, dict[str, int]]:
        """Events of the file, without drift, that no model was trained on or flags; says what is left out.

        Also how many are left out: `unusable` in the file, and `flagged`. DataError where none is left.
        """
        import numpy as np

        from flowcei.evaluation.comparison import experiment_of, trusted, unseen
        from flowcei.experiment.drift import drift_subtracted

        read = read_noted(self.data, next(iter(models.values())).molecule)
        fresh = np.ones(len(read), dtype=bool)  # to all of the models
        for name, model in models.items():
            fewer = unseen(model, read)
            if len(fewer) < len(read):
                note(f"{name} was trained on {self.data}: only its {len(fewer)} test events are used")
                fresh &= np.isin(read.event_id, fewer.event_id)
        own = experiment_of(read, self.stated, self.noise)
        known = own is not None and own.drift is not None
        if known and self.drift != "auto":
            raise UsageError("the experiment states the drift; leave out --drift")
        events, words = drift_subtracted(read[fresh], "none" if known else self.drift)
        if words:
            note(words)
        if own is not None and self.experiment is None:
            note(f"{self.data} is of an experiment: {own}")
        for model in models.values():
            seen = events if own is None else own.rightly_assigned(events)
            note_what_is_assumed(model, seen, self.noise, own)
        aside = (events, "") if self.keep_flagged else trusted(models.values(), events, self.noise, own)
        chosen, line = aside
        if line:
            warn(f"{line}: left out; --keep-flagged keeps them")
        unusable = sum(events.origin.get("selection", {}).get("rejected", {}).values())
        return chosen, {"unusable": unusable, "flagged": len(events) - len(chosen)}

    def write(
        self, results: Mapping[str, Any], table: dict[str, Any], judged: tuple[flowcei.Events, dict[str, int]]
    ) -> None:
        """Write tables and pictures; print all as JSON where asked to, or else on what models were judged."""
        folder = options.made_folder(self.output, overwrite=self.overwrite)
        write_results(results, folder, overwrite=self.overwrite)
        (events, left_out), n, seed = judged, self.count, self.seed
        if self.as_json:
            about = {"data": str(self.data), "events": len(events), "samples": n, "seed": seed}
            about |= {"left_out": left_out, "noise": self.noise, "latent": self.latent} | table
            name = next(iter(results)).replace(".csv", ".json")
            show_json(about, folder / name, overwrite=self.overwrite)
            return
        title = f"{table['model']}: " if "model" in table else ""
        show(f"{title}{len(events)} events of {self.data}, {n} samples each, seed {seed}")
        if any(left_out.values()):
            show(f"left out: {left_out['unusable']} that cannot be used, {left_out['flagged']} flagged")


def judging_options(folder: str, json_text: str, *, count: int = 100, least: int = 1) -> Decorator:
    """Add the options of `Judging`; the command takes it as `judging`."""
    group = options.option_group(
        options.option("--data", "Events with positions, .csv or .h5.", options.INPUT, required=True),
        options.samples_option(count, least),
        options.noise_option,
        experiment_option("Instead of --noise: of the events, TOML; else that of simulated events."),
        options.latent_option,
        options.folder_option(folder),
        options.option("--seed", "Of the samples.", options.SEED, default=0, show_default=True),
        options.json_option(json_text),
        options.keep_flagged_option,
        options.drift_option,
        options.device_option,
        sharing_options,
        options.overwrite_option,
    )
    gather = options.gathered(Judging, "judging")
    return lambda command: group(gather(command))
