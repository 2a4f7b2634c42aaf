"""`flowcei compare-priors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli import options
from flowcei.cli.options import option
from flowcei.cli.streams import note, show, show_json, show_table, warn, with_lengths_in, write_results
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei import Mixture, Pathways, Series
    from flowcei.ensemble.result import EnsembleLaw

_MANY = 0.5  # flagged events over those that count
_UNLIKELY = 1e-3

cross_correlation_option = option(
    "--cross-correlation",
    "Full width at half maximum of the two pulses together, in units of the column of --by.",
    click.FloatRange(min=0.0),
    default=0.0,
    metavar="WIDTH",
)


def by_option(each: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that names a column, with what there is at each of its values."""
    return option(
        "--by", f"An extra column, as a delay: {each} for each value, or for ranges.", metavar="COLUMN"
    )


@click.command()
@click.argument("samples", type=options.INPUT, nargs=-1, required=True)
@option("--prior", "A prior of the molecule, or its TOML file; two or more.", metavar="NAME", multiple=True)
@by_option("shares")
@cross_correlation_option
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
    by: str | None,
    cross_correlation: float,
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
    of each, and a picture. With --by delay there are shares at each value of a column of the events, and
    of five or more shares that change smoothly, at true values (smooth.csv), in place of events.csv.

    Example: flowcei compare-priors events.samples.h5 --prior equilibrium --prior stretched
    """
    folder = output or Path(f"{samples[0].stem.removesuffix('.samples')}-priors")
    options.check_folder(folder, overwrite=overwrite)
    if len(prior) < 2:
        raise UsageError("name two priors or more: --prior a --prior b")
    import flowcei
    from flowcei.cli.inputs import warn_of_runs

    warn_of_runs(samples)
    along: dict[str, Any] = {"by": by, "cross_correlation": cross_correlation}
    fitted = flowcei.compare_priors(list(samples), prior, **along, seed=seed, keep_flagged=keep_flagged)
    write: Callable[..., None] = write_pathways if isinstance(fitted, flowcei.Pathways) else write_mixture
    write(fitted, folder, "angstrom", as_json=as_json, overwrite=overwrite)


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


def write_pathways(fitted: Pathways, folder: Path, unit: str, *, as_json: bool, overwrite: bool) -> None:
    """Write and print shares along a column."""
    components = fitted.components()
    results = {"table.csv": fitted.to_dataframe()}
    results |= {"components.csv": components} if len(components) else {}
    results |= {} if fitted.smooth is None else {"smooth.csv": fitted.smooth_table()}
    options.made_folder(folder, overwrite=overwrite)
    write_results(results | {"shares.png": fitted.plot("shares", unit)}, folder, overwrite=overwrite)
    fitted.write(folder / "population.h5", overwrite=overwrite)
    if as_json:
        show_json(fitted.to_dict())
    else:
        show_table(fitted.to_dataframe(), as_json=False)
    note_events(fitted)
    where = "; components.csv: means and widths of the laws" if len(components) else ""
    note(f"p05 to p95: 90 % interval of the share{where}")
    for why in dict.fromkeys(fitted.refused.values()):
        at = ", ".join(f"{value:.4g}" for value, one in fitted.refused.items() if one == why)
        warn(f"no shares at {fitted.by} = {at}: {why}", "law")
    if fitted.overlapping:
        at = ", ".join(f"{value:.4g}" for value in fitted.overlapping)
        form = "normal" if len(components) else "as its prior says"
        warn(f"the laws overlap at {fitted.by} = {at}: shares there hold only if each law is {form}", "law")
    if fitted.smooth is None:
        note(f"no smooth shares: the laws are separate at {len(fitted.values)} values, 5 are needed")
    else:
        note_smooth(fitted, "shares", "smooth.csv: shares that change smoothly, at true values")
    note_differing(fitted)
    note(f"tables, picture and shares in {folder}")


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


def note_differing(fitted: Pathways | Series) -> None:
    """Say at which values of a column the run is not what the laws predict."""
    each = zip(fitted.values, fitted.laws, strict=True)
    if off := [f"{value:.4g}" for value, one in each if differs(one)]:
        warn(f"the law is no good description of the events at {fitted.by} = {', '.join(off)}", "law")


def note_smooth(fitted: Pathways | Series, what: str, written: str) -> None:
    """Say where the smooth laws or shares are, or that they do not follow those of each value."""
    if fitted.misfit < _UNLIKELY:
        off = f"the smooth {what} do not follow those of each {fitted.by} (p = {fitted.misfit:.2g})"
        warn(f"{off}: something changes faster than they can", "law")
    else:
        note(written)
