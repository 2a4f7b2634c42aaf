"""`flowcei info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcei.cli.options import json_option, molecule_option, warn_of_masses
from flowcei.cli.reading import read_noted, reading_options
from flowcei.cli.streams import show

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from flowcei.events.container import Events
    from flowcei.events.foreign.interpretation import Reading
    from flowcei.molecules.molecule import Molecule
    from flowcei.storage.card import ModelCard

_RAW = "\n"  # no name of a fact: what --json prints instead of texts
_LONG = 20  # lines of a list that are shown
_RECIPE = {
    "accuracy": "accuracy of momenta",
    "pilot_events": "events the scaler saw",
    "validation_events": "events of validation",
}
_SHOWN = {
    *("name", "parameters", "simulation", "data", "prior", "prior_name", "noise_added", "seen", "seed"),
    *(
        "schedule",
        "epochs_run",
        "validation_loss",
        "round_trip_error",
        "rows_per_second",
        "figures",
        "versions",
    ),
}


class _Section(dict[str, Any]):
    """Facts under a heading."""


@click.command(short_help="Print what a model, data or sample file says of itself.")
@click.argument("file", type=click.Path(path_type=Path))
@molecule_option
@reading_options
@json_option()
def info(*, file: Path, molecule: str | None, reading: Callable[[], Reading], as_json: bool) -> None:
    """Print everything that FILE says of itself: a model or run folder, events or samples.

    Example: flowcei info runs/ocs-cinn-1
    """
    facts = _facts(file, molecule, reading)
    if as_json:
        show(json.dumps(facts.pop(_RAW, facts), indent=1, default=str))
        return
    for key, value in facts.items():
        if isinstance(value, _Section):
            show(f"\n{key}")
            for name, text in value.items():
                _print("  " + name, text)
        elif key != _RAW:
            _print(key, value)


def _print(key: str, value: object) -> None:
    """Print a fact; what has several lines is aligned."""
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    first, *rest = text.split("\n")
    show(f"{key:20s} {first}")
    for line in rest:
        show(f"{'':20s} {line}")


def _facts(file: Path, molecule: str | None, reading: Callable[[], Reading]) -> dict[str, Any]:
    from flowcei.cli.runfolder import RUNS
    from flowcei.cli.runs import BUNDLED, find_model
    from flowcei.errors import DataError
    from flowcei.storage.files import check_readable

    if str(file) == BUNDLED and not file.exists():
        from flowcei.storage.modelfile import bundled_model

        with bundled_model() as place:
            return _model_facts(place)
    if file.is_dir() or (not file.exists() and (RUNS / file).is_dir()):
        file = find_model(str(file)) or file
    check_readable(file)
    if file.suffix.lower() in (".toml", ".png"):
        what = "is no model, events or samples; give the run folder or a .safetensors, .csv or .h5 file"
        raise DataError(what, path=file)
    if file.suffix.lower() == ".safetensors":
        return _model_facts(file)
    if _is_samples(file):
        return _sample_facts(file)
    from flowcei.molecules.molecule import Molecule

    events = read_noted(file, None if molecule is None else Molecule.load(molecule), reading())
    warn_of_masses(events.molecule)
    return {"content": "events"} | _event_facts(events)


def _is_samples(file: Path) -> bool:
    from flowcei.errors import DataError
    from flowcei.events.hdf import is_hdf5
    from flowcei.storage.hdf import opened

    if not is_hdf5(file):
        return False
    try:
        with opened(file) as data:
            return bool(data.attrs.get("content") == "flowcei samples")
    except DataError:
        return False  # damaged: the reader says so


def _model_facts(file: Path) -> dict[str, Any]:
    """Return what a model says of itself as text in sections, and as it stands in the file."""
    from flowcei.errors import DataError
    from flowcei.molecules.molecule import Molecule
    from flowcei.storage.modelfile import read_model

    card, tensors = read_model(file)
    try:
        molecule = Molecule.from_dict(card.molecule)
        chart = _chart(card, molecule, tensors)
        warn_of_masses(molecule, of_model=True)
    except (DataError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"its description is damaged: {error}", path=file) from error
    said = card.training.to_dict()
    facts = {
        "content": "model",
        "name": said.get("name") or file.stem,
        "architecture": f"{card.architecture} ({_words(card.options)})"
        if card.options
        else card.architecture,
        "parameters": f"{said.get('parameters', 0):,}",
        "Molecule": _Section(_molecule_texts(card, molecule)),
        f"Model coordinates: {chart['what']}, mean and deviation, {chart['unit']}": _Section(
            {name: f"{mean:9.4f} +- {scale:.4f}" for name, mean, scale in chart["coordinates"]}
        ),
        "Trained on": _Section(_training_texts(card)),
        "Result": _Section(_result_texts(said)),
        "File": _Section(_file_texts(card)),
    }
    rest = {k: _words(v) for k, v in said.items() if k not in _SHOWN}
    return facts | ({"Other entries": _Section(rest)} if rest else {}) | {_RAW: _raw(card, chart)}


def _raw(card: ModelCard, chart: dict[str, Any]) -> dict[str, Any]:
    checked = "match" if card.checksum else "no checksum (format 1)"
    return {"content": "model"} | card.to_dict() | {"chart": chart, "weights": checked}


def _chart(card: ModelCard, molecule: Molecule, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the coordinates that a model answers in: name, mean and deviation of each."""
    from flowcei.frame.kinds import frame_from_dict

    frame = frame_from_dict(card.frame)
    means, scales = (tensors[f"chart.{part}"].flatten().tolist() for part in ("mean", "scale"))
    rows = zip(frame.names(molecule.labels), means, scales, strict=True)
    return {
        "what": "bonds in the recoil frame times KER" if frame.invariant else "columns of the file",
        "unit": "bohr hartree" if frame.invariant else "bohr",
        "coordinates": [list(row) for row in rows],
    }


