"""The law of normal modes without a model: the truth of simulated events, the promise of a plan, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.spatial.transform import Rotation

import flowcei
from flowcei.ensemble.fitting import Weighted
from flowcei.ensemble.laws import NormalLaw
from flowcei.ensemble.uncertainty import information
from flowcei.ensemble.vibrating import Vibrating
from flowcei.ensemble.vibrations import Told, sought, unsampled
from flowcei.errors import FlowceiError
from flowcei.events.simulation import explode
from flowcei.physics.priors import NormalModesPrior, build_prior

IODOPYRIDINE = flowcei.Molecule.load("iodopyridine")
LOSSY = flowcei.Experiment(noise="1%", spread=1.0, efficiency=0.6)


MEAN = np.array([0.8, -0.5, 0.3])
COVARIANCE = np.array([[0.5, 0.3, 0.1], [0.3, 0.6, 0.0], [0.1, 0.0, 0.2]])


@pytest.fixture(scope="module")
def water() -> tuple[flowcei.Molecule, NormalModesPrior]:
    """HDO, whose atoms differ, with three vibrations, any that are orthogonal."""
    molecule = flowcei.Molecule.load("h2o").with_isotopes("h1=2H")
    x, root = molecule.equilibrium, np.sqrt(molecule.masses)[:, None]
    x = x - molecule.masses @ x / molecule.masses.sum()
    moves = [np.tile(axis, (3, 1)) for axis in np.eye(3)] + [np.cross(axis, x) for axis in np.eye(3)]
    modes = null_space(np.array([(root * move).ravel() for move in moves])).T.reshape(3, 3, 3) / root
    table = {"kind": "normal_modes", "wavenumbers": [1900.0, 2300.0, 2700.0], "modes": modes.tolist()}
    prior = build_prior(molecule, table)
    assert isinstance(prior, NormalModesPrior)
    return molecule, prior


def events_of(
    water: tuple[flowcei.Molecule, NormalModesPrior], count: int, noise: str, seed: int = 2
) -> flowcei.Events:
    """Events of a law that is not the prior's."""
    molecule, prior = water
    rng = np.random.default_rng(1)
    z = rng.multivariate_normal(MEAN, COVARIANCE, count)
    return explode(prior.displaced(z, rng), molecule, noise=noise, seed=seed)


def test_law_is_that_of_the_events(water: tuple[flowcei.Molecule, NormalModesPrior]) -> None:
    """Mean, widths and correlations, far from those of the prior, lie within their errors."""
    _, prior = water
    law = flowcei.vibrational_law(events_of(water, 400, "1%"), prior=prior, samples=8)
    table, sd = law.to_dataframe(), np.sqrt(np.diag(COVARIANCE))
    assert np.all(np.abs(table["mean"] - MEAN) < 3.5 * table["mean_error"])
    assert np.all(np.abs(table["sd"] - sd) < 3.5 * table["sd_error"])
    pairs, true = law.correlations(), (COVARIANCE / sd / sd[:, None])[np.triu_indices(3, 1)]
    assert np.all(np.abs(pairs["correlation"] - true) < 3.5 * pairs["error"])
    assert law.log_likelihood > 100.0


