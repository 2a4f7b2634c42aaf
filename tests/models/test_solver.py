"""Least squares on the exact simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from flowcei.errors import UsageError
from flowcei.events.simulation import simulate
from flowcei.frame.recoil import RecoilFrame
from flowcei.frame.standardiser import Standardiser
from flowcei.molecules.molecule import Molecule
from flowcei.physics.leastsquares import levenberg_marquardt
from flowcei.posterior.spread import in_recoil_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowcei.reconstruction.model import Reconstructor


def _rosenbrock(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.stack([10.0 * (x[:, 1] - x[:, 0] ** 2), rows + 1.0 - x[:, 0]], axis=1)


def _slope(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    out = np.zeros((len(rows), 2, 2))
    out[:, 0, 0], out[:, 0, 1], out[:, 1, 0] = -20.0 * x[:, 0], 10.0, -1.0
    return out


def test_every_row_finds_its_own_valley() -> None:
    """Rosenbrock's function with another minimum in each row: (k, k^2)."""
    start = np.random.default_rng(0).normal(size=(10, 2))
    fit = levenberg_marquardt(_rosenbrock, _slope, start, steps=200)
    k = np.arange(10) + 1.0
    np.testing.assert_allclose(fit.x, np.stack([k, k**2], axis=1), rtol=1e-8)
    assert (fit.norm < 1e-9).all()


def test_what_cannot_be_solved_ends_at_the_least_residual() -> None:
    """Overdetermined lines: the answer of SciPy and of the normal equations."""
    rng = np.random.default_rng(1)
    matrix, target = rng.normal(size=(5, 3)), rng.normal(size=(4, 5))
    fit = levenberg_marquardt(
        lambda x, rows: x @ matrix.T - target[rows],
        lambda _, rows: np.repeat(matrix[None], len(rows), axis=0),
        np.zeros((4, 3)),
    )
    for row in range(4):
        other = least_squares(lambda x, row=row: matrix @ x - target[row], np.zeros(3))
        np.testing.assert_allclose(fit.x[row], other.x, atol=1e-6)


def test_steps_to_nowhere_are_refused() -> None:
    """Beyond a wall the residual is infinite: the search stays on its side."""

    def walled(x: np.ndarray, _rows: np.ndarray) -> np.ndarray:
        return np.where(x > 0, np.log(np.where(x > 0, x, 1.0)) + 3.0, np.nan)

    start = np.array([[5.0], [-1.0]])
    fit = levenberg_marquardt(walled, lambda x, _: 1.0 / np.abs(x)[:, :, None], start)
    assert fit.x[0, 0] == pytest.approx(np.exp(-3.0), rel=1e-6)
    assert fit.x[1, 0] == -1.0
    assert np.isinf(fit.norm[1])


@pytest.mark.parametrize("name", ["ocs", "h2o", "chbrclf"])
def test_a_true_geometry_explains_its_event(name: str) -> None:
    """Noise-free: residual 0 for the truth; the Jacobian is that of central differences."""
    molecule = Molecule.load(name)
    events = simulate(molecule, 6, seed=3, accuracy=1e-10)
    p = events.momenta
    frame = RecoilFrame.of(molecule, p, reflect=len(molecule) > 3)
    framed = frame.enter(p, np.full(6, 0.01))
    assert events.positions is not None
    x = frame.to_chart(events.positions[:, None], framed)[:, 0]
    chart = Standardiser(np.full(frame.width, 0.1), np.full(frame.width, 0.3))
    condition = Standardiser(np.zeros(frame.condition_width), np.ones(frame.condition_width))
    forward = frame.simulator(molecule, chart, condition)
    u, c = (x - chart.mean) / chart.scale, framed.condition
    assert np.abs(forward.residual(u, c)).max() < 1e-8
    found, h = forward.jacobian(u, c), 1e-4
    for k in range(frame.width):
        step = h * np.eye(frame.width)[k]
        slope = (forward.residual(u + step, c) - forward.residual(u - step, c)) / (2 * h)
        np.testing.assert_allclose(found[:, :, k], slope, rtol=1e-4, atol=1e-5)


def test_the_momenta_of_a_condition_are_those_it_was_made_of() -> None:
    """Also for two ions, whose condition has none."""
    for name in ("ocs", "ch4"):
        molecule = Molecule.load(name)
        p = simulate(molecule, 5, seed=1, accuracy=1e-8).momenta
        frame = RecoilFrame.of(molecule, p, reflect=False)
        framed = frame.enter(p, np.ones(5))
        turned = np.take_along_axis(p, framed.order[:, :, None], axis=1) @ np.swapaxes(framed.rotation, 1, 2)
        expected = turned / np.sqrt(framed.ker)[:, None, None]
        np.testing.assert_allclose(frame.momenta(framed.condition), expected, rtol=0, atol=1e-5)


def test_the_solver_finds_exact_geometries(tiny: Callable[[str, str], Reconstructor]) -> None:
    """Without noise the truth is among the answers of almost all events near equilibrium."""
    model = tiny("solver", "ocs")
    events = simulate("ocs", 40, seed=9)
    drawn = model.sample(events, 3, noise="0.5%", seed=1)
    assert events.positions is not None
    truth = in_recoil_frame(events.molecule, events.momenta, events.positions[:, None])
    found = in_recoil_frame(events.molecule, events.momenta, drawn.positions)
    nearest = np.linalg.norm(found - truth, axis=-1).mean(axis=-1).min(axis=1)
    assert np.median(nearest) < 1e-4
    assert (nearest < 1e-3).mean() > 0.9


def test_a_solver_without_a_simulator_says_so() -> None:
    """Used on its own it can search nothing."""
    from flowcei.models.registry import build_model

    model = build_model("solver", 6, 5)
    with pytest.raises(UsageError, match="no training data"):
        model.sample(torch.zeros(1, 5), 1, generator=np.random.default_rng(0))
    model.remember(torch.zeros(4, 6), torch.zeros(4, 5))
    with pytest.raises(UsageError, match="no simulator"):
        model.sample(torch.zeros(1, 5), 1, generator=np.random.default_rng(0))
