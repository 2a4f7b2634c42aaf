"""Write the files of examples/data: the same kind of events as each program of the field writes them.

Run: python examples/make_example_data.py [FOLDER]

Each file holds simulated explosions, so that what flowcei reads can be compared with what went
in. The layouts are those of the programs named in docs/your-data.md. Parquet and ROOT files
need the extras: pip install 'flowcei[parquet,root]'.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from ase import Atoms
from ase.io import write as write_atoms

import flowcei
from flowcei.units import ANGSTROM, DALTON, KILOMETRE_PER_SECOND, SI_MOMENTUM

EVENTS = 200
ELECTRON_MASS = 9.1093837015e-31  # kg
METRE_PER_SECOND = KILOMETRE_PER_SECOND / 1000.0


def events(molecule: str, noise: str = "1%") -> flowcei.Events:
    """Return the events that all files of a molecule hold."""
    return flowcei.simulate(molecule, EVENTS, noise=noise, seed=7, accuracy=1e-8)


def study(folder: Path) -> None:
    """Columns of the first study: what flowcei writes itself."""
    flowcei.write_events(events("ocs"), folder / "study.csv", overwrite=True)


def headerless(folder: Path) -> None:
    """Numbers only, blanks between them, ions in the order O, C, S, in 1e-22 kg m/s."""
    p = events("ocs").momenta[:, [1, 0, 2]] / SI_MOMENTUM / 1e-22
    np.savetxt(folder / "headerless.dat", p.reshape(EVENTS, -1), fmt="%.6f")


def numpy_array(folder: Path) -> None:
    """A .npy array (B, N, 3) in atomic units, ions in the order C, O, S."""
    np.save(folder / "momenta.npy", events("ocs").momenta.astype(np.float32))


def sculpt(folder: Path) -> None:
    """SCULPT: Px_ion1, ...; blanks between columns, atomic units; electrons beside the ions."""
    p = events("ocs").momenta
    table = {f"P{a}_ion{k + 1}": p[:, k, i] for k in range(3) for i, a in enumerate("xyz")}
    rng = np.random.default_rng(1)
    table |= {f"P{a}_electron1": rng.normal(0.0, 0.5, EVENTS) for a in "xyz"}
    pd.DataFrame(table).to_csv(folder / "sculpt.dat", sep=" ", index=False, float_format="%.5f")


def pycesim(folder: Path) -> None:
    """PyCESim: one row an ion, SI and atomic units side by side; a second channel in between."""
    rows = []
    for molecule, channel in (("ocs", 0), ("co2", 1)):
        made = events(molecule, "0%")
        masses = made.molecule.masses * ELECTRON_MASS
        for number, momenta in enumerate(made.momenta[: EVENTS // 2]):
            for p, mass, charge in zip(momenta, masses, made.molecule.charges, strict=True):
                si = p / SI_MOMENTUM
                v = si / mass
                charge_c = charge * 1.602176634e-19
                rows.append(
                    [
                        *v,
                        charge_c,
                        mass,
                        channel,
                        2 * number + channel,
                        charge,
                        mass / 1.66053906660e-27,
                        *si,
                        *p,
                    ]
                )
    names = [
        "vx_ms",
        "vy_ms",
        "vz_ms",
        "charge_C",
        "mass_kg",
        "channel_idx",
        "sim_counter",
        "charge_e",
        "mass_amu",
    ]
    names += ["px_SI", "py_SI", "pz_SI", "px_AU", "py_AU", "pz_AU"]
    table = pd.DataFrame(rows, columns=names).sort_values("sim_counter", kind="stable")
    table.to_csv(folder / "pycesim.csv", index=False, float_format="%.7g")


def ksu(folder: Path) -> None:
    """KSU 2026: velocities (m/s) and positions (angstrom) of CHBrClF, C at the origin.

    Axes are turned so that C flies along x and Br in the xy plane; components that are 0 by
    that choice are left out.
    """
    made = events("chbrclf", "0%")
    labels = list(made.molecule.labels)
    c, br = labels.index("c"), labels.index("br")
    v = made.momenta / made.molecule.masses[:, None]
    x = made.positions
    first = v[:, c] / np.linalg.norm(v[:, c], axis=1, keepdims=True)
    second = v[:, br] - (v[:, br] * first).sum(axis=1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    turn = np.stack([first, second, np.cross(first, second)], axis=1)
    v, x = v @ turn.transpose(0, 2, 1), (x - x[:, [c]]) @ turn.transpose(0, 2, 1)
    table = {}
    absent = {"c": "yz", "br": "z"}
    for k, label in enumerate(labels):
        name = label.capitalize()
        table |= {f"{name}_{a}0": x[:, k, i] / ANGSTROM for i, a in enumerate("xyz") if k != c}
        kept = [(i, a) for i, a in enumerate("xyz") if a not in absent.get(label, "")]
        table |= {f"{name}_v{a}f": v[:, k, i] / METRE_PER_SECOND for i, a in kept}
    pd.DataFrame(table).to_csv(folder / "ksu.csv", index=False, float_format="%.8g")


def _indexed(made: flowcei.Events) -> pd.DataFrame:
    x, p = made.positions.astype(np.float32), made.momenta.astype(np.float32)
    n = len(made.molecule)
    table = {f"{a}{k}": x[:, k, i] for k in range(n) for i, a in enumerate("xyz")}
    table |= {f"p{a}{k}": p[:, k, i] for k in range(n) for i, a in enumerate("xyz")}
    return pd.DataFrame(table | {"steps": np.full(len(x), 40), "converged": np.ones(len(x), bool)})


def indexed(folder: Path) -> None:
    """nathan-albin/coulomb-explosion: x0, ..., px0, ... of CH4 in atomic units, as CSV."""
    _indexed(events("ch4", "0%")).to_csv(folder / "indexed.csv", index=False)


def records(folder: Path) -> None:
    """One HDF5 dataset of records, as pandas and PyTables write tables: momenta in u m/s, a delay, a shot."""
    p = events("ocs").momenta / (DALTON * METRE_PER_SECOND)
    table = {f"p{a}_{k}": p[:, i, j] for i, k in enumerate("COS") for j, a in enumerate("xyz")}
    table |= {
        "delay_fs": np.repeat(np.arange(8) * 25.0, EVENTS // 8),
        "shot": np.arange(EVENTS) // 2 + 51_000,
    }
    with h5py.File(folder / "records.h5", "w") as file:
        data = file.create_dataset("run7/table", data=pd.DataFrame(table).to_records(index=False))
        data.attrs["Units"] = "u m/s"


def parquet(folder: Path) -> None:
    """The same as Parquet, which also states the symbols."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    table = pa.Table.from_pandas(_indexed(events("ch4", "0%")), preserve_index=False)
    pq.write_table(
        table.replace_schema_metadata({"symbols": '["C", "H", "H", "H", "H"]'}), folder / "indexed.parquet"
    )


