"""The face of samples, modes and spread in notebooks: lines, HTML, rows, tables, xarray and ASE."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import flowcei
from flowcei.errors import UsageError
from flowcei.posterior.flags import FLAG_BITS
from flowcei.posterior.gathering import find_modes
from flowcei.posterior.laplace import ModeRules
from flowcei.posterior.refinement import RefinementRules, refine
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.weights import WeightRules
from flowcei.units import ANGSTROM, DALTON


@pytest.fixture(scope="module")
def weighed() -> PosteriorSamples:
    """Four weighed events of OCS with a delay, of which the third is flagged."""
    events = flowcei.simulate("ocs", 4, noise="1%", seed=3)
    drawn = flowcei.load().sample(events, 30, seed=1, weigh=True)
    flags = np.array([0, 0, FLAG_BITS["ker"], 0], dtype=np.uint16)
    number = np.array([2, 4, 6, 9])
    return replace(drawn, flags=flags, event_id=number, columns={"delay": np.arange(4.0), "weight": number})


def test_html_is_a_table_of_facts_and_runs_nothing(weighed: PosteriorSamples) -> None:
    """Counts stand in cells; names that come from files are escaped."""
    odd = replace(weighed, origin=weighed.origin | {"model": "<script>"})
    text = odd._repr_html_()
    assert "<th>samples</th><td>30</td>" in text
    assert "<th>flagged ker</th><td>1</td>" in text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    found, spread = weighed.modes(keep_flagged=True), weighed[:2].spread()
    assert f"<th>geometries</th><td>{len(found)}</td>" in found._repr_html_()
    assert repr(found).startswith(f"Modes: {len(found)} geometries of 4 events of ocs, ")
    assert "<th>c-o, within an event</th>" in spread._repr_html_()
    assert repr(spread) == "Spread: 2 events x 30 samples of ocs, 12 quantities, x along s"


def test_xarray_holds_the_arrays_with_their_units(weighed: PosteriorSamples) -> None:
    """Event numbers and ion labels are coordinates; weights sum to one; columns keep their values."""
    pytest.importorskip("xarray")
    data = weighed.to_xarray()
    assert dict(data.sizes) == {"event": 4, "sample": 30, "ion": 3, "axis": 3}
    np.testing.assert_array_equal(data["positions"], weighed.positions)
    np.testing.assert_array_equal(data["positions"].sel(event=6, ion="o"), weighed.positions[2, :, 1])
    np.testing.assert_array_equal(data["momenta"].sel(event=9), weighed.momenta[3])
    np.testing.assert_array_equal(data["log_prob"], weighed.log_prob)
    np.testing.assert_allclose(data["weight"].sum("sample"), 1.0)
    np.testing.assert_array_equal(data["delay"], [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(data["file_weight"], [2, 4, 6, 9])  # not the importance weight
    units = {name: data[name].attrs["unit"] for name in ("positions", "momenta", "sigma", "log_prob")}
    expected = {
        "positions": "bohr",
        "momenta": "hbar/bohr",
        "sigma": "hbar/bohr",
        "log_prob": "log(1/bohr^6)",
    }
    assert units == expected
    masks = dict(
        zip(data["flags"].attrs["flag_meanings"].split(), data["flags"].attrs["flag_masks"], strict=True)
    )
    assert (data["flags"].values & masks["ker"] > 0).tolist() == [False, False, True, False]
    assert json.loads(data.attrs["origin"]) == weighed.origin
    assert "weight" not in replace(weighed, weights=None, columns={}).to_xarray()


def test_without_xarray_one_line_says_what_to_do(
    weighed: PosteriorSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for Parquet without pyarrow."""
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(UsageError, match=r"pip install flowcei\[xarray\]"):
        weighed.to_xarray()


def test_ase_has_the_geometries_in_angstrom(weighed: PosteriorSamples) -> None:
    """Distances that ASE measures, times 1 / 0.529177, are those of the samples; masses are the ions'."""
    atoms = weighed.to_ase(2)
    assert len(atoms) == 30
    for k in (0, 29):
        expected = np.linalg.norm(weighed.positions[2, k, 1] - weighed.positions[2, k, 0])
        assert atoms[k].get_distance(0, 1) * ANGSTROM == pytest.approx(float(expected), rel=1e-6)
        assert atoms[k].info["event"] == 6
        assert atoms[k].info["sample"] == k
    assert sum(one.info["weight"] for one in atoms) == pytest.approx(1.0)
    np.testing.assert_allclose(atoms[0].get_masses() * DALTON, weighed.molecule.masses)
    found = weighed.modes(keep_flagged=True)
    every = found.to_ase()
    assert len(every) == len(found)
    assert [one.info["event"] for one in every] == weighed.event_id[found.event].tolist()
    np.testing.assert_allclose(every[0].positions * ANGSTROM, found.positions[0], rtol=1e-12)
    assert [one.info["mode"] for one in found.to_ase(3)] == found.number[found.of(3)].tolist()
    heavy = flowcei.Molecule.load("h2o")
    heavy = replace(heavy, symbols=("O", "D", "D"), masses=heavy.masses * np.array([1.0, 2.0, 2.0]))
    x = np.ones((1, 1, 3, 3), np.float32) * np.arange(3, dtype=np.float32)[:, None]
    water = PosteriorSamples(heavy, np.ones((1, 3, 3)), x, None, np.zeros(1, int), np.ones(1))
    assert water.to_ase(0)[0].get_chemical_symbols() == ["O", "H", "H"]


def test_modes_are_rows(weighed: PosteriorSamples) -> None:
    """An integer, a slice, iteration; those of an event; what lies beyond is an IndexError."""
    found = weighed.modes(keep_flagged=True)
    assert [len(one) for one in found] == [1] * len(found)
    np.testing.assert_array_equal(np.concatenate([one.positions for one in found]), found.positions)
    np.testing.assert_array_equal(found[-1].covariance, found.covariance[-1:])
    assert set(found[found.of(1)].event.tolist()) == {1}
    assert found[0].to_dataframe()["event"].tolist() == [2]
    with pytest.raises(IndexError, match="no mode"):
        found[len(found)]


def test_without_its_samples_a_refinement_has_no_table(weighed: PosteriorSamples) -> None:
    """Of a bare likelihood there are neither labels nor event numbers."""
    bare = refine(weighed.likelihood, weighed.positions[:, :2])
    with pytest.raises(UsageError, match=r"PosteriorSamples.refine\(\)"):
        bare.to_dataframe()
    with pytest.raises(UsageError, match=r"PosteriorSamples.refine\(\)"):
        find_modes(bare, weighed.likelihood).to_dataframe()


def test_rules_decide(weighed: PosteriorSamples) -> None:
    """Each keyword takes part: what is reliable, converged, one geometry, ambiguous."""
    assert weighed.weights is not None
    assert weighed.weights.reliable.all()
    strict = weighed.weigh(rules=WeightRules(min_ess=29.999, min_efficiency=1.0))
    assert strict.weights is not None
    assert not strict.weights.reliable.any()
    assert (strict[:1].weights.rules, strict.weights.few_count.all()) == (strict.weights.rules, True)
    coarse = weighed.refine(rules=RefinementRules(steps=1), keep_flagged=True)
    assert (coarse.status != 0).mean() > (weighed.refine(keep_flagged=True).status != 0).mean()
    wide = weighed.modes(rules=ModeRules(same=100.0), keep_flagged=True)
    assert wide.count().tolist() == [1] * 4
    assert (weighed.modes(rules=ModeRules(counts=1.5), keep_flagged=True).verdict == 2).all()
