"""`flowcei info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import flowcei
from flowcei.cli import options
from flowcei.cli.inputs import is_samples, read_noted
from flowcei.cli.molecules import molecule_facts
from flowcei.cli.runs import BUNDLED, RUNS, find_model
from flowcei.cli.streams import show
from flowcei.errors import DataError
from flowcei.models.registry import listed_options
from flowcei.molecules.molecule import built_in_molecules
from flowcei.storage.files import check_readable
from flowcei.units import DALTON, ELECTRONVOLT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowcei.events.foreign.interpretation import Reading
    from flowcei.posterior.weights import Weights
    from flowcei.storage.card import ModelCard

    Facts = dict[str, Any]

_LONG = 20  # lines of a list that are shown
_RECIPE = {
    "accuracy": "accuracy of momenta",
    "pilot_events": "events the scaler saw",
    "validation_events": "events of validation",
}
# Entries of a training that have a place of their own.
_SHOWN = {"name", "parameters", "simulation", "data", "prior", "prior_name", "noise_added", "seen", "seed"}
_SHOWN |= {"schedule", "epochs_run", "validation_loss", "round_trip_error", "rows_per_second", "figures"}
_SHOWN |= {"versions", "judgement"}


@click.command()
@click.argument("file", type=options.OUTPUT)
@options.molecule_option
@options.reading_options
@options.json_option()
def info(*, file: Path, molecule: str | None, reading: Callable[[], Reading], as_json: bool) -> None:
    """Print everything that FILE says of itself: a model or run folder, events, samples, a molecule.

    Example: flowcei info runs/ocs-cinn-1
    """
    table, sections = _facts(file, molecule, reading)
    if as_json:
        show(json.dumps(table, indent=1, default=str))
        return
    for heading, facts in sections.items():
        if heading:
            show(f"\n{heading}")
        for key, value in facts.items():
            text = json.dumps(_short(value)) if isinstance(value, dict | list) else str(value)
            show(f"{'  ' * bool(heading) + key:20s} " + text.replace("\n", f"\n{'':21s}"))


def _short(value: Any) -> Any:  # noqa: ANN401 (of JSON)
    """Value without the numbers of long tables."""
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items()}
    return f"{len(value)} numbers" if isinstance(value, list) and len(value) > _LONG else value


def _facts(
    file: Path, molecule: str | None, reading: Callable[[], Reading]
) -> tuple[Facts, dict[str, Facts]]:
    """Facts of a file as --json prints them, and as texts under headings."""
    if str(file) == BUNDLED and not file.exists():
        from flowcei.storage.modelfile import bundled_model

        with bundled_model() as path:
            return _model_facts(path)
    if not file.exists() and str(file) in built_in_molecules():
        facts = molecule_facts(flowcei.Molecule.load(str(file)))
        return facts, {"": facts}
    if file.is_dir() or (not file.exists() and (RUNS / file).is_dir()):
        file = find_model(str(file)) or file
    check_readable(file)
    if file.suffix.lower() in (".toml", ".png"):
        message = "is no model, events or samples; give the run folder or a .safetensors, .csv or .h5 file"
        raise DataError(message, path=file)
    if file.suffix.lower() == ".safetensors":
        return _model_facts(file)
    if is_samples(file):
        facts = _sample_facts(flowcei.read_samples(file))
    else:
        stated = None if molecule is None else flowcei.Molecule.load(molecule)
        facts = _event_facts(read_noted(file, stated, reading()))
    return facts, {"": facts}


def _model_facts(file: Path) -> tuple[Facts, dict[str, Facts]]:
    """What a model says of itself, as it stands in the file and as texts under headings."""
    from flowcei.frame.kinds import frame_from_dict
    from flowcei.storage.modelfile import read_model

    card, tensors = read_model(file)
    try:
        molecule, frame = flowcei.Molecule.from_dict(card.molecule), frame_from_dict(card.frame)
        columns = (tensors[f"chart.{name}"].flatten().tolist() for name in ("mean", "scale"))
        coordinates = [list(row) for row in zip(frame.names(molecule.labels), *columns, strict=True)]
        options.warn_of_masses(molecule, of_model=True)
    except (DataError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"its description is damaged: {error}", path=file) from error
    basis, unit = "columns of the file", "bohr"
    if frame.invariant:
        basis, unit = "bonds in the recoil frame times KER", "bohr hartree"
    if card.frame.get("whitening"):
        basis, unit = "whitened by an approximation of each event", "deviations of its posterior"
    training = card.training.to_dict()
    sections = {
        "": {
            "content": "model",
            "name": training.get("name") or file.stem,
            "architecture": card.architecture + (f" ({_words(card.options)})" if card.options else ""),
            "parameters": f"{training.get('parameters', 0):,}",
        },
        "Molecule": _molecule_texts(card, molecule),
        f"Model coordinates: {basis}, mean and deviation, {unit}": {
            name: f"{mean:9.4f} +- {scale:.4f}" for name, mean, scale in coordinates
        },
        "Trained on": _training_texts(card, training),
        "Result": _result_texts(training, card.architecture),
        "File": _file_texts(card),
        "Other entries": {key: _words(value) for key, value in training.items() if key not in _SHOWN},
    }
    table = {"content": "model"} | card.to_dict()
    table["chart"] = {"what": basis, "unit": unit, "coordinates": coordinates}
    table["weights"] = "match" if card.checksum else "no checksum (format 1)"
    told = {
        heading: {key: text for key, text in facts.items() if text} for heading, facts in sections.items()
    }
    return table, {heading: facts for heading, facts in told.items() if facts}


def _file_texts(card: ModelCard) -> Facts:
    return {
        "format": f"{card.format_version}" if card.checksum else f"1, read as {card.format_version}",
        "written by flowcei": card.flowcei,
        "trained with": _words(card.training.versions) or "unknown versions",
        "weights": "match their checksum" if card.checksum else "carry no checksum (format 1)",
        "checksum": card.checksum,
    }


def _molecule_texts(card: ModelCard, molecule: flowcei.Molecule) -> Facts:
    table, labels, facts = card.frame, molecule.labels, _described(molecule, "name, charges (e)")
    if "fixed" in table:
        return facts | {"frame": f"raw: the file's own coordinates, {len(table['seen'])} momenta seen"}
    e1, e2, *e3 = (labels[k] for k in table["axes"])
    side = f", {e3[0]} on the side of e3" if e3 else ""
    folded = " (mirror images folded)" if table["reflect"] else ""
    same = "; ".join(", ".join(labels[k] for k in group) for group in table["identical"])
    frame = f"e1 along {e1}, {e2} in the plane of e2{side}{folded}"
    order = "aligned with the equilibrium" if table.get("reference") else "by falling speed"
    return facts | {"recoil frame": frame, "identical ions": f"{same} ({order})" if same else "none"}


def _training_texts(card: ModelCard, training: Facts) -> Facts:
    from flowcei.experiment.detector import Noise

    facts: Facts = {}
    if fresh := training.get("simulation"):
        facts["data"] = f"simulated afresh, {fresh['events_per_epoch']:,} events an epoch"
        recipe = (f", {word} {fresh[key]:g}" for key, word in _RECIPE.items() if fresh.get(key))
        facts["made again from"] = "molecule, prior, noise, seed" + "".join(recipe)
    if data := training.get("data"):
        facts["data"] = f"a file of {data['rows']:,} events, split by seed {data['split_seed']}"
        facts["sha256 of momenta"] = data["digest"]
    if training.get("forward"):
        facts["explosions by"] = training["forward"]
    facts["prior"], spec = "unknown: nobody stated it", training.get("prior")
    if spec is not None:
        rest = _words({key: value for key, value in spec.items() if key != "kind"})
        facts["prior"] = f"({spec.get('kind')})\n{rest}".rstrip()
    facts["prior"] = f"{training.get('prior_name') or ''} {facts['prior']}".lstrip()
    unit = "of the rms momentum component" if card.noise.relative else "hbar/bohr"
    added = "" if training.get("noise_added", True) else ", of the data themselves"
    level = Noise.of_card(card)
    facts["detector noise"] = f"{level} {unit}{added}"
    if longest := card.frame.get("build_up"):
        facts["build-up of charges"] = f"0..{longest:g}fs"
    if "seen" in training and "fixed" not in card.frame:
        low, high = (exp(min(training["seen"][k], 700.0)) / ELECTRONVOLT for k in ("low", "high"))
        facts["KER seen"] = f"{low:.3g} to {high:.3g} eV"
    seed, schedule = training.get("seed", "unknown"), training.get("schedule", {})
    return facts | {"seed": str(seed), "schedule": _words(schedule)}


def _result_texts(training: Facts, architecture: str) -> Facts:
    loss, error = training.get("validation_loss"), training.get("round_trip_error")
    rate, figures = training.get("rows_per_second"), training.get("figures")
    kind = listed_options().get(architecture)
    unit = f"{kind.loss}, in standardised coordinates" if kind and kind.loss else "of the best epoch"
    judgement = training.get("judgement", {})
    verdict = [str(judgement[key]) for key in ("summary", "todo") if judgement.get(key)]
    return {
        "epochs": str(training.get("epochs_run", "unknown")),
        "verdict": "\n".join(verdict) or "not judged",
        "validation loss": loss is not None and f"{loss:.5g} {unit}",
        "round-trip error": error is not None and f"{error:.2g}, of a sample and its density",
        "training rate": rate and f"{rate:,.0f} events a second",
        "figures": figures and f"(errors in bohr, coverages as fractions)\n{_words(figures)}",
    }


def _words(value: object) -> str:
    """Value as text: of a table plain values in one line, tables within it below one another."""
    if isinstance(value, dict):
        return _table(value)
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return "\n".join([*map(_words, value[:_LONG]), *["..."] * (len(value) > _LONG)])
    if isinstance(value, list):
        text = json.dumps(value)
        return text if len(text) <= 100 else f"{len(value)} entries"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(table: Facts) -> str:
    plain, below = [], []
    for key, value in table.items():
        text = _words(value)  # once: twice a level is 2^depth times
        if "\n" in text:
            below.append(f"{key}:\n{text}".replace("\n", "\n  "))
        elif isinstance(value, dict) and len(value) > 1:
            below.append(f"{key}: {text}")
        else:
            plain.append(f"{key} {text}")
    return "\n".join([", ".join(plain)] * bool(plain) + below)


def _sample_facts(samples: flowcei.PosteriorSamples) -> Facts:
    import numpy as np

    from flowcei.posterior.flags import FLAG_BITS

    options.warn_of_masses(samples.molecule)
    bits = np.zeros(len(samples), int) if samples.flags is None else samples.flags
    flagged = {name: int(((bits & bit) > 0).sum()) for name, bit in FLAG_BITS.items()}
    origin = dict(samples.origin)
    measured = origin.pop("events", {})
    return {
        "content": "posterior samples",
        **_described(samples.molecule),
        "events": len(samples),
        "events with flags": ", ".join(f"{n} {name}" for name, n in flagged.items() if n) or "none",
        "samples an event": samples.positions.shape[1],
        "density": "yes" if samples.log_prob is not None else "no",
        **({} if samples.weights is None else {"weights": _worth(samples.weights, exact=samples.exact)}),
        **origin,
        "noise": _noise(samples.sigma, samples.momenta),
        "the events are from": measured,
    }


def _worth(weights: Weights, *, exact: bool) -> str:
    """How many of exact or weighed samples count, in words."""
    from flowcei.posterior.exact import exact_in_words
    from flowcei.posterior.weights import efficiency_in_words

    return exact_in_words(weights.ess) if exact else efficiency_in_words(weights.ess, weights.drawn)


def _event_facts(events: flowcei.Events) -> Facts:
    import numpy as np

    from flowcei.physics.explosion import kinetic_energy

    options.warn_of_masses(events.molecule)
    energy = kinetic_energy(events.momenta, events.molecule.masses) / ELECTRONVOLT
    low, middle, high = np.percentile(energy, (5, 50, 95))
    total = np.linalg.norm(events.momenta.sum(axis=1), axis=-1)
    return {
        "content": "events",
        **_described(events.molecule),
        "events": len(events),
        "positions": "yes" if events.positions is not None else "no",
        "KER (eV)": f"{middle:.2f}, 5-95 %: {low:.2f} to {high:.2f}",
        "total momentum": f"{np.median(total):.3g} hbar/bohr (median)",
        **({} if events.sigma is None else {"noise": _noise(events.sigma, events.momenta)}),
        **events.origin,
    }


def _noise(sigma: NDArray[np.float64], momenta: NDArray[np.float64]) -> str:
    import numpy as np

    from flowcei.experiment.detector import rms_component

    relative = float(np.median(sigma / rms_component(momenta)))
    return f"{100 * relative:.3g} % of the rms component (median)"


def _described(molecule: flowcei.Molecule, title: str = "molecule") -> Facts:
    charges = zip(molecule.labels, molecule.charges, strict=True)
    masses = zip(molecule.labels, molecule.masses / DALTON, strict=True)
    return {
        title: f"{molecule.name} ({', '.join(f'{label} {charge:+g}' for label, charge in charges)})",
        "masses (u)": ", ".join(f"{label} {mass:.6g}" for label, mass in masses),
    }
