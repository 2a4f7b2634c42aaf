"""Charge that moves from one ion to the others, against Newton's equations in plain time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import oracle
import pytest

import flowcei
from flowcei import ChargeTransfer, Coulomb, Experiment
from flowcei.errors import UsageError
from flowcei.experiment.likelihood import Likelihood
from flowcei.physics.explosion import SETTINGS, asymptotic_momenta
from flowcei.physics.growth import growth_of
from flowcei.physics.jacobian import momenta_jacobian
from flowcei.physics.priors import build_prior
from flowcei.units import FEMTOSECOND

OCS = flowcei.Molecule.load("ocs")
IONS = OCS.masses, np.array([2.0, 1.0, 3.0])
X = build_prior(OCS, "broad").sample(3, np.random.default_rng(4))
EACH = (3.0, 9.0, 0.7)


def _share(transfer: ChargeTransfer, *build_up: float) -> Callable[[float], np.ndarray]:
    """Return how much of its charge each ion has at a time, written out once more."""
    q, others = IONS[1], IONS[1].sum() - IONS[1][transfer.ion]
    moved = others if transfer.charge is None else transfer.charge

    def share(t: float) -> np.ndarray:
        left = np.exp(-t / (transfer.time * FEMTOSECOND))
        charges = q * (1.0 - moved / others * left)
        charges[transfer.ion] = q[transfer.ion] + moved * left
        return charges / q * (-np.expm1(-t / (np.array(build_up) * FEMTOSECOND)) if build_up else 1.0)

    return share


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    return float((np.linalg.norm(found - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))).max())


@pytest.mark.parametrize(
    "transfer", [ChargeTransfer(2, 6.0), ChargeTransfer(1, 0.4, 1.5), ChargeTransfer(0, 60.0)]
)
def test_momenta_are_those_of_plain_time(transfer: ChargeTransfer) -> None:
    """In both precisions, fast and slow, of some of the charge or all; also with motion at the start."""
    start = 4.0 * np.random.default_rng(1).standard_normal(X.shape)
    start -= (OCS.masses / OCS.masses.sum())[:, None] * start.sum(axis=1, keepdims=True)
    for motion in (None, start) if transfer.charge is None else (None,):
        starts = [None] * len(X) if motion is None else list(motion)
        share = _share(transfer)
        truth = np.array([oracle.momenta(x, *IONS, p, share=share) for x, p in zip(X, starts, strict=True)])
        for accuracy in (1e-4, 3e-6, 1e-6, 1e-9):
            how = {"forward": Coulomb(transfer=transfer), "initial_momenta": motion, "accuracy": accuracy}
            assert _error(asymptotic_momenta(X, *IONS, **how), truth) < max(2.0 * accuracy, 3e-9)


@pytest.mark.parametrize("transfer", [ChargeTransfer(1, 0.1), ChargeTransfer(2, 60.0)])
def test_accuracy_is_a_promise_while_charge_moves(transfer: ChargeTransfer) -> None:
    """Mean below what is asked and 99th percentile below ten times that, fast and slow."""
    x, model = build_prior(OCS, "broad").sample(300, np.random.default_rng(5)), Coulomb(transfer=transfer)
    truth = asymptotic_momenta(x, *IONS, forward=model, accuracy=1e-10)
    for setting in SETTINGS[:-1]:
        found = asymptotic_momenta(x, *IONS, forward=model, accuracy=setting.accuracy)
        error = np.linalg.norm(found - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
        assert error.mean() < setting.accuracy
        assert np.quantile(error, 0.99) < 10 * setting.accuracy


def test_beside_a_build_up() -> None:
    """Both together as in plain time; derivatives are differences; times and what moves are in one order."""
    transfer, step = ChargeTransfer(2, 15.0, 2.0), 1e-3
    model = Coulomb(8.0, transfer)
    truth = np.array([oracle.momenta(x, *IONS, share=_share(transfer, 8.0)) for x in X])
    assert _error(asymptotic_momenta(X, *IONS, forward=model, accuracy=1e-9), truth) < 3e-9
    jacobian = momenta_jacobian(X[0], *IONS, forward=model)
    moved = X[0] + step * np.eye(9).reshape(9, 3, 3) * np.array([-2, -1, 1, 2])[:, None, None, None]
    p = asymptotic_momenta(moved.reshape(-1, 3, 3), *IONS, forward=model, accuracy=1e-10).reshape(4, 9, 9)
    differences = (p[0] - 8 * p[1] + 8 * p[2] - p[3]) / (12 * step)
    np.testing.assert_allclose(jacobian, differences.T, atol=1e-6 * np.abs(jacobian).max())
    times, moved = growth_of([EACH], transfer, 1, *IONS)  # type: ignore[misc]
    unit = FEMTOSECOND * IONS[1].max() / np.sqrt(IONS[0].sum())
    for t in (0.0, 2.0, 30.0):
        fades = np.exp(-t * unit / times[0])
        shares = (1.0 - fades[:3]) * (1.0 - moved * fades[3])
        np.testing.assert_allclose(shares, _share(transfer, *EACH)(t * FEMTOSECOND), atol=1e-12)


def test_a_transfer_that_ends_at_once_changes_nothing() -> None:
    """As its time goes to 0; and the less charge moves the less it does."""
    plain = asymptotic_momenta(X, *IONS, accuracy=1e-9)
    for transfer, near in ((ChargeTransfer(2, 1e-7), 1e-6), (ChargeTransfer(2, 5.0, 1e-7), 1e-6)):
        assert (
            _error(asymptotic_momenta(X, *IONS, forward=Coulomb(transfer=transfer), accuracy=1e-9), plain)
            < near
        )


def test_an_experiment_states_it() -> None:
    """Simulated events, their likelihood and their names are of it; what makes no sense is refused."""
    own = Experiment(noise=0.01, charge_transfer={"from": "s", "time": "6fs", "charge": 2})
    assert Experiment.from_dict(own.to_dict()) == own
    events = flowcei.simulate("ocs", 2, experiment=own, seed=3)
    share = _of_ocs(events.positions)
    np.testing.assert_allclose(events.momenta, share, atol=0.1)
    likelihood = Likelihood(OCS.masses, OCS.charges, events.momenta, events.sigma)
    likelihood.forward = own.forward(OCS)
    assert (likelihood.chi_squared(events.positions[:, None]) < 30.0).all()
    assert own.forward(OCS).name == "Coulomb, a charge of 2 comes from ion 3 in 6fs"
    for table, word in (
        ({"from": "h", "time": "6fs"}, "the ions are c, o, s"),
        ({"from": "s", "time": "0fs"}, "above 0"),
        ({"from": "s", "time": "5fs,5fs"}, "one time"),
        ({"from": "s"}, "a table of from"),
        ({"from": "s", "time": "6fs", "charge": 4.5}, "that have 4 in the end"),
        ({"from": "s", "time": "6fs", "charge": -1}, "above 0"),
        ({"from": "s", "time": "6fs", "charge": "all"}, "must be a number"),
        ("s", "a table of from"),
    ):
        with pytest.raises(UsageError, match=word):
            Experiment(noise="1%", charge_transfer=table).of(OCS)
    with pytest.raises(UsageError, match="exclude each other"):
        Experiment(noise="1%", charge_transfer=own.charge_transfer, pair_potential="coulomb")


def _of_ocs(x: np.ndarray) -> np.ndarray:
    def share(t: float) -> np.ndarray:
        left = np.exp(-t / (6.0 * FEMTOSECOND))
        return np.array([1.0 - 0.5 * left, 1.0 - 0.5 * left, 1.0 + left])

    return np.array([oracle.momenta(g, OCS.masses, OCS.charges, share=share) for g in x])
