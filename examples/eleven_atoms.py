#!/usr/bin/env python3
"""Image the zero-point motion of all 11 atoms of 2-iodopyridine from simulated events that lack ions.

    python examples/eleven_atoms.py [--events 50000] [--samples 64] [--workers 2] [-o eleven_atoms]

Eleven singly charged ions, momenta known to 1 %, each ion detected with a chance of 0.6: events that lack up to
three are kept, and most lack three. Molecules vibrate at 0 K; the prior of the samples is of 300 K, so that it
is not the answer. Which of the carbon and of the hydrogen ions is which is taken as known. Writes the law
(HDF5), the correlation matrix and the widths of the 27 modes, as a table and as pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import flowcei

MOLECULE = flowcei.Molecule.load("iodopyridine")
COLD = MOLECULE.prior_table("equilibrium")
WARM = COLD | {"temperature": 300.0}
EXPERIMENT = flowcei.Experiment(noise="1%", spread=1.0, efficiency=0.6)
INIT = None
BLOCK = 1000  # events that are sampled together


def sampled(events: flowcei.Events, samples: int, seed: int) -> flowcei.PosteriorSamples:
    """Samples of a block of events."""
    return flowcei.sample_vibrations(events, samples, prior=WARM, experiment=EXPERIMENT, seed=seed)


def blocks(events: flowcei.Events, samples: int, workers: int) -> Iterator[flowcei.PosteriorSamples]:
    """Samples of all events, a block after the other."""
    starts = range(0, len(events), BLOCK)
    with ProcessPoolExecutor(workers, initializer=INIT) as pool:
        some = (events[k : k + BLOCK] for k in starts)
        for done, one in enumerate(pool.map(sampled, some, [samples] * len(starts), starts), 1):
            print(f"{min(done * BLOCK, len(events)):,} events sampled", flush=True)
            yield one
