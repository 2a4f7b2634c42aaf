"""Which hydrogen is h1: against enumeration of all orders, and whatever the labels in a file."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import permutations, product
from pathlib import Path

import ase
import ase.build
import ase.io
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from shell import Shell

import flowcei
from flowcei.check.geometry import internal_coordinates
from flowcei.evaluation.calibration import calibrate
from flowcei.evaluation.comparison import compare
from flowcei.events.container import Events
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.posterior.files import write_samples
from flowcei.posterior.labels import environments, label_by_geometry, order_by_speed, relabel
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.spread import pooled_quantities, quantities
from flowcei.posterior.structures import write_means_xyz, write_modes_xyz
from flowcei.reconstruction.model import Reconstructor
from flowcei.report.figures import modes_figure

_N2O = {
    "name": "n2o",
    "symbols": ["N", "N", "O"],
    "bonds": [["n1", "n2"], ["n2", "o"]],
    "equilibrium": {"unit": "bohr", "positions": [[0, 0, -2.13], [0, 0, 0], [0, 0, 2.24]]},
    # Loosely bound oxygen, far away on the side of n1: the bond list takes n1 for the middle.
    "priors": {
        "loose": {
            "kind": "internal",
            "zmatrix": [
                {"atom": "n2"},
                {"atom": "n1", "from": "n2", "length": {"normal": [2.13, 0.05]}},
                {
                    "atom": "o",
                    "from": "n2",
                    "length": {"normal": [7.0, 0.3]},
                    "angle_to": "n1",
                    "angle": {"normal": [30.0, 4.0]},
                },
            ],
        }
    },
}


@cache
def _molecule(name: str) -> Molecule:
    """Return a built-in molecule, or one of ASE's, with bonds by covalent radii, its atoms shuffled."""
    if name in ("c2h2", "ch4", "h2o"):
        return Molecule.load(name)
    if name == "n2o":
        return Molecule.from_dict(_N2O)
    atoms = _methyl_iodide() if name == "CH3I" else ase.build.molecule(name)
    atoms = atoms[np.random.default_rng(2).permutation(len(atoms))]
    symbols, count = atoms.get_chemical_symbols(), Counter[str]()
    labels = []
    for symbol in symbols:
        count[symbol] += 1
        labels.append(f"{symbol.lower()}{count[symbol]}")
    reach, x = {"H": 0.6, "C": 1.0, "O": 1.0, "I": 1.6}, atoms.get_positions()
    bonds = [
        [labels[i], labels[j]]
        for i in range(len(x))
        for j in range(i)
        if np.linalg.norm(x[i] - x[j]) < reach[symbols[i]] + reach[symbols[j]]
    ]
    prior = {"kind": "displaced", "sigma": 0.15}
    geometry = {"unit": "angstrom", "positions": x.tolist()}
    table = {"symbols": symbols, "bonds": bonds, "equilibrium": geometry, "priors": {"equilibrium": prior}}
    return Molecule.from_dict({"name": name, "labels": labels} | table)


def _methyl_iodide() -> ase.Atoms:
    """r(CI) 2.132, r(CH) 1.085 angstrom, 107.7 degrees at hydrogen-carbon-iodine."""
    turn, tilt = 2.0 * np.pi * np.arange(3) / 3, np.radians(107.7)
    hydrogens = 1.085 * np.stack(
        [np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.full(3, np.cos(tilt))], axis=1
    )
    return ase.Atoms("CIHHH", [[0, 0, 0], [0, 0, 2.132], *hydrogens])


def _orders(molecule: Molecule) -> np.ndarray:
    """Return every order of identical ions, (G, N)."""
    orders = []
    for choice in product(*(permutations(group) for group in molecule.identical)):
        order = np.arange(len(molecule))
        for group, ions in zip(molecule.identical, choice, strict=True):
            order[list(group)] = ions
        orders.append(order)
    return np.array(orders)


def _misfits(molecule: Molecule, x: np.ndarray) -> np.ndarray:
    """Return the squared deviations of bonds from the mean of those of the same elements at rest."""
    kinds = [frozenset({molecule.symbols[i], molecule.symbols[j]}) for i, j in molecule.bonds]
    rest = np.array(
        [np.linalg.norm(molecule.equilibrium[i] - molecule.equilibrium[j]) for i, j in molecule.bonds]
    )
    wanted = [np.mean(rest[[other == kind for other in kinds]]) for kind in kinds]
    return sum(
        (np.linalg.norm(x[..., i, :] - x[..., j, :], axis=-1) - length) ** 2
        for (i, j), length in zip(molecule.bonds, wanted, strict=True)
    )