def _masses(molecule: Molecule) -> str:
    from flowcei.units import DALTON

    rows = zip(molecule.labels, molecule.masses / DALTON, strict=True)
    return ", ".join(f"{label} {mass:.6g}" for label, mass in rows)


def _molecule_texts(card: ModelCard, molecule: Molecule) -> dict[str, str]:
    table = card.frame
    labels = molecule.labels
    facts = {"name, charges (e)": _described(molecule), "masses (u)": _masses(molecule)}
    if "fixed" in table:
        return facts | {"frame": f"raw: the file's own coordinates, {len(table['seen'])} momenta seen"}
    e1, e2, *e3 = (labels[k] for k in table["axes"])
    side = f", {e3[0]} on the side of e3" if e3 else ""
    folded = " (mirror images folded)" if table["reflect"] else ""
    same = "; ".join(", ".join(labels[k] for k in group) for group in table["identical"])
    facts["recoil frame"] = f"e1 along {e1}, {e2} in the plane of e2{side}{folded}"
    return facts | {"identical, sorted": same or "none"}


def _training_texts(card: ModelCard) -> dict[str, str]:
    from math import exp

    from flowcei.experiment.detector import Noise
    from flowcei.units import ELECTRONVOLT

    said, facts = card.training.to_dict(), {}
    fresh, data = said.get("simulation"), said.get("data")
    if fresh:
        facts["data"] = f"simulated afresh, {fresh['events_per_epoch']:,} events an epoch"
        facts["made again from"] = "molecule, prior, noise, seed" + "".join(
            f", {word} {fresh[key]:g}" for key, word in _RECIPE.items() if fresh.get(key)
        )
    if data:
        facts["data"] = f"a file of {data['rows']:,} events, split by seed {data['split_seed']}"
        facts["sha256 of momenta"] = data["digest"]
    facts["prior"] = " ".join(filter(None, [said.get("prior_name"), _prior(said.get("prior"))]))
    unit = "of the rms momentum component" if card.noise.relative else "hbar/bohr"
    added = "" if said.get("noise_added", True) else ", of the data themselves"
    level = Noise(card.noise.low, card.noise.high, relative=card.noise.relative)
    facts["detector noise"] = f"{level} {unit}{added}"
    if "seen" in said and "fixed" not in card.frame:
        low, high = (exp(min(said["seen"][k], 700.0)) / ELECTRONVOLT for k in ("low", "high"))
        facts["KER seen"] = f"{low:.3g} to {high:.3g} eV"
    facts["seed"] = str(said.get("seed", "unknown"))
    return facts | {"schedule": _words(said.get("schedule", {}))}


def _result_texts(said: dict[str, Any]) -> dict[str, str]:
    facts, loss, error = {}, said.get("validation_loss"), said.get("round_trip_error")
    facts["epochs"] = str(said.get("epochs_run", "unknown"))
    if loss is not None:
        unit = "of the best epoch" if error is None else "nat, in standardised coordinates"
        facts["validation loss"] = f"{loss:.5g} {unit}"
    if error is not None:
        facts["round-trip error"] = f"{error:.2g} standard deviations, at the most"
    if said.get("rows_per_second"):
        facts["training rate"] = f"{said['rows_per_second']:,.0f} events a second"
    if said.get("figures"):
        facts["figures"] = f"(errors in bohr, coverages as fractions)\n{_words(said['figures'])}"
    return facts


