"""Geometries in angstrom: extended XYZ, which ASE, OVITO and VMD read, and `ase.Atoms`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.posterior.flags import in_words
from flowcei.posterior.refinement import required
from flowcei.units import ANGSTROM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Floats, Reals
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.samples import PosteriorSamples


def to_atoms(molecule: Molecule, positions: Reals, facts: Mapping[str, NDArray]) -> list[Any]:
    """Geometries (K, N, 3), bohr, as `ase.Atoms`, each with its row of `facts` (K,) as `info`."""
    atoms = [molecule.to_ase(x) for x in positions]
    for one, *values in zip(atoms, *(array.tolist() for array in facts.values()), strict=True):
        one.info = dict(zip(facts, values, strict=True))
    return atoms


def write_modes_xyz(modes: Modes, file: TextIO) -> None:
    """Write modes with their `facts`, in the frame of the momenta, labelled by the geometry."""
    _write(file, required(modes.samples).molecule, modes.labelled().positions, modes.facts())


def write_means_xyz(samples: PosteriorSamples, file: TextIO) -> None:
    """Write the posterior mean of each event that has samples, labelled, in the frame of the momenta.

    With it the `spread`, the rms distance of an atom from its mean, angstrom: large where the mean is of
    several modes.
    """
    samples = samples[samples.answered]
    labelled = replace(samples, positions=samples.labelled().astype(np.float32))
    mean = labelled.mean(keep_flagged=True)  # the flags stand beside it
    distance = ((labelled.positions - mean[:, None]) ** 2).sum(axis=3).mean(axis=2)
    share = 1.0 / distance.shape[1] if samples.weights is None else samples.weights.normalised
    facts = {
        "event": samples.event_id,
        "samples": np.full(len(samples), distance.shape[1]),
        "spread": np.sqrt((share * distance).sum(axis=1)) / ANGSTROM,
    }
    if samples.flags is not None:
        facts["flags"] = np.array([in_words(flags) or "none" for flags in samples.flags])
    _write(file, samples.molecule, mean, facts)


def _write(file: TextIO, molecule: Molecule, positions: Floats, facts: Mapping[str, NDArray]) -> None:
    """Write positions (K, N, 3), bohr, each with its row of facts."""
    columns = [array.tolist() for array in facts.values()]
    for x, *values in zip(positions / ANGSTROM, *columns, strict=True):
        info = " ".join(f"{name}={_value(value)}" for name, value in zip(facts, values, strict=True))
        file.write(f"{len(x)}\nProperties=species:S:1:pos:R:3 unit=angstrom {info}\n")
        atoms = zip(molecule.symbols, x, strict=True)
        file.writelines(f"{symbol:2s} {p[0]:15.8f} {p[1]:15.8f} {p[2]:15.8f}\n" for symbol, p in atoms)


def _value(value: str | float) -> str:
    """A value as extended XYZ has it: numbers that are not whole keep a point, text has quotes."""
    if isinstance(value, float):
        return f"{value:#.6g}"
    return f'"{value}"' if isinstance(value, str) else str(value)