def _joined(molecule: Molecule, order: np.ndarray) -> set[frozenset[int]]:
    return {frozenset({int(order[i]), int(order[j])}) for i, j in molecule.bonds}


def _geometries(molecule: Molecule, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return momenta and positions from well to badly recognisable, like ions in any order."""
    rng = np.random.default_rng(seed)
    blur = rng.uniform(0.05, 1.5, (count, 1, 1))
    x = molecule.equilibrium + blur * rng.normal(size=(count, len(molecule), 3))
    orders = _orders(molecule)
    order = orders[rng.integers(len(orders), size=count)]
    p = 50.0 * rng.normal(size=x.shape)
    return p - p.mean(axis=1, keepdims=True), np.take_along_axis(x, order[..., None], axis=1)


def _check_against_enumeration(
    molecule: Molecule,
    momenta: np.ndarray,
    x: np.ndarray,
    prior: GeometryPrior | None,
    preference: np.ndarray,
) -> None:
    """Check labels of (B, N, 3) against the preference (B, G) for each of all orders."""
    orders = _orders(molecule)
    chosen = label_by_geometry(molecule, momenta, x[:, None], prior)[:, 0]
    share = molecule.masses / molecule.masses.sum()
    speed = np.linalg.norm(momenta - share[:, None] * momenta.sum(axis=1, keepdims=True), axis=2)
    for b, order in enumerate(chosen):
        wanted = _joined(molecule, orders[preference[b].argmax()])
        assert _joined(molecule, order) == wanted
        same = [o for o in orders if _joined(molecule, o) == wanted]
        best = max(same, key=lambda o: tuple(speed[b, o]))
        np.testing.assert_array_equal(order, best)


@pytest.mark.parametrize("name", ["h2o", "c2h2", "ch4", "CH3I", "C2H4", "C2H6", "CH3OH", "n2o"])
def test_the_bond_list_prefers_what_enumeration_prefers(name: str) -> None:
    """All orders of like ions by squared deviations of bonds; equal ones by falling speed, place by place."""
    molecule = _molecule(name)
    momenta, x = _geometries(molecule, 40, seed=1)
    misfits = np.stack([_misfits(molecule, x[:, order]) for order in _orders(molecule)], axis=1)
    _check_against_enumeration(molecule, momenta, x, None, -misfits)


@pytest.mark.parametrize(("name", "kind"), [("c2h2", None), ("C2H4", None), ("n2o", "loose")])
def test_a_prior_with_a_density_decides(name: str, kind: str | None) -> None:
    """All orders by the prior's density, for its own geometries, like ions shuffled, and blurred ones."""
    molecule = _molecule(name)
    prior, rng = build_prior(molecule, kind), np.random.default_rng(3)
    x = prior.sample(120, rng)
    x = x + rng.choice([0.0, 0.3], size=(120, 1, 1)) * rng.normal(size=x.shape)
    momenta = 50.0 * rng.normal(size=x.shape)
    orders = _orders(molecule)
    shuffled = orders[rng.integers(len(orders), size=len(x))]
    x = np.take_along_axis(x, shuffled[..., None], axis=1)
    density = np.stack([prior.log_prob(x[:, order]) for order in orders], axis=1)
    _check_against_enumeration(molecule, momenta, x, prior, density)


def test_the_prior_and_the_bond_list_can_differ() -> None:
    """Oxygen far out on the side of n1: the nearer nitrogen is the middle one to the bond list only."""
    molecule = _molecule("n2o")
    prior = build_prior(molecule, "loose")
    x = prior.sample(50, np.random.default_rng(0))[:, None]
    momenta = np.random.default_rng(1).normal(size=(50, 3, 3))
    assert (label_by_geometry(molecule, momenta, x, prior) == [0, 1, 2]).all()
    assert (label_by_geometry(molecule, momenta, x) == [1, 0, 2]).all()


@pytest.mark.parametrize("bonds", ["none", "ring", "all"])
def test_a_dozen_like_atoms_take_no_time(bonds: str) -> None:
    """12! orders are not enumerated; a ring is recognised, and every order of no bonds is by speed."""
    n = 12
    turn = 2.0 * np.pi * np.arange(n) / n
    x = 5.0 * np.stack([np.cos(turn), np.sin(turn), 0.0 * turn], axis=1)
    pairs = {"none": [], "ring": [(k, (k + 1) % n) for k in range(n)]}
    pairs["all"] = [(i, j) for i in range(n) for j in range(i)]
    table = {"symbols": ["C"] * n, "bonds": [[f"c{i + 1}", f"c{j + 1}"] for i, j in pairs[bonds]]}
    molecule = Molecule.from_dict(
        {"name": "dozen", "equilibrium": {"unit": "bohr", "positions": x.tolist()}} | table
    )
    rng = np.random.default_rng(5)
    shuffled = rng.permutation(n)
    x = (x + 0.2 * rng.normal(size=(30, n, 3)))[:, shuffled]
    momenta = rng.normal(size=x.shape)
    order = label_by_geometry(molecule, momenta, x[:, None])[:, 0]
    if bonds != "ring":
        np.testing.assert_array_equal(order, order_by_speed(molecule, momenta))
        return
    labelled = relabel(x[:, None], order[:, None])[:, 0]
    gaps = np.linalg.norm(labelled - np.roll(labelled, 1, axis=1), axis=2)
    assert gaps.max() < 4.0  # bonds of 2.6 bohr; the next neighbours are 5 bohr apart
    assert (order[:, 0] == order_by_speed(molecule, momenta)[:, 0]).all()


def test_acetone_is_put_together_again() -> None:
    """4,320 orders: six hydrogens find their carbon, the methyl groups go by the faster carbon."""
    molecule = _molecule("CH3COCH3")
    rng = np.random.default_rng(7)
    x = build_prior(molecule).sample(200, rng)
    momenta = 50.0 * rng.normal(size=x.shape)
    chosen = label_by_geometry(molecule, momenta, x[:, None])[:, 0]
    right = _joined(molecule, np.arange(len(molecule)))
    assert np.mean([_joined(molecule, order) == right for order in chosen]) > 0.99


def _as_posterior(
    events: Events, n: int = 1, blur: float = 0.0, prior: str | None = None
) -> PosteriorSamples:
    """Return the true positions, blurred, as samples."""
    assert events.positions is not None
    x = np.repeat(events.positions[:, None], n, axis=1)
    x = x + blur * np.random.default_rng(0).normal(size=x.shape)
    sigma = np.full(len(events), 1.0) if events.sigma is None else events.sigma
    origin = {} if prior is None else {"prior": events.molecule.prior_table(prior)}
    return PosteriorSamples(
        events.molecule, events.momenta, x.astype(np.float32), None, np.arange(len(events)), sigma, origin
    )


@pytest.mark.parametrize("prior", [None, "equilibrium"])
def test_the_true_positions_of_acetylene_have_its_bonds(prior: str | None) -> None:
    """C-H 2.01 bohr, 0.15 bohr on each coordinate: 2.03 +/- 0.21 bohr, 167.6 +/- 6.4 degrees, as drawn."""
    events = flowcei.simulate("c2h2", 2000, prior="equilibrium", seed=1)
    assert events.positions is not None
    rows = _as_posterior(events, prior=prior).spread().overall().set_index("quantity")
    assert rows.loc["c-h (2)", "mean"] == pytest.approx(2.03, abs=0.01)
    assert rows.loc["c-h (2)", "sd"] == pytest.approx(0.21, abs=0.01)
    assert rows.loc["c-c-h (2)", "mean"] == pytest.approx(167.6, abs=0.6)
    assert rows.loc["c-c-h (2)", "sd"] == pytest.approx(6.4, abs=0.4)
    # The simulation's own labels are those of the bonds, and the oracle of all of it.
    names, values = quantities(events.molecule, events.positions)
    for pooled, single in (("c-h (2)", ("c1-h1", "c2-h2")), ("c-c-h (2)", ("c2-c1-h1", "c1-c2-h2"))):
        true = values[:, [k for k, q in enumerate(names) if q.name in single]]
        assert rows.loc[pooled, "mean"] == pytest.approx(true.mean(), rel=1e-5)
        assert rows.loc[pooled, "sd"] == pytest.approx(true.std(), rel=1e-5)


def _shuffled(samples: PosteriorSamples, seed: int) -> PosteriorSamples:
    """Return the same events with other labels of like ions, each event its own."""
    orders, rng = _orders(samples.molecule), np.random.default_rng(seed)
    order = orders[rng.integers(len(orders), size=len(samples))]
    return replace(
        samples,
        momenta=np.take_along_axis(samples.momenta, order[..., None], axis=1),
        positions=np.take_along_axis(samples.positions, order[:, None, :, None], axis=2),
    )


def _same(one: pd.DataFrame, other: pd.DataFrame, atol: float) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=0.0, atol=atol)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(["h2o", "c2h2", "ch4", "CH3I", "C2H4"]), seed=st.integers(0, 10_000))
def test_labels_in_the_file_change_no_bond_or_angle(name: str, seed: int) -> None:
    """Like ions shuffled event by event, in momenta and samples: both tables of the spread stay."""
    molecule, rng = _molecule(name), np.random.default_rng(seed)
    x = build_prior(molecule).sample(6 * 8, rng).reshape(6, 8, -1, 3)
    events = Events(molecule, 50.0 * rng.normal(size=x[:, 0].shape), x[:, 0])
    one = replace(_as_posterior(events), positions=x.astype(np.float32))
    other = _shuffled(one, seed)
    _same(one.spread().to_dataframe(), other.spread().to_dataframe(), atol=1e-5)
    _same(one.spread().overall(), other.spread().overall(), atol=1e-5)


