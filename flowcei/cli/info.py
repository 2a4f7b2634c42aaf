"""`flowcei info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flowcei.events.container import Events
    from flowcei.molecule import Molecule


@click.command(short_help="Print what a model, data or sample file says of itself.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--molecule", help="Of a CSV file: a built-in name, .toml or .xyz; ocs if absent.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def info(*, file: Path, molecule: str | None, as_json: bool) -> None:
    """Print everything that FILE says of itself: a model or run folder, events or samples.

    Example: flowcei info runs/ocs-cinn-1
    """
    facts = _facts(file, molecule)
    if as_json:
        click.echo(json.dumps(facts, indent=1, default=str))
        return
    for key, value in facts.items():
        text = json.dumps(value) if isinstance(value, dict | list) else str(value)
        click.echo(f"{key:20s} {text}")


def _facts(file: Path, molecule: str | None) -> dict[str, Any]:
    from flowcei.cli.runs import BUNDLED
    from flowcei.errors import DataError
    from flowcei.events.storage import read_events
    from flowcei.files import check_readable
    from flowcei.modelfile import bundled_model

    if str(file) == BUNDLED and not file.exists():
        with bundled_model() as place:
            return _model_facts(place)
    if file.is_dir():
        file = file / "model.safetensors"
    check_readable(file)
    if file.suffix.lower() in (".toml", ".png"):
        what = "is no model, events or samples; give the run folder or a .safetensors, .csv or .h5 file"
        raise DataError(what, path=file)
    if file.suffix == ".safetensors":
        return _model_facts(file)
    if _is_samples(file):
        return _sample_facts(file)
    events = read_events(file, molecule)
    return {"content": "events"} | _event_facts(events)


def _is_samples(file: Path) -> bool:
    import h5py

    from flowcei.events.hdf import is_hdf5

    if not is_hdf5(file):
        return False
    try:
        with h5py.File(file, "r") as data:
            return bool(data.attrs.get("content") == "flowcei samples")
    except OSError:
        return False  # damaged: the reader says so


def _model_facts(file: Path) -> dict[str, Any]:
    from flowcei.modelfile import read_card
    from flowcei.molecule import Molecule
    from flowcei.physics.detector import Noise

    card = read_card(file)
    known = Molecule.from_dict(card.molecule)
    axes = getattr(card.frame, "axes", None)
    return {
        "content": "model",
        "architecture": card.architecture,
        "options": card.options,
        "molecule": _described(known),
        "trained for noise": str(Noise(card.noise.low, card.noise.high, relative=card.noise.relative)),
        "frame": f"recoil, axes {', '.join(known.labels[k] for k in axes)}" if axes else "raw",
        **card.training,
        "written by flowcei": card.flowcei,
        "format version": card.format_version,
    }


def _sample_facts(file: Path) -> dict[str, Any]:
    from flowcei.posterior.storage import read_samples

    drawn = read_samples(file)
    return {
        "content": "posterior samples",
        "molecule": _described(drawn.molecule),
        "events": len(drawn),
        "samples an event": drawn.positions.shape[1],
        "density": "yes" if drawn.log_prob is not None else "no",
        **drawn.origin,
    }


def _event_facts(events: Events) -> dict[str, Any]:
    import numpy as np

    from flowcei.physics.detector import rms_component
    from flowcei.physics.explosion import kinetic_energy
    from flowcei.units import ELECTRONVOLT

    energy = kinetic_energy(events.momenta, events.molecule.masses) / ELECTRONVOLT
    low, middle, high = np.percentile(energy, (5, 50, 95))
    total = np.linalg.norm(events.momenta.sum(axis=1), axis=-1)
    facts = {
        "molecule": _described(events.molecule),
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