def hdf5(folder: Path) -> None:
    """A group of columns in HDF5, u m/s, as a laboratory's own program might write it."""
    p = events("ocs").momenta / (DALTON * METRE_PER_SECOND)
    with h5py.File(folder / "lab.h5", "w") as file:
        group = file.create_group("coincidences")
        for k, label in enumerate("cos"):
            for i, axis in enumerate("xyz"):
                group[f"p{axis}_{label.upper()}"] = p[:, k, i]
        group["event"] = np.arange(1000, 1000 + EVENTS)


def root(folder: Path) -> None:
    """A tree in a ROOT file, atomic units."""
    import uproot

    p = events("ocs").momenta
    branches = {f"p{a}_{label}": p[:, k, i] for k, label in enumerate("cos") for i, a in enumerate("xyz")}
    with uproot.recreate(folder / "tree.root") as file:
        file.mktree("events", dict.fromkeys(branches, np.float64))
        file["events"].extend(branches)


def xyz(folder: Path) -> None:
    """Extended XYZ with momenta, as ASE writes it."""
    made = events("ocs", "0%")[:50]
    unit = np.sqrt(DALTON / 27.211386245988)  # sqrt(u eV)
    frames = [
        Atoms("COS", positions=x / ANGSTROM, momenta=p / unit)
        for x, p in zip(made.positions, made.momenta, strict=True)
    ]
    write_atoms(folder / "structures.xyz", frames, format="extxyz")


def main() -> None:
    """Write all files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)
    text = (study, headerless, sculpt, pycesim, ksu, indexed, xyz)
    for make in (*text, numpy_array, parquet, hdf5, records, root):
        make(folder)


if __name__ == "__main__":
    main()