def test_labels_in_the_file_change_no_mode_file_or_picture() -> None:
    """Tables of modes and of refined geometries, XYZ and the picture of modes, like ions shuffled."""
    events = flowcei.simulate("c2h2", 6, prior="equilibrium", noise="1%", seed=8)
    one = _as_posterior(events, n=4, blur=0.02, prior="equilibrium")
    other = _shuffled(one, seed=3)
    assert not np.array_equal(one.momenta, other.momenta)
    modes = [samples.modes() for samples in (one, other)]
    tables = [found.to_dataframe() for found in modes]
    assert not tables[0].empty
    _same(tables[0].drop(columns="laplace"), tables[1].drop(columns="laplace"), atol=1e-4)
    _same(one.refine().to_dataframe(), other.refine().to_dataframe(), atol=1e-4)
    texts = []
    for found, samples in zip(modes, (one, other), strict=True):
        write_modes_xyz(found, file := io.StringIO())
        write_means_xyz(samples, file)
        file.seek(0)
        texts.append(np.array([a.get_positions() for a in ase.io.read(file, ":", format="extxyz")]))
    np.testing.assert_allclose(texts[0], texts[1], atol=1e-4)
    lines = [
        np.concatenate([line.get_xydata() for axes in modes_figure(m, s, 1).axes for line in axes.lines])
        for m, s in zip(modes, (one, other), strict=True)
    ]
    np.testing.assert_allclose(lines[0], lines[1], atol=1e-4)


