"""`flowcei sample`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli.options import (
    device_option,
    latent_option,
    noise_option,
    note,
    overwrite_option,
    samples_option,
    seed_option,
    settled_seed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from flowcei.models.interface import Latent
    from flowcei.posterior.samples import PosteriorSamples


@click.command(short_help="Draw the geometries that explain measured momenta.")
@click.option("--momenta", required=True, type=click.Path(path_type=Path), help="Events, .csv or .h5.")
@samples_option
@click.option("--model", help="Model file or run; the newest in runs/, else the bundled OCS model.")
@noise_option
@latent_option
@click.option("--weigh", is_flag=True, help="Weigh samples by the exact prior and likelihood.")
@click.option(
    "--min-ess",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Effective samples an event should have; more are drawn where it has fewer. Implies --weigh.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    help="Samples drawn of one event, at the most; 100 times -n if absent.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File, .h5 or .csv; - for CSV on stdout; NAME.samples.h5 if absent.",
)
@seed_option
@device_option
@overwrite_option
def sample(
    *,
    momenta: Path,
    count: int,
    model: str | None,
    noise: str | None,
    latent: Latent,
    weigh: bool,
    min_ess: float,
    budget: int | None,
    output: Path | None,
    seed: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Draw, for every event of a file, geometries that explain its momenta.

    Example: flowcei sample --momenta events.csv -n 100
    """
    import numpy as np
    from tqdm import tqdm

    from flowcei.cli.runs import BUNDLED, load_named, note_what_is_assumed
    from flowcei.errors import UsageError
    from flowcei.events.storage import read_events
    from flowcei.files import same_file
    from flowcei.posterior.storage import check_samples_path, write_samples, write_samples_csv

    place = output or Path(f"{momenta.stem}.samples.h5")
    if same_file(place, momenta):
        msg = f"{momenta} holds the momenta; give -o another name"
        raise UsageError(msg)
    to_pipe = str(place) == "-"
    if not to_pipe:
        check_samples_path(place, overwrite=overwrite)
    name, reconstructor = load_named(model, device)
    found = ", the newest of runs/ (--model names another)" if model is None and name != BUNDLED else ""
    note(f"model {name}{found} ({reconstructor.architecture}, {reconstructor.molecule.name})")
    events = read_events(momenta, reconstructor.molecule)
    note_what_is_assumed(reconstructor, events, noise)
    seed = settled_seed(seed)
    options: dict[str, Any] = {"noise": noise, "latent": latent, "seed": seed}
    options |= {"weigh": weigh, "min_ess": min_ess, "budget": budget}
    stream = reconstructor.stream(events, count, **options)
    flags: list[NDArray[np.uint8]] = []
    quality: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
    with tqdm(total=len(events), unit=" events", disable=None, leave=False) as bar:

        def counted() -> Iterator[PosteriorSamples]:
            for part in stream:
                yield part
                if part.flags is not None:
                    flags.append(part.flags)
                if part.weights is not None:
                    quality.append((part.weights.efficiency, part.weights.drawn))
                bar.update(len(part))

        if to_pipe:
            write_samples_csv(counted(), sys.stdout)
        else:
            write_samples(counted(), place, overwrite=overwrite)
    _say_quality(np.concatenate(flags), events.numbers, quality)
    if to_pipe:
        return
    note(f"{len(events)} events x {count} samples written to {place}")
    if place.suffix != ".csv":
        note(f"next: flowcei spread {place}, flowcei modes {place}")


def _say_quality(
    flags: NDArray[np.uint8],
    ids: NDArray[np.int64],
    quality: list[tuple[NDArray[np.float64], NDArray[np.int64]]],
) -> None:
    """Warn of events that their samples speak against, and say what the weights left of them."""
    import numpy as np

    from flowcei.cli.runs import note_flags
    from flowcei.posterior.flags import AFTERWARDS

    note_flags({name: (flags & bit) > 0 for name, bit in AFTERWARDS.items()}, ids)
    if quality:
        efficiency, drawn = (np.concatenate(table) for table in zip(*quality, strict=True))
        low, middle = np.quantile(efficiency, (0.1, 0.5))
        note(
            f"sample efficiency {middle:.1%} (median; a tenth of the events below {low:.1%}), "
            f"{drawn.mean():.0f} samples drawn of an event"
        )