def test_draws_are_of_posteriors_that_are_not_normal(
    water: tuple[flowcei.Molecule, NormalModesPrior],
) -> None:
    """As sums over geometries all over the law have them, in all orientations near the best."""
    molecule, prior = water
    events, noise, turn, n, copies = events_of(water, 4, "8%", seed=58), 0.08, 0.15, 100_000, 100
    blank = unsampled(events, prior)[np.repeat(np.arange(4), copies)]
    search = Vibrating(blank, prior, MEAN, np.linalg.inv(COVARIANCE))
    best, rotation, _ = search.best(None, np.random.default_rng(7))
    first, last = search.draws(best, rotation, 10, np.random.default_rng(8), apart=10)
    more, _ = search.draws(best, rotation, 10, np.random.default_rng(9), apart=10, start=last)
    draws = np.concatenate([first, more], axis=1).reshape(4, -1, 3)
    rng = np.random.default_rng(6)
    z = rng.multivariate_normal(MEAN, COVARIANCE, n)
    p = flowcei.asymptotic_momenta(prior.at(z), molecule.masses, molecule.charges)
    middle = flowcei.asymptotic_momenta(prior.at(MEAN[None]), molecule.masses, molecule.charges)[0]
    sigma, share = noise * np.sqrt((p**2).mean(axis=(1, 2))), molecule.masses / molecule.masses.sum()
    off = 0.0
    for k, measured in enumerate(events.momenta):
        away = turn * rng.standard_normal((n, 3))
        turned = Rotation.from_rotvec(away) * Rotation.align_vectors(measured, middle)[0]
        misfit = measured - p @ np.swapaxes(turned.as_matrix(), 1, 2)
        # Whatever the momentum of the source, of independent noise of all ions.
        square = (misfit**2).sum(axis=(1, 2)) - ((share @ misfit) ** 2).sum(axis=1) / (share**2).sum()
        log_weight = -0.5 * square / sigma**2 - 6.0 * np.log(sigma) + 0.5 * ((away / turn) ** 2).sum(axis=1)
        log_weight += 2.0 * np.log(np.sinc(np.linalg.norm(away, axis=1) / (2.0 * np.pi)))
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        mean = weight @ z
        sd = np.sqrt(weight @ (z - mean) ** 2)
        assert np.abs(draws[k].mean(axis=0) - mean).max() < 0.1 * sd.min()
        assert draws[k].std(axis=0) == pytest.approx(sd, rel=0.08)
        off = max(off, float(np.max(np.abs(best[k * copies] - mean) / sd)))
    assert off > 0.2  # the most probable geometry is not the mean


def test_errors_are_those_of_a_plan(water: tuple[flowcei.Molecule, NormalModesPrior]) -> None:
    """Scores of events have the information that is expected of them."""
    molecule, prior = water
    events = flowcei.simulate(molecule, 600, prior=prior, noise="3%", seed=3)
    table = flowcei.vibrational_law(events, prior=prior, samples=24).to_dataframe()
    wanted = [f"{kind}mode-{k} 0.1" for kind in ("", "width:") for k in (1, 2, 3)]
    planned = [
        one.error(600) for one in flowcei.plan(molecule, wanted, prior=prior, noise="3%", seed=4).promises
    ]
    assert [*table["mean_error"], *table["sd_error"]] == pytest.approx(planned, rel=0.15)


def test_what_is_told_of_some_coordinates_is_marginal() -> None:
    """Beside a measurement y of z, whose other coordinates add their variance to its noise."""
    rng, chosen = np.random.default_rng(3), np.array([0, 2])
    root = rng.standard_normal((4, 3, 3))
    information = root @ np.swapaxes(root, 1, 2)
    y = rng.standard_normal((4, 3))
    told = Told(np.einsum("ekl,el->ek", information, y), information, np.ones(4, bool))
    some = told.of_coordinates(chosen)
    for k in range(4):
        precision = np.linalg.inv(np.linalg.inv(information[k]) + np.diag([0.0, 1.0, 0.0]))
        assert some.information[k] == pytest.approx(precision[np.ix_(chosen, chosen)], rel=1e-6)
        assert some.linear[k] == pytest.approx(precision[chosen] @ y[k], rel=1e-6)


def test_eleven_atoms_that_lack_ions() -> None:
    """Two modes of 2-iodopyridine, of events most of which lack three ions."""
    cold = IODOPYRIDINE.prior_table("equilibrium")
    warm = build_prior(IODOPYRIDINE, cold | {"temperature": 300.0})
    assert isinstance(warm, NormalModesPrior)
    events = flowcei.simulate(IODOPYRIDINE, 40, prior=cold, experiment=LOSSY, missing=3, seed=4)
    law = flowcei.vibrational_law(events, ["mode-1", "mode-4"], prior=warm, experiment=LOSSY, samples=16)
    truth = warm.normal_coordinates(events.positions)[0][:, [0, 3]].std(axis=0)
    assert law.deviation == pytest.approx(truth, rel=0.25)
    assert set(law.left_out.values()) == {0}