Tiny = Callable[[str, str], Reconstructor]


def test_samples_of_a_flow_are_the_same_whatever_the_labels(tiny: Tiny) -> None:
    """A flow, even one that knows little, draws the same for shuffled momenta: so do tables and ranks."""
    model = tiny("cinn", "c2h2")
    events = flowcei.simulate("c2h2", 60, noise="1%", seed=5)
    assert events.positions is not None
    orders = _orders(events.molecule)
    order = orders[np.random.default_rng(2).integers(len(orders), size=60)][..., None]
    p, x = (np.take_along_axis(a, order, axis=1) for a in (events.momenta, events.positions))
    shuffled = Events(events.molecule, p, x, sigma=events.sigma)
    spread, again = (model.sample(e, 30, seed=1).spread(keep_flagged=True) for e in (events, shuffled))
    _same(spread.to_dataframe(), again.to_dataframe(), atol=1e-3)
    ranks = [calibrate(model, e, n=20, keep_flagged=True).sbc for e in (events, shuffled)]
    internal = [k for k, name in enumerate(ranks[0].names) if "." not in name]
    np.testing.assert_allclose(ranks[0].values[:, internal], ranks[1].values[:, internal], atol=1.5 / 21)
    score = partial(compare, n=10, resamples=10, keep_flagged=True)
    tables = [score({"model": model}, e).table for e in (events, shuffled)]
    kept = ["mse_mean", "atom_error_mean", "bond_mae", "angle_mae", "crps", "energy_score", "coverage_50"]
    _same(tables[0][kept], tables[1][kept], atol=1e-3)


