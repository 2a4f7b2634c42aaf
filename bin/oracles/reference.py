"""Reference posteriors: what an exact answer looks like, found without any network.

Where the prior has a density, nothing about a posterior is unknown but its normalisation.
Searches from many geometries of the prior find every exact geometry of an event; Student
distributions around them and around the nearest misses are a first proposal, which
population Monte Carlo (O. Cappe et al., J. Comput. Graph. Stat. 13, 907 (2004)) adapts to
what the Laplace approximation misses: folds, where momenta hardly change along one
direction, and the edges of the prior. Every weight has the density of the whole mixture
under it (A. Owen and Y. Zhou, J. Amer. Stat. Assoc. 95, 135 (2000)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import chi2

from flowcei.errors import DataError, NoDensityError
from flowcei.posterior.gathering import find_modes
from flowcei.posterior.laplace import ModeRules, local_covariance
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, STALLED, Refinement, refine, turned
from flowcei.posterior.resampling import systematic
from flowcei.posterior.weights import WEIGHT_RULES, Weights
from oracles.mixtures import StudentMixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowcei.experiment.likelihood import Likelihood
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.modes import Modes

    _LogPrior = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_APART = ModeRules(resolve=False)


@dataclass(frozen=True)
class ProposalRules:
    """How the proposal of an event is made and judged; measured by `bin/make-reference-posteriors`.

    Attributes:
        impossible: Chance of a chi-squared as large as that of a stalled search which still counts.
        distinct: Stalled searches that end nearer than this are one, bohr.
        stalled: Stalled searches, at the most, of an event.
        reach: Widest kernel, in sizes of the molecule, however little momenta tell.
        rounds: Rounds of adaptation.
        round_samples: Samples an event in each round.
        centres: Kernels of the adapted mixture.
        defence: Share that stays with the first proposal: no mode is lost.
        near: Deviation of the narrow kernels of the first proposal, in Laplace deviations.
        wide: Deviation of its wide kernels.
        round_ess: Effective samples below which a round tempers its weights.
        samples: Samples an event that the answer is drawn from.
        least_ess: Effective samples for each one that is asked for.
    """

    impossible: float = 1e-6
    distinct: float = 0.05
    stalled: int = 100
    reach: float = 0.1
    rounds: int = 4
    round_samples: int = 4_000
    centres: int = 400
    defence: float = 0.1
    near: float = 1.5
    wide: float = 4.0
    round_ess: float = 200.0
    samples: int = 20_000
    least_ess: float = 4.0


@dataclass(frozen=True, eq=False)
class ReferencePosterior:
    """Samples of the exact posteriors of E events.

    Attributes:
        positions: Equally weighted, (E, n, N, 3), bohr, in the frame of the momenta, centre of mass 0.
        log_prob: Log posterior density of each, (E, n), per bohr^(3N-3): as exact as `log_evidence`.
        weights: Of the samples that they were drawn from: evidence, its error, ESS and k-hat.
        modes: Every exact geometry, as of `exhaustive_modes`.
        mass: Of each mode, (M,): its Laplace approximation over the evidence, near its share of
            the posterior where that is normal about it. 0 outside the prior; not normalised.
        succeeded: Whether ESS and k-hat let each event be believed, (E,).
    """

    positions: NDArray[np.float64]
    log_prob: NDArray[np.float64]
    weights: Weights
    modes: Modes
    mass: NDArray[np.float64]
    succeeded: NDArray[np.bool_]

    @property
    def log_evidence(self) -> NDArray[np.float64]:
        """Log probability density of the measured momenta, (E,), per (hbar / bohr)^(3N-3)."""
        return self.weights.log_evidence


def turned_starts(
    prior: GeometryPrior, likelihood: Likelihood, molecule: Molecule, *, starts: int, seed: int
) -> NDArray[np.float64]:
    """Return geometries, turned and scaled for each event, (E, starts, N, 3), bohr.

    One half is of the prior, the other of any shape: an exact geometry far out in the tails of
    the prior may be what the momenta ask for.

    Args:
        prior: That half of the geometries are drawn from, the same for all events.
        likelihood: Of the E events.
        molecule: Whose they are.
        starts: Geometries.
        seed: Of the draw.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1)
        >>> turned_starts(known.prior, known.likelihood, e.molecule, starts=5, seed=1).shape
        (2, 5, 3, 3)
    """
    rng = np.random.default_rng(seed)
    shapes = rng.standard_normal((starts // 2, len(molecule), 3))
    x = np.concatenate([prior.sample(starts - starts // 2, rng), shapes])
    events = len(likelihood.measured)
    each = np.tile(x, (events, 1, 1)), np.repeat(np.arange(events), starts)
    return turned(likelihood, *each).reshape(events, *x.shape)


def exhaustive_modes(
    prior: GeometryPrior,
    likelihood: Likelihood,
    molecule: Molecule,
    *,
    starts: int = 2_000,
    seed: int,
    threads: int | None = None,
) -> Modes:
    """Return every exact geometry of each event: the ends of searches from everywhere.

    Of geometries with a thousandth of the probability 250 starts find all that 4,000 find; of
    those far out in the tails of the prior 2,000 miss one in six for four ions, none for three,
    and of those outside the prior one in ten (`bin/make-reference-posteriors --saturation`).

    Args:
        prior: Where half of the searches start, and whose support is asked of what they find.
        likelihood: Of the E events.
        molecule: Whose geometries are meant.
        starts: Searches for each event.
        seed: Of the starts.
        threads: To use; all the process may run on by default.

    Returns:
        The modes; `probability` is Laplace's where the prior has a density.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1)
        >>> m = exhaustive_modes(known.prior, known.likelihood, e.molecule, starts=50, seed=1)
        >>> m.count(0).tolist()
        [1, 1]
    """
    found = _searched(prior, likelihood, molecule, starts, seed, threads)
    return _modes(_log_prior(prior, molecule), likelihood, found)


def _searched(
    prior: GeometryPrior,
    likelihood: Likelihood,
    molecule: Molecule,
    starts: int,
    seed: int,
    threads: int | None,
) -> Refinement:
    begin = turned_starts(prior, likelihood, molecule, starts=starts, seed=seed)
    found = refine(likelihood, begin, threads=threads)
    arrived = found.status == CONVERGED
    if prior.has_density and arrived.any():
        allowed = prior.plausible(found.positions[arrived], molecule.identical)
        found.status[arrived] = np.where(allowed, CONVERGED, OUTSIDE)
    return found


def _log_prior(prior: GeometryPrior, molecule: Molecule) -> _LogPrior | None:
    """Return the log density that measured events see, where no ion tells its label."""
    return partial(prior.log_prob_unlabelled, identical=molecule.identical) if prior.has_density else None


def _modes(log_prior: _LogPrior | None, likelihood: Likelihood, found: Refinement) -> Modes:
    if log_prior is None:
        return find_modes(found, likelihood, rules=_APART)
    # Where searches start is arbitrary, so how many end in a mode says nothing of its
    # probability: without reliable weights Laplace's is taken.
    none = Weights.of(np.full(found.status.shape, -np.inf))
    return find_modes(found, likelihood, weights=none, log_prior=log_prior, rules=_APART)


def reference_posterior(
    prior: GeometryPrior,
    likelihood: Likelihood,
    molecule: Molecule,
    *,
    n: int = 500,
    seed: int,
    starts: int = 2_000,
    threads: int | None = None,
    rules: ProposalRules = ProposalRules(),
) -> ReferencePosterior:
    """Return samples of the exact posteriors of events, by importance sampling without a network.

    Args:
        prior: Which geometries are possible; it must have a density.
        likelihood: Of the E events; their noise must not be zero.
        molecule: Whose geometries are meant.
        n: Equally weighted samples for each event.
        seed: Of all draws.
        starts: Searches for modes, for each event.
        threads: To use; all the process may run on by default.
        rules: How the proposal is made and judged.

    Returns:
        The samples; `succeeded` is False for events whose samples must not be believed: fewer
        than 4 effective samples for each that is returned, or k-hat of 0.7 and more. A mode
        that no search found is in none of these figures.

    Raises:
        NoDensityError: For a prior that can only be sampled.
        DataError: For events without noise: their posterior is a few points, `exhaustive_modes`.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("ocs", 1, noise="1%", seed=1)
        >>> known = flowcei.load().sample(e, 2, seed=1)
        >>> exact = reference_posterior(known.prior, known.likelihood, e.molecule, n=100, starts=50, seed=1)
        >>> exact.positions.shape, exact.succeeded.tolist()
        ((1, 100, 3, 3), [True])
    """
    log_prior = _log_prior(prior, molecule)
    if log_prior is None:
        msg = f"a reference posterior needs the density of the prior; one of kind {prior.kind!r} has none"
        raise NoDensityError(msg)
    if not (likelihood.sigma > 0.0).all():
        bad = int(np.argmin(likelihood.sigma > 0.0))
        msg = f"event {bad} has no noise: its posterior is a few points; exhaustive_modes finds them"
        raise DataError(msg)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    found = _searched(prior, likelihood, molecule, starts, seed, threads)
    modes = _modes(log_prior, likelihood, found)
    target = _Target(log_prior, likelihood, rules, threads)
    proposals = _adapted(target, _first_proposals(target, found, modes), rng)
    count = max(rules.samples, int(10 * n))
    y, log_weights, log_target = target.weighed(proposals, count, rng)
    weights = Weights.of(log_weights)
    chosen = systematic(weights.normalised, n, rng)
    rows = np.arange(len(y))[:, None]
    return ReferencePosterior(
        positions=target.geometry(y[rows, chosen]),
        log_prob=log_target[rows, chosen] - weights.log_evidence[:, None],
        weights=weights,
        modes=modes,
        mass=np.exp(_log_laplace(target, modes) - weights.log_evidence[modes.event]),
        # NaN and infinity fail: where nothing counts, nothing is known.
        succeeded=(weights.ess >= rules.least_ess * n) & (weights.k_hat < WEIGHT_RULES.k_hat),
    )


class _Target:
    """Prior times likelihood of E events, as a function of the 3N-3 positions relative to ion 0."""

    def __init__(
        self, log_prior: _LogPrior, likelihood: Likelihood, rules: ProposalRules, threads: int | None
    ) -> None:
        self.log_prior, self.likelihood, self.rules, self.threads = log_prior, likelihood, rules, threads

    def geometry(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return positions (..., N, 3), centre of mass 0, of relative ones (..., D)."""
        masses = self.likelihood.masses
        x = np.concatenate([np.zeros((*y.shape[:-1], 3)), y], axis=-1).reshape(*y.shape[:-1], -1, 3)
        share = masses / masses.sum()
        return np.asarray(x - np.einsum("i,...ij->...j", share, x)[..., None, :])

    def log_prob(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log prior + log likelihood (E, n) of y (E, n, D)."""
        x = self.geometry(y)
        log_prior = self.log_prior(x.reshape(-1, *x.shape[2:])).reshape(y.shape[:2])
        return np.asarray(log_prior + self.likelihood.log_prob(x, threads=self.threads))

    def weighed(
        self, mixtures: list[StudentMixture], n: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], ...]:
        """Draw n points from the mixture of each event: y (E, n, D), log weights and log target (E, n)."""
        y = np.stack([mixture.draw(n, rng) for mixture in mixtures])
        log_q = np.stack([mixture.log_prob(points) for mixture, points in zip(mixtures, y, strict=True)])
        log_target = self.log_prob(y)
        return y, log_target - log_q, log_target

    def kernels(self, y: NDArray[np.float64], event: int, limit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scale matrices (M, D, D): Laplace's, where a covariance `limit` leaves them room."""
        x = self.geometry(y)
        covariance, _ = local_covariance(self.likelihood, x, np.full(len(x), event))
        ions = x.shape[1]
        shift = np.kron(np.concatenate([-np.ones((ions - 1, 1)), np.eye(ions - 1)], axis=1), np.eye(3))
        bad = ~np.isfinite(covariance).all(axis=(1, 2))
        covariance[bad] = 0.0
        relative = shift @ covariance @ shift.T
        relative[bad] = 1e3 * limit
        # A (A + B)^-1 B is (A^-1 + B^-1)^-1, and does not mind a singular A.
        out = relative @ np.linalg.solve(relative + limit, np.broadcast_to(limit, relative.shape))
        return np.asarray(0.5 * (out + np.swapaxes(out, 1, 2)))


def _log_laplace(target: _Target, modes: Modes) -> NDArray[np.float64]:
    """Return the log of the integral (M,) of prior times likelihood about each mode, by Laplace."""
    _, log_volume = local_covariance(target.likelihood, modes.positions, modes.event)
    log_prior = target.log_prior(modes.positions)
    # At the geometry of event e only the likelihood of event e is asked for.
    events = len(target.likelihood.sigma)
    each = np.broadcast_to(modes.positions[None], (events, *modes.positions.shape))
    log_likelihood = target.likelihood.log_prob(each, threads=target.threads)[modes.event, range(len(modes))]
    size = 3 * modes.positions.shape[1] - 3
    return np.asarray(log_prior + log_likelihood + log_volume + 0.5 * size * np.log(2.0 * np.pi))


def _relative(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positions relative to ion 0, (M, D), of (M, N, 3)."""
    return (x[:, 1:] - x[:, :1]).reshape(len(x), -1)


def _first_proposals(target: _Target, found: Refinement, modes: Modes) -> list[StudentMixture]:
    """Return the mixture of each event: kernels at its modes and at its nearest misses."""
    out, rules = [], target.rules
    for event in range(len(found.status)):
        exact = modes.of(event)
        exact = exact[modes.status[exact] != STALLED]
        misses = _near_misses(found, event, rules)
        y = _relative(np.concatenate([modes.positions[exact], misses]))
        size = np.abs(y).max(axis=1).mean()
        kernels = target.kernels(y, event, (rules.reach * size) ** 2 * np.eye(y.shape[1]))
        share = np.concatenate([np.full(k, 1.0 / k) for k in (len(exact), len(misses)) if k] or [np.ones(0)])
        near, wide = (
            StudentMixture.of(y, f**2 * kernels, share) for f in (target.rules.near, target.rules.wide)
        )
        out.append(near.joined(wide, 0.3))
    return out


def _near_misses(found: Refinement, event: int, rules: ProposalRules) -> NDArray[np.float64]:
    """Return distinct geometries (K, N, 3) where searches stalled within the noise of the momenta."""
    size = 3 * found.positions.shape[2] - 3
    distance = np.where(found.status[event] == STALLED, found.chi_squared[event], np.inf)
    order = np.argsort(distance)
    within = distance[order] < chi2.isf(rules.impossible, size)
    if not within.any() and (found.status[event] == STALLED).all():
        within[:10] = True  # unexplained: the nearest, whatever they are worth
    kept: list[NDArray[np.float64]] = []
    for x in found.positions[event, order[within]]:
        y = x - x[:1]
        if all(np.abs(y - other + other[:1]).max() > rules.distinct for other in kept):
            kept.append(x)
            if len(kept) == rules.stalled:
                break
    return np.array(kept).reshape(-1, *found.positions.shape[2:])


def _adapted(target: _Target, first: list[StudentMixture], rng: np.random.Generator) -> list[StudentMixture]:
    """Return proposals that samples of earlier rounds shaped."""
    proposals, rules = first, target.rules
    for _ in range(rules.rounds):
        y, log_weights, _ = target.weighed(proposals, rules.round_samples, rng)
        adapted = []
        for event, mixture in enumerate(first):
            weights = _tempered(log_weights[event], rules.round_ess)
            centre, count = np.unique(systematic(weights[None], rules.centres, rng), return_counts=True)
            limit = np.cov(y[event].T, aweights=weights)
            limit += 1e-6 * np.trace(limit) * np.eye(len(limit))
            kernels = target.kernels(y[event, centre], event, limit)
            kernel_mixture = StudentMixture.of(y[event, centre], kernels, count.astype(np.float64))
            adapted.append(kernel_mixture.joined(mixture, rules.defence))
        proposals = adapted
    return proposals


def _tempered(log_weights: NDArray[np.float64], least_ess: float) -> NDArray[np.float64]:
    """Return weights that sum to 1, flattened until `least_ess` effective samples are left."""
    if not np.isfinite(log_weights).any():
        return np.full(len(log_weights), 1.0 / len(log_weights))
    power, shifted = 1.0, log_weights - log_weights.max()
    while True:
        weights = np.exp(power * shifted)
        weights /= weights.sum()
        if power < 1e-3 or 1.0 / (weights**2).sum() >= least_ess:
            return np.asarray(weights)
        power *= 0.8
