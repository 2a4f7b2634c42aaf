"""Geometries as extended XYZ, angstrom: what ASE, OVITO and VMD read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowcei.posterior.flags import in_words
from flowcei.posterior.modes import VERDICTS
from flowcei.posterior.refinement import STATUS
from flowcei.posterior.tables import labelled_modes
from flowcei.units import ANGSTROM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

    from numpy.typing import NDArray

    from flowcei.posterior.modes import Modes
    from flowcei.posterior.samples import PosteriorSamples


def write_modes_xyz(modes: Modes, samples: PosteriorSamples, file: TextIO) -> None:
    """Write modes, each with its event, number, probability, verdict and status, in the frame of the momenta.

    Identical ions are labelled by the geometry: atoms stand in the order of the molecule.

    Args:
        modes: Of the samples.
        samples: Their molecule, and the number of each event.
        file: Open for writing.
    """
    about = {
        "event": samples.ids[modes.event],
        "mode": modes.number,
        "probability": modes.probability,
        "verdict": np.array(VERDICTS)[modes.verdict[modes.event]],
        "status": np.array(STATUS)[modes.status],
        "chi_squared": modes.chi_squared,
    }
    _write(file, samples.molecule.symbols, labelled_modes(modes, samples).positions, about)


def write_means_xyz(samples: PosteriorSamples, file: TextIO) -> None:
    """Write the posterior mean of each event, in the frame of the momenta.

    Identical ions are labelled by the geometry of each sample before the mean is taken. With it
    the number of the event, how many samples it is of, their `spread` (the rms distance of an
    atom from its mean, angstrom) and their flags. The mean of several modes is none of them: a
    large spread gives it away. Events without samples are left out.

    Args:
        samples: Whose means they are.
        file: Open for writing.

    Example:
        >>> import io, flowcei
        >>> s = flowcei.load().sample(flowcei.simulate("ocs", 1, noise="1%", seed=1), 50, seed=1)
        >>> write_means_xyz(s, text := io.StringIO())
        >>> text.getvalue().splitlines()[1].split(" spread")[0]
        'Properties=species:S:1:pos:R:3 unit=angstrom event=0 samples=50'
    """
    samples = samples[samples.answered]
    labelled = replace(samples, positions=samples.labelled().astype(np.float32))
    mean = labelled.mean(keep_flagged=True)  # the flags stand beside it
    away = ((labelled.positions - mean[:, None]) ** 2).sum(axis=3).mean(axis=2)
    share = 1.0 / away.shape[1] if samples.weights is None else samples.weights.normalised
    about = {
        "event": samples.ids,
        "samples": np.full(len(samples), away.shape[1]),
        "spread": np.sqrt((share * away).sum(axis=1)) / ANGSTROM,
    }
    if samples.flags is not None:
        about["flags"] = np.array([in_words(flags) or "none" for flags in samples.flags])
    _write(file, samples.molecule.symbols, mean, about)


def _write(
    file: TextIO, symbols: Sequence[str], positions: NDArray[np.float64], about: Mapping[str, NDArray]
) -> None:
    """Write positions (K, N, 3), bohr, each with one row of what is known about it."""
    columns = [array.tolist() for array in about.values()]
    for x, *values in zip(positions / ANGSTROM, *columns, strict=True):
        known = (f"{name}={_value(value)}" for name, value in zip(about, values, strict=True))
        file.write(f"{len(symbols)}\nProperties=species:S:1:pos:R:3 unit=angstrom {' '.join(known)}\n")
        file.writelines(
            f"{symbol:2s} {p[0]:15.8f} {p[1]:15.8f} {p[2]:15.8f}\n"
            for symbol, p in zip(symbols, x, strict=True)
        )


def _value(value: str | float) -> str:
    """Return a value as extended XYZ has it: numbers that are not whole keep a point, text has quotes."""
    if isinstance(value, float):
        return f"{value:#.6g}"
    return f'"{value}"' if isinstance(value, str) else str(value)