def _file_texts(card: ModelCard) -> dict[str, str]:
    found = "match their checksum" if card.checksum else "carry no checksum (format 1)"
    return {
        "format": f"{card.format_version}" if card.checksum else f"1, read as {card.format_version}",
        "written by flowcei": card.flowcei,
        "trained with": _words(card.training.versions) or "unknown versions",
        "weights": found,
    } | ({"checksum": card.checksum} if card.checksum else {})


def _prior(spec: dict[str, Any] | None) -> str:
    """Return a prior as text; long lists are counted."""
    if spec is None:
        return "unknown: nobody stated it"
    rest = {key: value for key, value in spec.items() if key != "kind"}
    return f"({spec.get('kind')})\n{_words(rest)}".rstrip()


def _words(value: object) -> str:
    """Return a table as text: plain values in one line, tables within it below one another."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return "\n".join(map(_words, value[:_LONG])) + ("\n..." if len(value) > _LONG else "")
    if isinstance(value, list):
        text = json.dumps(value)
        return text if len(text) <= 100 else f"{len(value)} entries"
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, dict):
        return str(value)
    words = {key: _words(part) for key, part in value.items()}  # once: twice a level is 2^depth times
    deep = {key for key, part in value.items() if "\n" in words[key] or _is_deep(part)}
    plain = [f"{key} {text}" for key, text in words.items() if key not in deep]
    below = [f"{key}:{_indented(text)}" for key, text in words.items() if key in deep]
    return "\n".join([", ".join(plain)] * bool(plain) + below)


def _is_deep(value: object) -> bool:
    return isinstance(value, dict) and len(value) > 1


def _indented(text: str) -> str:
    return "\n  " + text.replace("\n", "\n  ") if "\n" in text else f" {text}"


def _sample_facts(file: Path) -> dict[str, Any]:
    import numpy as np

    from flowcei.experiment.detector import rms_component
    from flowcei.posterior.files import read_samples
    from flowcei.posterior.flags import FLAG_BITS

    drawn = read_samples(file)
    warn_of_masses(drawn.molecule)
    origin = dict(drawn.origin)
    measured = origin.pop("events", {})
    relative = float(np.median(drawn.sigma / rms_component(drawn.momenta)))
    origin["noise"] = f"{100 * relative:.3g} % of the rms component (median)"
    bits = np.zeros(len(drawn), int) if drawn.flags is None else drawn.flags
    flagged = {name: int(((bits & bit) > 0).sum()) for name, bit in FLAG_BITS.items()}
    return {
        "content": "posterior samples",
        "molecule": _described(drawn.molecule),
        "masses (u)": _masses(drawn.molecule),
        "events": len(drawn),
        "events with flags": ", ".join(f"{n} {name}" for name, n in flagged.items() if n) or "none",
        "samples an event": drawn.positions.shape[1],
        "density": "yes" if drawn.log_prob is not None else "no",
        **origin,
        "the events are from": measured,
    }


def _event_facts(events: Events) -> dict[str, Any]:
    import numpy as np

    from flowcei.experiment.detector import rms_component
    from flowcei.physics.explosion import kinetic_energy
    from flowcei.units import ELECTRONVOLT

    energy = kinetic_energy(events.momenta, events.molecule.masses) / ELECTRONVOLT
    low, middle, high = np.percentile(energy, (5, 50, 95))
    total = np.linalg.norm(events.momenta.sum(axis=1), axis=-1)
    facts = {
        "molecule": _described(events.molecule),
        "masses (u)": _masses(events.molecule),
        "events": len(events),
        "positions": "yes" if events.positions is not None else "no",
        "KER (eV)": f"{middle:.2f}, 5-95 %: {low:.2f} to {high:.2f}",
        "total momentum": f"{np.median(total):.3g} hbar/bohr (median)",
    }
    if events.sigma is not None:
        relative = np.median(events.sigma / rms_component(events.momenta))
        facts["noise"] = f"{100 * relative:.3g} % of the rms component (median)"
    return facts | events.origin


def _described(molecule: Molecule) -> str:
    ions = ", ".join(
        f"{label} {charge:+g}" for label, charge in zip(molecule.labels, molecule.charges, strict=True)
    )
    return f"{molecule.name} ({ions})"
