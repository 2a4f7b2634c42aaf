"""`flowcei compare-priors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli import options
from flowcei.cli.options import option
from flowcei.cli.streams import note, show, show_json, show_table, warn, with_lengths_in, write_results
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from flowcei import Mixture
    from flowcei.ensemble.result import EnsembleLaw

_MANY = 0.5  # flagged events over those that count


@click.command()
@click.argument("samples", type=options.INPUT, nargs=-1, required=True)
@option("--prior", "A prior of the molecule, or its TOML file; two or more.", metavar="NAME", multiple=True)
@options.output_option("Folder; NAME-priors if absent.")
@options.json_option()
@option(
    "--seed", "Of the events that are drawn with replacement, and the prediction.", options.SEED, default=0
)
@options.keep_flagged_option
@options.overwrite_option
def compare_priors(
    *,
    samples: tuple[Path, ...],
    prior: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    seed: int,
    keep_flagged: bool,
    overwrite: bool,
) -> None:
    """Say which of several priors the events of SAMPLES are of.

    Isomers, enantiomers, pathways: each is a prior of the molecule, and all lie within that of the samples,
    which are weighed or exact. A TOML file holds what stands below [priors.NAME] in that of a molecule.
    Prints shares with errors and log evidences; writes events.csv, with the probability of each event to be
    of each, and a picture.

    Example: flowcei compare-priors events.samples.h5 --prior equilibrium --prior stretched
    """
    folder = output or Path(f"{samples[0].stem.removesuffix('.samples')}-priors")
    options.check_folder(folder, overwrite=overwrite)
    if len(prior) < 2:
        raise UsageError("name two priors or more: --prior a --prior b")
    import flowcei
    from flowcei.cli.inputs import warn_of_runs

    warn_of_runs(samples)
    fitted = flowcei.compare_priors(list(samples), prior, seed=seed, keep_flagged=keep_flagged)
    write_mixture(fitted, folder, "angstrom", as_json=as_json, overwrite=overwrite)


def write_mixture(fitted: Mixture, folder: Path, unit: str, *, as_json: bool, overwrite: bool) -> None:
    """Write and print a mixture."""
    options.made_folder(folder, overwrite=overwrite)
    components = fitted.components()
    results = {"table.csv": fitted.to_dataframe(), "events.csv": fitted.by_event()}
    results |= {"shares.png": fitted.plot("shares")}
    if len(components):
        results |= {"components.csv": components, "unfolded.png": fitted.plot("unfolded", unit)}
    write_results(results, folder, overwrite=overwrite)
    fitted.write(folder / "population.h5", overwrite=overwrite)
    if as_json:
        show_json(fitted.to_dict())
    else:
        show_table(fitted.to_dataframe(), as_json=False)
        if len(components):
            show("")
            show_table(with_lengths_in(unit, components), as_json=False)
    note_events(fitted)
    note("p05 to p95: 90 % interval of the share")
    note("log_evidence: of all events under this law alone, over that of the prior of the samples")
    note_comparison(fitted)
    note(f"tables, pictures and shares in {folder}")


def differs(law: EnsembleLaw) -> bool:
    """Whether the run is not what a law predicts."""
    return law.check is not None and law.check.compared > 0 and not law.check.sound


def note_comparison(law: EnsembleLaw) -> None:
    """Say whether the momenta of the run are those that a law predicts."""
    if (check := law.check) is None:
        return
    if differs(law):
        verdict = check.verdict.replace("the prior population", "the law")
        warn(f"{verdict}: the law is no good description of these events", "law")
        return
    note(check.summary.replace("the prior population", "the law"))
    if check.compared:
        note("a wrong momentum scale, charge or mass has such a law too: flowcei check EVENTS --model tells")


def note_events(law: EnsembleLaw) -> None:
    """Say how many events a law is of, and how many do not count as they should."""
    from flowcei.ensemble.result import FLAGGED

    counts = [f"{count} {reason}" for reason, count in law.left_out.items() if count]
    of = f" ({', '.join(counts)})" if counts else ""
    note(f"\n{law.events} events{of}, {law.samples} samples each")
    if law.left_out.get(FLAGGED, 0) > _MANY * law.events:
        warn("so many are flagged that the others may not stand for all: flowcei check EVENTS says why")