def test_ranks_of_labelled_truths_stay_uniform() -> None:
    """Truth and samples from one distribution, labelled alike: ranks of each bond are uniform."""
    molecule = Molecule.load("c2h2")
    prior, rng = build_prior(molecule), np.random.default_rng(4)
    x = prior.sample(1500 * 20, rng).reshape(1500, 20, 4, 3)
    momenta = 50.0 * rng.normal(size=(1500, 4, 3))
    x = relabel(x, label_by_geometry(molecule, momenta, x, prior))
    values = quantities(molecule, x)[1][..., 12:]
    rank = (values[:, 1:] < values[:, :1]).sum(axis=1)
    for column in rank.T:
        assert chisquare(np.bincount(column, minlength=20)).pvalue > 1e-3


def test_like_bonds_are_pooled_and_the_table_says_so() -> None:
    """Three C-H of one CH3I, ordered by the ion's speed, differ in the table; pooled they are as drawn."""
    molecule = _molecule("CH3I")
    events = flowcei.simulate(molecule, 1500, prior="equilibrium", seed=2)
    assert events.positions is not None
    table = _as_posterior(events).spread().overall().set_index("quantity")
    single = table[(table["kind"] == "bond") & table.index.str.contains("h") & (table["like"] == "by speed")]
    assert len(single) == 3
    assert single["mean"].max() - single["mean"].min() > 0.2
    names, values = quantities(molecule, events.positions)
    true = values[:, [k for k, q in enumerate(names) if q.name in single.index]]
    pooled = table.loc["c1-h (3)"]
    assert pooled["like"] == "pooled"
    assert pooled["mean"] == pytest.approx(true.mean(), rel=1e-5)
    assert pooled["sd"] == pytest.approx(true.std(), rel=1e-5)
    assert pooled["p50"] == pytest.approx(np.median(true), rel=1e-5)
    assert {"h-c1-h (3)", "h-c1-i1 (3)"} == {q for q in table.index if "(3)" in q} - {"c1-h (3)"}
    assert (table["like"] == "pooled").sum() == 3


def test_names_of_pooled_quantities_tell_groups_apart() -> None:
    """Ethyl methyl ether has two kinds of C-H of three: each is named by its carbon."""
    assert sorted(q.name for q in pooled_quantities(_molecule("C2H6"))) == [
        "c-c-h (6)",
        "c-h (6)",
        "h-c-h (6)",
    ]
    ether = _molecule("CH3CH2OCH3")
    names = [q.name for q in pooled_quantities(ether)]
    assert len(set(names)) == len(names)
    assert sorted(Counter(environments(ether)).values()) == [1, 1, 1, 1, 2, 3, 3]
    assert sum(name.endswith("-h (3)") and name.count("-") == 1 for name in names) == 2


def test_distances_and_angles_of_a_check_know_no_labels() -> None:
    """The data check compares angles with those of priors: of shuffled like ions too."""
    events = flowcei.simulate("c2h2", 300, prior="equilibrium", seed=3)
    assert events.positions is not None
    swapped = events.positions[:, [1, 0, 2, 3]]
    one, other = (internal_coordinates(events.molecule, x) for x in (events.positions, swapped))
    for name, values in one.items():
        np.testing.assert_allclose(np.sort(values), np.sort(other[name]), atol=1e-9)
    assert one["c-c-h"].mean() == pytest.approx(168.0, abs=1.0)


def test_what_is_not_finite_keeps_its_place() -> None:
    """Samples of NaN, of an event that could not be answered, end no table of the others."""
    molecule = Molecule.load("c2h2")
    events = flowcei.simulate("c2h2", 2, seed=1)
    assert events.positions is not None
    x = events.positions[:, None].copy()
    whole = label_by_geometry(molecule, events.momenta, x, build_prior(molecule))
    x[1] = np.nan
    order = label_by_geometry(molecule, events.momenta, x, build_prior(molecule))
    np.testing.assert_array_equal(order[0], whole[0])
    np.testing.assert_array_equal(order[1, 0], order_by_speed(molecule, events.momenta)[1])


