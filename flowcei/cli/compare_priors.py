"""`flowcei compare-priors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowcei.cli import options
from flowcei.cli.options import option
from flowcei.cli.streams import note, show, show_json, show_table, with_lengths_in, write_results
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from flowcei import Mixture


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

    found = flowcei.compare_priors(list(samples), prior, seed=seed, keep_flagged=keep_flagged)
    write_mixture(found, folder, "angstrom", as_json=as_json, overwrite=overwrite)


def write_mixture(found: Mixture, folder: Path, unit: str, *, as_json: bool, overwrite: bool) -> None:
    """Write and print a mixture."""
    options.made_folder(folder, overwrite=overwrite)
    components = found.components()
    results = {"table.csv": found.to_dataframe(), "events.csv": found.by_event()}
    results |= {"shares.png": found.plot("shares")}
    if len(components):
        results |= {"components.csv": components, "unfolded.png": found.plot("unfolded", unit)}
    write_results(results, folder, overwrite=overwrite)
    found.write(folder / "population.h5", overwrite=overwrite)
    if as_json:
        show_json(found.to_dict())
    else:
        show_table(found.to_dataframe(), as_json=False)
        if len(components):
            show("")
            show_table(with_lengths_in(unit, components), as_json=False)
    left = [f"{count} {word}" for word, count in found.left_out.items() if count]
    out = f" ({', '.join(left)})" if left else ""
    note(f"\n{len(found.event_id)} events{out}, {found.samples} samples each; p05 to p95: 90 % interval")
    note("log_evidence: of all events under this law alone, over that of the prior of the samples")
    note(f"tables, pictures and shares in {folder}")