def test_events_of_another_molecule_have_no_law(water: tuple[flowcei.Molecule, NormalModesPrior]) -> None:
    """Geometries that the prior holds for impossible are no vibrations."""
    molecule, prior = water
    x = 2.0 * prior.sample(60, np.random.default_rng(5))
    with pytest.raises(FlowceiError, match="no geometry near the equilibrium"):
        flowcei.vibrational_law(explode(x, molecule, noise="1%", seed=5), prior=prior)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"prior": "ball"}, "all normal modes"),
        ({"experiment": flowcei.Experiment(noise="1%", efficiency=0.6)}, "source is known"),
        ({"experiment": flowcei.Experiment(noise="1%", spread=1.0, accidents=0.1)}, "no accidents"),
        ({"experiment": LOSSY, "noise": "1%"}, "leave the other out"),
        ({"experiment": LOSSY}, "too few"),
        ({"experiment": LOSSY, "samples": 3}, "4 samples an event"),
        ({"experiment": LOSSY, "coordinates": ["mode-28"]}, "no coordinate"),
    ],
)
def test_what_has_no_law_of_vibrations_gets_one_line(how: dict[str, Any], words: str) -> None:
    """Other priors, sources and wishes."""
    events = flowcei.simulate(IODOPYRIDINE, 40, experiment=LOSSY, missing=1, seed=1)
    with pytest.raises(FlowceiError, match=words):
        flowcei.vibrational_law(events, **how)


class SlowChains:
    """Draws of posteriors of two numbers of each event, measured with normal noise."""

    def __init__(self, events: int, noise: float, seed: int) -> None:
        self.noise, self.rng = noise, np.random.default_rng(seed)
        self.y = self.rng.standard_normal((events, 2)) + noise * self.rng.standard_normal((events, 2))
        self.u = 0.6 * self.rng.standard_normal(self.y.shape)  # too narrow

    def __call__(self, law: NormalLaw, count: int, apart: int) -> Weighted:
        """Under a law, so many steps apart."""
        inverse, rho, z = np.linalg.inv(law.covariance[0]), 0.94**apart, []
        covariance = np.linalg.inv(inverse + np.eye(2) / self.noise**2)
        middle, root = self.y / self.noise**2 + inverse @ law.mean[0], np.linalg.cholesky(covariance)
        for _ in range(count):
            self.u = rho * self.u + np.sqrt(1.0 - rho**2) * self.rng.standard_normal(self.y.shape)
            z.append(middle @ covariance + self.u @ root.T)
        x, ones = np.stack(z, axis=1), np.ones(len(self.y))
        return Weighted(x, -law.log_prob(x.reshape(-1, 2)).reshape(x.shape[:2]) - np.log(count), ones, ones)


def test_laws_of_slow_chains_have_errors_that_hold() -> None:
    """Against a closed form: the likeliest law is the covariance of what is measured less that of its noise.

    By what the law of draws differs from it is their doing: they begin in posteriors that are too narrow,
    under a law far away.
    """
    off, stated = [], []
    first = NormalLaw(np.ones(1), MEAN[None, :2], COVARIANCE[None, :2, :2], np.zeros(2, bool))
    for seed in range(6):
        chains = SlowChains(800, 0.9, seed)
        law, known, data = sought(first, chains, np.eye(2)[None], 48)
        law, alone = law.shifted(-known.bias, law.pairs), information(law, data, 1e9)
        own = np.cov(chains.y.T, ddof=0) - chains.noise**2 * np.eye(2)
        exact = replace(law, mean=chains.y.mean(axis=0)[None], covariance=own[None])
        each = [[*one.mean[0], *np.log(one.deviation[0]), one.correlation[0, 0, 1]] for one in (law, exact)]
        off.append(np.subtract(*each))
        stated.append(np.diagonal(known.covariance - alone.covariance))
    ratio = np.mean(np.square(off), axis=0) / np.mean(stated, axis=0)
    assert 0.5 < ratio.mean() < 1.6, ratio
