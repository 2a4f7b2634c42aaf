"""Explosions by forces that an experiment states: simulated, read out, and not mixed with Coulomb's."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import oracle
import pytest
from shell import Shell

import flowcei
from flowcei.errors import DataError, UsageError
from flowcei.experiment.experiment import Experiment, stated_forward
from flowcei.reconstruction.training_data import recorded

OCS = flowcei.Molecule.load("ocs")
SCREENED = {"noise": "0.5%", "pair_potential": {"yukawa": "9 bohr"}}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Return a shell in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def _oracle(x: np.ndarray) -> np.ndarray:
    """Momenta (B, N, 3) of geometries in plain time."""

    def law(r: np.ndarray) -> np.ndarray:
        return np.exp(-r / 9.0) * (1.0 / r + 1.0 / 9.0) / r**2

    return np.array([oracle.momenta(g, OCS.masses, OCS.charges, law=law, tail=0.0) for g in x])


def test_forces_are_simulated_and_read_out(shell: Shell) -> None:
    """By an experiment file; exact samples, refined ones and the check of the file are of the same forces."""
    r = np.geomspace(0.7, 400.0, 500)
    rows = "".join(f"{a:.12g},{4.0 * np.exp(-a / 9.0) / a:.12g}\n" for a in r.tolist())
    Path("sub").mkdir()
    Path("sub/co.csv").write_text("r_bohr,u_hartree\n" + rows)
    Path("sub/e.toml").write_text(
        'noise = "0.5%"\n[pair_potential]\n"o-c" = { table = "co.csv", tail = 0.0 }\n'
        'c-s = { yukawa = "9 bohr" }\no-s = { yukawa = "9 bohr" }\n'
    )
    assert shell("simulate", "ocs", "-n", "2", "--experiment", "sub/e.toml", "--seed", "2", "-o", "e.h5") == 0
    assert "table" in shell.err
    Path("sub/co.csv").unlink()  # the file of events holds what was in it
    events = flowcei.read_events("e.h5")
    truth = _oracle(events.positions)
    assert np.abs(events.momenta - truth).max() < 0.03 * np.abs(truth).max()
    assert stated_forward(events).name == Experiment.from_dict(events.origin["experiment"]).forward(OCS).name
    assert shell("check", "e.h5") == 0
    assert shell("info", "e.h5") == 0
    assert "500 numbers" in shell.out
    exact = flowcei.simulate("ocs", 2, experiment=Experiment(**SCREENED), seed=3)
    samples = flowcei.load().sample(exact, 8, seed=1, experiment=Experiment(**SCREENED), exact=True)
    assert (samples.likelihood.chi_squared(samples.positions.astype(float)) < 40.0).all()
    refined = samples.refine().positions[:, :2].reshape(-1, 3, 3)
    expected = np.repeat(samples.likelihood.measured, 2, axis=0)
    np.testing.assert_allclose(_oracle(refined), expected, atol=1e-5 * np.abs(expected).max())


def test_what_is_of_other_forces_is_not_mixed() -> None:
    """A model that was trained on them says so, and answers for Coulomb's law only where that is stated."""
    events = flowcei.simulate("ocs", 400, experiment=Experiment(**SCREENED), seed=1)
    record = recorded(events, None, 0)[2]
    assert record.forward == "pair potential: Yukawa 9 bohr"
    assert recorded(flowcei.simulate("ocs", 400, noise="1%", seed=1), None, 0)[2].forward == ""
    model = deepcopy(flowcei.load())
    model.training.forward = record.forward
    with pytest.raises(UsageError, match="trained on explosions by pair potential: Yukawa"):
        model.sample(events[:3], 5, weigh=True)
    own = model.sample(events[:3], 5, seed=1)
    with pytest.raises(DataError, match="explosions by pair potential"):
        own.refine(keep_flagged=True)
    with pytest.raises(UsageError, match="exact or weighed"):
        model.sample(events[:3], 5, experiment=Experiment(**SCREENED))


def test_an_experiment_has_one_kind_of_force(shell: Shell) -> None:
    """Build-up beside a potential, laws of other ions, and a file that is not there."""
    for table, word in (
        ({"build_up": "5fs"}, "exclude each other"),
        ({"pair_potential": {"c-h": "coulomb"}}, "state each of c-o, c-s, o-s"),
        ({"pair_potential": "co.csv"}, "not understood"),
    ):
        with pytest.raises(UsageError, match=word):
            Experiment(**SCREENED | table).of(OCS)
    own = Experiment(**SCREENED)
    assert Experiment.from_dict(own.to_dict()) == own
    Path("e.toml").write_text(own.to_toml())
    assert Experiment.load("e.toml") == own
    Path("e.toml").write_text('noise = "1%"\npair_potential = "none.csv"\n')
    assert shell("simulate", "ocs", "-n", "5", "--experiment", "e.toml", "-o", "a.h5") == 3
    assert "no file" in shell.err
    assert "\n" not in shell.err.strip()
    assert not Path("a.h5").exists()
    with pytest.raises(UsageError, match="leave the build-up out"):
        flowcei.simulate("ocs", 5, experiment=own, build_up=5.0)
