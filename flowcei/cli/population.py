"""`flowcei population`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli import options
from flowcei.cli.compare_priors import (
    by_option,
    cross_correlation_option,
    note_comparison,
    note_differing,
    note_events,
    note_smooth,
    write_mixture,
    write_pathways,
)
from flowcei.cli.experiment_options import experiment_option
from flowcei.cli.options import option
from flowcei.cli.sharing import Sharing, sharing_options
from flowcei.cli.streams import note, show, show_json, show_table, with_lengths_in, write_results
from flowcei.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei import Events, FreeLaw, Molecule, Population, Series


_RESAMPLED = 50  # laws of events drawn with replacement


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.replace(",", " ").split() if name)


@click.command()
@click.argument("samples", type=options.INPUT, nargs=-1, required=True)
@option(
    "--coordinates", "Of the law: 'c-o c-s'; all that the prior has if absent.", default="", metavar="NAMES"
)
@option(
    "--law",
    "One normal law, several, one without a form; or of all vibrations, from events.",
    click.Choice(["normal", "mixture", "free", "vibrations"]),
    default="normal",
)
@option("--components", "Normal laws of a mixture; 2 if absent.", click.IntRange(2, 9))
@by_option("a law")
@cross_correlation_option
@option("--bootstrap", "Laws of events drawn with replacement, for errors; 50 if absent.", click.IntRange(0))
@option("--truth", "Events with positions, drawn beside the law.", options.INPUT)
@option("--molecule", "Of vibrations: a name, .toml or .xyz, where the file does not say.", options.MOLECULE)
@option("--prior", "Of vibrations: normal modes of the molecule; its default if absent.", options.PRIOR_NAME)
@option("--noise", "Of vibrations: 1%, or 0.5 (a.u.); that of the file if absent.", options.NOISE)
@experiment_option("Of vibrations, instead of --noise, TOML.")
@option("--missing", "Of vibrations: ions that an event may lack.", click.IntRange(0), default=0)
@options.output_option("Folder; NAME-population if absent.")
@options.json_option("All numbers as JSON, lengths in bohr.")
@options.length_option
@option(
    "--seed", "Of the events that are drawn with replacement, and the prediction.", options.SEED, default=0
)
@options.keep_flagged_option
@sharing_options
@options.overwrite_option
def population(
    *,
    samples: tuple[Path, ...],
    coordinates: str,
    law: str,
    components: int | None,
    by: str | None,
    cross_correlation: float,
    bootstrap: int | None,
    truth: Path | None,
    molecule: str | None,
    prior: str | None,
    noise: str | None,
    experiment: Path | None,
    missing: int,
    output: Path | None,
    as_json: bool,
    length_unit: str,
    seed: int,
    keep_flagged: bool,
    sharing: Sharing,
    overwrite: bool,
) -> None:
    """Unfold the law of bonds and angles from SAMPLES of many events.

    Sought is the normal law under which all events together are likeliest: its means, widths and
    correlations, without the noise of the detector and without the pull of the prior. Samples must be
    weighed or exact (flowcei sample --weigh or --exact), of one molecule, prior and experiment. Events count
    by their P(true); flagged ones are left out, unless --keep-flagged.

    Where the samples are too few, or the prior does not cover the law, it is refused. What the law predicts
    of the momenta is compared with the run.

    With --law mixture several normal laws are sought: their shares, means and widths, and the probability
    of each event to be of each (events.csv). With --law free the distribution of one or two --coordinates
    has no form; its smoothness is chosen by events that are left out. With --by delay there is a normal law
    for each value of a column of the events, and where there are five or more a law of all events that
    changes smoothly, at true delays: the length of the pulses (--cross-correlation) is taken out. With both
    --law mixture and --by there are shares at each value, and shares that change smoothly.

    With --law vibrations SAMPLES are one file of events: the law of all normal modes of a stiff molecule, of
    three atoms or eleven, without a model. --experiment says how wide the source is where events lack ions.

    --workers and --cluster share the laws of --bootstrap.

    Writes population.h5, table.csv, correlations.csv and pictures.

    Example: flowcei population events.samples.h5
    """
    folder = output or Path(f"{samples[0].stem.removesuffix('.samples')}-population")
    options.check_folder(folder, overwrite=overwrite)
    if truth is not None and (law not in ("normal", "vibrations") or by):
        raise UsageError("--truth is drawn beside one normal law")
    kind: dict[str, Any] = {"components": components, "by": by, "cross_correlation": cross_correlation}
    kind |= {"bootstrap": bootstrap, "keep_flagged": keep_flagged}
    stated = {"prior": prior, "noise": noise, "experiment": experiment, "missing": missing}
    names = _names(coordinates)
    if law == "vibrations":
        _refuse(kind | {"workers": sharing.shared}, "is not of --law vibrations")
        fitted: Any = _vibrations(samples, names, molecule, stated, seed)
    else:
        _refuse(stated | {"molecule": molecule}, "is of --law vibrations; samples know theirs")
        kind["bootstrap"] = _RESAMPLED if bootstrap is None else bootstrap
        each = sharing.each("flowcei.ensemble.uncertainty", "flowcei.ensemble.free")
        fitted = _of_samples(samples, names, kind | {"law": law, "seed": seed, "each": each})
    shown: dict[str, Any] = {"as_json": as_json, "overwrite": overwrite}
    shown |= {} if truth is None else {"truth": truth, "missing": missing}
    _written(fitted)(fitted, folder, length_unit, **shown)


def _of_samples(samples: tuple[Path, ...], names: tuple[str, ...], kind: dict[str, Any]) -> Any:  # noqa: ANN401
    """A law of samples, of any kind, with what is to be said of their runs."""
    import flowcei
    from flowcei.cli.inputs import warn_of_runs

    warn_of_runs(samples)
    return flowcei.population(list(samples), names, **kind)


def _vibrations(
    files: tuple[Path, ...], names: tuple[str, ...], molecule: str | None, stated: dict[str, Any], seed: int
) -> Population:
    """The law of the normal modes of the events of a file."""
    import flowcei
    from flowcei.cli.inputs import is_samples

    if len(files) != 1:
        raise UsageError("a law of vibrations is of one file of events")
    if is_samples(files[0]):
        raise UsageError(f"{files[0]} holds samples: a law of vibrations is of the events themselves")
    own = None if molecule is None else flowcei.Molecule.load(molecule)
    run = _read(files[0], own, stated.pop("missing"))
    return flowcei.vibrational_law(run, names, **stated, seed=seed)


def _written(fitted: Any) -> Callable[..., None]:  # noqa: ANN401
    """What writes and prints a law of its kind."""
    import flowcei

    if isinstance(fitted, flowcei.Mixture):
        return write_mixture
    return write_pathways if isinstance(fitted, flowcei.Pathways) else _write_law


def _write_law(
    fitted: Population | FreeLaw | Series,
    folder: Path,
    unit: str,
    *,
    as_json: bool,
    overwrite: bool,
    truth: Path | None = None,
    missing: int = 0,
) -> None:
    """Write and print one law, or those along a column."""
    events = None if truth is None else _read(truth, fitted.molecule, missing)
    results = _results(fitted, unit, events)
    options.made_folder(folder, overwrite=overwrite)
    write_results(results, folder, overwrite=overwrite)
    fitted.write(folder / "population.h5", overwrite=overwrite)
    if as_json:
        show_json(fitted.to_dict())
    else:
        _show(fitted, results, unit)
    note_events(fitted)
    _note(fitted)
    note(f"tables, pictures and the law in {folder}")


def _refuse(given: dict[str, Any], why: str) -> None:
    """Raise UsageError where one of the options, by the names of their parameters, was given."""
    for name, value in given.items():
        if value or (name == "bootstrap" and value is not None):
            raise UsageError(f"--{name.replace('_', '-')} {why}")


def _read(file: Path, molecule: Molecule | None, missing: int) -> Events:
    """Events of a file, also such that lack so many ions."""
    from flowcei.cli.inputs import read_noted
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.events.selection import Selection

    return read_noted(file, molecule, Reading(selection=Selection(missing=missing)))


def _results(fitted: Population | FreeLaw | Series, unit: str, truth: Events | None) -> dict[str, Any]:
    """Tables and pictures of a law by the names of their files."""
    from flowcei import Population, Series

    results: dict[str, Any] = {"table.csv": fitted.to_dataframe()}
    if not isinstance(fitted, Population):
        name = "series" if isinstance(fitted, Series) else "unfolded"
        results |= {f"{name}.png": fitted.plot(name, unit)}
        if isinstance(fitted, Series) and fitted.smooth is not None:
            results |= {"smooth.csv": fitted.smooth_table(), "movie.gif": fitted.gif(unit)}
        return results
    coordinates = None if truth is None else fitted.coordinates_of(truth)
    pictures = ("unfolded", *(("corner", "correlation") if len(fitted.coordinates) > 1 else ()))
    results |= {f"{name}.png": fitted.plot(name, unit, coordinates) for name in pictures}
    return results | {"correlations.csv": fitted.correlations()}


def _show(fitted: Population | FreeLaw | Series, results: dict[str, Any], unit: str) -> None:
    """Print the tables of a law."""
    from flowcei import Series

    table = with_lengths_in(unit, fitted.to_dataframe())
    if isinstance(fitted, Series):  # whose values are no lengths
        table[fitted.by] = fitted.to_dataframe()[fitted.by]
    show_table(table.drop(columns=["mean_p05", "mean_p95", "sd_error"], errors="ignore"), as_json=False)
    if len(results.get("correlations.csv", ())):
        show("")
        show_table(results["correlations.csv"], as_json=False)


def _note(fitted: Population | FreeLaw | Series) -> None:
    """Say how far a law is to be believed."""
    from flowcei import FreeLaw, Series

    blur = "" if isinstance(fitted, FreeLaw) else " blur: within an event;"
    note(f"raw: samples pooled under the prior;{blur} mean, sd: the law, with 90 % intervals")
    if isinstance(fitted, FreeLaw):
        note("smoothed: width of the kernel under which events that were left out are likeliest")
        note_comparison(fitted)
        return
    if isinstance(fitted, Series):
        note_differing(fitted)
        if fitted.smooth is None:
            note(f"no smooth law: {fitted.refused}")
        else:
            files = "smooth.csv, movie.gif"
            note_smooth(
                fitted, "laws", f"{files}: one law of all events that changes smoothly, at true values"
            )
        return
    for one, bend, width in zip(fitted.coordinates, fitted.law.bends, fitted.law.deviation[0], strict=True):
        if bend:
            note(f"{one.name} bends about a straight line by {width:.3g} deg in each direction")
    note_comparison(fitted)
