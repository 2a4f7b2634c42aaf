"""Geometries as tables, as `ase.Atoms`, and in angstrom as extended XYZ, which ASE, OVITO and VMD read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import UsageError
from flowcei.events.extracolumns import add_columns, component_names
from flowcei.posterior.flags import in_words
from flowcei.units import ANGSTROM

if TYPE_CHECKING:
    import pandas as pd

    from flowcei.molecules.molecule import Molecule
    from flowcei.posterior.arrays import Floats, Numbers, Reals
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.samples import PosteriorSamples


def required(samples: PosteriorSamples | None) -> PosteriorSamples:
    """The samples that geometries are of, which tables and structures need."""
    if samples is None:
        msg = "of which samples these geometries are is unknown; call PosteriorSamples.refine() or modes()"
        raise UsageError(msg)
    return samples


def sample_table(
    molecule: Molecule,
    event_id: Numbers,
    columns: Mapping[str, NDArray],
    positions: Reals,
    before: Mapping[str, NDArray],
    after: Mapping[str, NDArray],
) -> pd.DataFrame:
    """A row a sample: columns (E, n) before and after positions (E, n, N, 3), extra ones (E,) last."""
    import pandas as pd

    e, n = positions.shape[:2]
    components = component_names(molecule.labels)
    table: dict[str, NDArray] = {"event": np.repeat(event_id, n), "sample": np.tile(np.arange(n), e)}
    table |= {name: array.reshape(-1) for name, array in before.items()}
    table |= dict(zip(components, positions.reshape(e * n, -1).T, strict=True))
    table |= {name: array.reshape(-1) for name, array in after.items()}
    return pd.DataFrame(add_columns(table, columns, np.repeat(np.arange(e), n)))


def _rows(geometries: Iterable[Any], facts: Mapping[str, NDArray]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each of K geometries with its row of facts (K,)."""
    for one, *values in zip(geometries, *(array.tolist() for array in facts.values()), strict=True):
        yield one, dict(zip(facts, values, strict=True))


def to_atoms(molecule: Molecule, positions: Reals, facts: Mapping[str, NDArray]) -> list[Any]:
    """Geometries (K, N, 3), bohr, as `ase.Atoms`, each with its row of `facts` (K,) as `info`."""
    atoms = [molecule.to_ase(x) for x in positions]
    for one, info in _rows(atoms, facts):
        one.info = info
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
    n = distance.shape[1]
    share = 1.0 / n if samples.weights is None else samples.weights.normalised
    spread = np.sqrt((share * distance).sum(axis=1)) / ANGSTROM
    facts = {"event": samples.event_id, "samples": np.full(len(samples), n), "spread": spread}
    if samples.flags is not None:
        facts["flags"] = np.array([in_words(flags) or "none" for flags in samples.flags])
    _write(file, samples.molecule, mean, facts)


def _write(file: TextIO, molecule: Molecule, positions: Floats, facts: Mapping[str, NDArray]) -> None:
    """Write positions (K, N, 3), bohr, each with its row of facts."""
    for x, info in _rows(positions / ANGSTROM, facts):
        comment = " ".join(f"{name}={_value(value)}" for name, value in info.items())
        file.write(f"{len(x)}\nProperties=species:S:1:pos:R:3 unit=angstrom {comment}\n")
        atoms = zip(molecule.symbols, x, strict=True)
        file.writelines(f"{symbol:2s} {p[0]:15.8f} {p[1]:15.8f} {p[2]:15.8f}\n" for symbol, p in atoms)


def _value(value: str | float) -> str:
    """A value as extended XYZ has it: numbers that are not whole keep a point, text has quotes."""
    if isinstance(value, float):
        return f"{value:#.6g}"
    return f'"{value}"' if isinstance(value, str) else str(value)