def test_modes_of_another_prior_are_labelled_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Oxygen 7 bohr from n2, on the side of n1: `modes --prior loose` says so, whatever the samples state."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    events = flowcei.simulate(_molecule("n2o"), 6, prior="loose", noise="0.1%", seed=1)
    drawn = _as_posterior(events, n=3, blur=0.01)
    own = {"kind": "displaced", "sigma": 1.0}  # about N-N-O: the nearer nitrogen is the middle one
    write_samples([replace(drawn, origin={"prior": own})], "e.samples.h5")
    for words, middle in (([], 0), (["--prior", "loose"], 1)):
        assert flow("modes", "e.samples.h5", *words, "--overwrite") == 0, flow.err
        table = pd.read_csv("e.modes.csv").query("mode == 1")
        truth = np.linalg.norm(events.positions[:, middle] - events.positions[:, 2], axis=1)  # type: ignore[index]
        np.testing.assert_allclose(table["n2-o"], truth, atol=0.3)


def test_the_command_says_how_like_atoms_are_labelled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`spread` prints pooled rows, writes them to both tables, and says what "by speed" means."""
    monkeypatch.chdir(tmp_path)
    flow = Shell(monkeypatch, capsys)
    samples = _as_posterior(flowcei.simulate("c2h2", 5, noise="1%", seed=1), n=20, blur=0.02)
    write_samples([samples], "e.samples.h5")
    assert flow("spread", "e.samples.h5") == 0
    assert "c-h (2)" in flow.out
    assert "by speed: like atoms" in flow.err
    for name, rows in (("spread.csv", 5), ("overall.csv", 1)):
        table = pd.read_csv(Path("e-spread") / name)
        pooled = table[table["quantity"] == "c-h (2)"]
        assert len(pooled) == rows
        assert pooled["mean"].between(1.5, 2.6).all()


def test_a_search_for_bonds_that_is_stopped_is_told() -> None:
    """Twelve like atoms of a ring: a sample far from it is more than is searched, and is counted."""
    turn = 2.0 * np.pi * np.arange(12) / 12
    ring = 4.0 * np.stack([np.cos(turn), np.sin(turn), 0.0 * turn], axis=1)
    molecule = Molecule.from_dict(
        {
            "name": "ring",
            "symbols": ["H"] * 12,
            "equilibrium": {"unit": "bohr", "positions": ring.tolist()},
            "bonds": [[f"h{k + 1}", f"h{(k + 1) % 12 + 1}"] for k in range(12)],
        }
    )
    rng = np.random.default_rng(1)
    x = np.stack([ring[rng.permutation(12)], 40.0 * rng.normal(size=(12, 3))])[None]
    with pytest.warns(UserWarning, match=r"1 of 2 samples of ring have more orders"):
        order = label_by_geometry(molecule, rng.normal(size=(1, 12, 3)), x)
    bonded = np.take_along_axis(x, order[..., None], axis=2)[0, 0]
    gaps = np.linalg.norm(bonded - np.roll(bonded, 1, axis=0), axis=1)
    np.testing.assert_allclose(gaps, gaps.min(), rtol=1e-12)


def test_a_search_for_symmetries_of_bonds_has_a_bound() -> None:
    """A random graph of 24 like atoms, three bonds each: the bond list decides, and minutes are not spent."""
    n, rng = 24, np.random.default_rng(1)
    ends: list[tuple[int, ...]] = []
    while len(set(ends)) < 3 * n // 2 or any(a == b for a, b in ends):
        ends = [
            tuple(sorted(pair))
            for pair in rng.permutation(np.repeat(np.arange(n), 3)).reshape(-1, 2).tolist()
        ]
    molecule = Molecule.from_dict(
        {
            "name": "net",
            "symbols": ["H"] * n,
            "equilibrium": {"unit": "bohr", "positions": (4.0 * rng.normal(size=(n, 3))).tolist()},
            "bonds": [[f"h{a + 1}", f"h{b + 1}"] for a, b in ends],
            "priors": {"equilibrium": {"kind": "displaced", "sigma": 0.1}},
        }
    )
    x, prior = molecule.equilibrium[None, None], build_prior(molecule)
    stopped, listed = "1 of 1 samples of net", "bonds of net have too many symmetries"
    with pytest.warns(UserWarning, match=stopped), pytest.warns(UserWarning, match=listed):
        order = label_by_geometry(molecule, rng.normal(size=(1, n, 3)), x, prior)
    assert np.array_equal(np.sort(order[0, 0]), np.arange(n))
