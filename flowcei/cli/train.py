"""`flowcei train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from flowcei.cli.options import device_option, note, overwrite_option, seed_option, settled_seed

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.training import EpochRecord, Schedule

_PARAMETERS_A_ROW = 20


@click.command(short_help="Train a model, on fresh simulations or on a file.")
@click.option(
    "--arch",
    default="cinn",
    show_default=True,
    help="cinn, latent-cinn, cvae, ae-cvae, mlp; untrained: solver, nearest, mean, marginal.",
)
@click.option("--couplings", type=int, help="Couplings of a flow (cinn, latent-cinn: 8).")
@click.option("--coupling", help="glow (affine) or spline (cinn: glow).")
@click.option("--bins", type=int, help="Bins of a spline coupling (8).")
@click.option("--hidden", type=int, help="Width of hidden layers.")
@click.option("--depth", type=int, help="Number of hidden layers.")
@click.option("--context", type=int, help="Width of the conditional subnet's output (flows).")
@click.option("--latent", type=int, help="Width of the latent of a CVAE (6).")
@click.option("--decoder-noise", help="learned, or fixed as in the first study (CVAEs: learned).")
@click.option("--starts", type=int, help="Searches an event (solver: 20).")
@click.option("--steps", type=int, help="Steps of a search, at the most (solver: 40).")
@click.option("--neighbours", type=int, help="Rows that the look-up table averages (nearest: 1).")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Events with positions; simulated afresh if absent."
)
@click.option("--molecule", help="A built-in name, .toml or .xyz; ocs, or what --data says, if absent.")
@click.option("--prior", help="Which geometries to simulate; the molecule's default if absent.")
@click.option(
    "--noise", metavar="RANGE", help="Detector noise to train for, 1% or a range; 0.1%..5% if absent."
)
@click.option(
    "--frame",
    type=click.Choice(["recoil", "raw"]),
    default="recoil",
    show_default=True,
    help="Coordinates: the recoil frame, or the file's own (as the first study did; to compare).",
)
@click.option("--epochs", type=int, default=10, show_default=True, help="Passes at the most.")
@click.option(
    "--events", type=int, default=100_000, show_default=True, help="Fresh events an epoch, without --data."
)
@click.option("--batch", type=int, default=1024, show_default=True, help="Events a step.")
@click.option(
    "--learning-rate", type=float, default=3e-3, show_default=True, help="Peak of the one-cycle schedule."
)
@click.option(
    "--patience", type=int, default=10, show_default=True, help="Epochs without progress to stop after."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder; runs/NAME if absent.")
@seed_option
@device_option
@overwrite_option
def train(
    *,
    arch: str,
    data: Path | None,
    molecule: str | None,
    prior: str | None,
    noise: str | None,
    frame: str,
    epochs: int,
    events: int,
    batch: int,
    learning_rate: float,
    patience: int,
    output: Path | None,
    seed: int | None,
    device: str,
    overwrite: bool,
    **options: int | str | None,
) -> None:
    """Train a model that reads geometries out of momenta, and write it to a run folder.

    Without --data, events of the molecule are simulated as the training goes on and no
    epoch sees one twice.

    Example: flowcei train --arch cinn --couplings 8
    """
    from flowcei.cli.runs import check_run_folder, write_run
    from flowcei.errors import UsageError
    from flowcei.events.storage import read_events
    from flowcei.fitting import train as run
    from flowcei.molecule import Molecule
    from flowcei.training import Schedule, best_of

    given = {name: value for name, value in options.items() if value is not None}
    schedule = Schedule(epochs=epochs, batch=batch, learning_rate=learning_rate, patience=patience)
    if data is not None and prior is not None:
        msg = "--prior says what to simulate; with --data nothing is simulated"
        raise UsageError(msg)
    recorded = read_events(data, molecule) if data is not None else None
    known = recorded.molecule if recorded is not None else Molecule.load(molecule or "ocs")
    folder = check_run_folder(output, f"{known.name}-{arch}", overwrite=overwrite)
    seed = settled_seed(seed)
    rows = int(0.8 * len(recorded)) if recorded is not None else events
    config: dict[str, Any] = {
        "arch": arch, **given, "data": str(data or ""), "molecule": molecule or known.name,
        "prior": prior or "", "noise": noise or "", "frame": frame, "epochs": epochs, "events": events,
        "batch": batch, "learning_rate": learning_rate, "patience": patience, "seed": seed,
        "device": device,
    }  # fmt: skip
    if recorded is not None:
        _note_findings(recorded)
    note(f"training {arch} on {'the events of ' + str(data) if data else 'fresh events of ' + known.name}")
    with _Progress(rows, schedule) as progress:
        model = run(
            arch,
            molecule=known,
            data=recorded,
            prior=prior,
            noise=noise,
            frame=frame,
            options=given,
            schedule=schedule,
            events_per_epoch=events,
            seed=seed,
            device=device,
            on_step=progress.step,
            on_epoch=progress.epoch,
        )
    _note_few_rows(model.card["parameters"], rows if recorded is not None else None)
    write_run(model, progress.records, config, folder, overwrite=overwrite)
    best = best_of(progress.records)
    note(f"validation loss {best.validation_loss:.4f} (epoch {best.epoch}), model in {folder}")


def _note_findings(events: Events) -> None:
    """Say what `flowcei check` would warn of, a line each."""
    from flowcei.doctor.examination import examine

    for finding in examine(events):
        if finding.severity != "note":
            note(f"warning ({finding.code}): {finding.what}; {finding.means}")


def _note_few_rows(parameters: int, rows: int | None) -> None:
    """Warn where a file has too few events for the network; fresh simulations have no end."""
    if rows is not None and parameters > _PARAMETERS_A_ROW * rows:
        note(
            f"warning: {rows} training events for {parameters} parameters: they may be learned by heart; "
            "fewer --couplings or --hidden, or no --data, so that events are simulated"
        )


class _Progress:
    """A bar with loss and rate on a terminal; a line an epoch otherwise."""

    def __init__(self, rows: int, schedule: Schedule) -> None:
        from tqdm import tqdm

        self.records: list[EpochRecord] = []
        self._epochs = schedule.epochs
        self._bar = tqdm(
            total=rows * schedule.epochs, unit=" events", unit_scale=True, disable=None, leave=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, rows: int, loss: float) -> None:
        self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.update(rows)

    def epoch(self, record: EpochRecord) -> None:
        self.records.append(record)
        self._bar.clear()
        if math.isnan(record.train_loss):  # nothing has a gradient
            note(f"nothing to train: the training events are kept; validation {record.validation_loss:.4f}")
            return
        note(
            f"epoch {record.epoch:3d}/{self._epochs}  loss {record.train_loss:8.4f}  "
            f"validation {record.validation_loss:8.4f}  {record.rows_per_second:8.0f} events/s"
        )
