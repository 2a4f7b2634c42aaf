"""Posterior samples near an equilibrium, without a network: normal coordinates and a rotation of each event.

A geometry is R (x_eq + B z): z are normal coordinates over their deviations, R is its orientation. The most
probable z and R of an event are found by Gauss-Newton, and their Laplace approximation is drawn from. It is
carried over to the posterior by annealed weights, resampling and moves that leave the approximation as it is
(P. Del Moral, A. Doucet and A. Jasra, J. R. Statist. Soc. B 68, 411 (2006); S. Cotter et al., Statist. Sci.
28, 424 (2013)). Eleven atoms take some 20 ms an event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from flowcei.errors import UsageError
from flowcei.experiment.detector import Noise
from flowcei.experiment.experiment import Experiment
from flowcei.experiment.missing import completed, lost_ions
from flowcei.physics.explosion import followed_momenta
from flowcei.physics.priors import NormalModesPrior, build_prior
from flowcei.physics.priors.orders import nearest_rotations
from flowcei.posterior.exact import ACCEPTANCE, R_HAT
from flowcei.posterior.flags import combined, unexplained
from flowcei.posterior.resampling import power_for, relative, systematic
from flowcei.posterior.samples import LABELLED, PosteriorSamples
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

    from flowcei.events.container import Events
    from flowcei.experiment.likelihood import Likelihood
    from flowcei.posterior.arrays import Floats

_HELD = 100_000  # samples that are drawn together
_SEARCH, _SHORTENED, _CLOSE = 15, 6, 1e-3  # steps to the most probable geometry; nats that end them
_KEPT = 0.5  # effective share of the samples that a change of temperature leaves
_STAGES = 40  # changes of temperature, at the most
_MOVES, _LAST = 4, 24  # of the samples at each temperature, and at the end
_STEP, _ACCEPTED = 0.5, 0.4  # of a move at first, and the share of moves that its length is to lead to
_OPEN = 1e-6  # inverse variance of a rotation that momenta leave open
_MEMORY = 0.5  # correlation of samples with those before the last moves, above which they have not mixed


def sample_vibrations(
    events: Events,
    n: int = 100,
    *,
    prior: str | dict[str, Any] | NormalModesPrior | None = None,
    noise: str | None = None,
    experiment: Experiment | str | Path | None = None,
    seed: int = 0,
) -> PosteriorSamples:
    """Draw exact posterior samples under a prior of normal modes, without a model.

    For molecules of many atoms that vibrate about an equilibrium. Ions are taken to be those that the events
    say they are, like ones too; any number of them may be lost where an experiment states its source.

    Args:
        events: Measured events.
        n: Samples of each, 2 or more.
        prior: A name or table of the molecule's, or a prior, of normal modes; its default where None.
        noise: As of `simulate`; that of the events where None.
        experiment: Instead of `noise`.
        seed: Seed of the samples.

    Returns:
        Samples that count alike, (E, n), with the evidence in their weights. Columns ``r_hat`` and
        ``acceptance`` and the flag ``mixing`` tell of the moves.

    Raises:
        UsageError: For another prior, or an experiment with assignments.

    Example:
        >>> import flowcei
        >>> e = flowcei.simulate("h2o", 3, prior="equilibrium", noise="1%", seed=1)
        >>> flowcei.sample_vibrations(e, 20, prior="equilibrium", seed=1)
        PosteriorSamples: 3 events x 20 samples of h2o, exact
    """
    law = prior if isinstance(prior, NormalModesPrior) else build_prior(events.molecule, prior)
    if not isinstance(law, NormalModesPrior) or not law.has_density:
        raise UsageError(
            "samples of vibrations need a prior of all normal modes of a molecule that is not straight"
        )
    if n < 2:
        raise UsageError(f"the number of samples is {n}; it must be 2 or more")
    blank = _blank(events, law, noise, None if experiment is None else Experiment.load(experiment), seed)
    size = max(1, _HELD // n)
    streams = np.random.SeedSequence(seed).spawn(-(-len(blank) // size))
    blocks = (blank[k : k + size] for k in range(0, len(blank), size))
    return PosteriorSamples.concatenate(
        [
            _Vibrations(one, law).samples(n, np.random.default_rng(s))
            for one, s in zip(blocks, streams, strict=True)
        ]
    )


def _blank(
    events: Events, prior: NormalModesPrior, noise: str | None, experiment: Experiment | None, seed: int
) -> PosteriorSamples:
    """Samples of events that are not drawn yet, one of each, which know their likelihood."""
    molecule = events.molecule
    stated: dict[str, Any] = {"noise": noise or "of each event", "noise_relative": True}
    if experiment is not None:
        if noise is not None:
            raise UsageError("the experiment states its noise; leave the other out")
        if experiment.of(molecule).orders is not None:
            raise UsageError("samples of vibrations take ions as they are: leave out assignments")
        events, stated = experiment.calibrated(events), {"experiment": experiment.to_dict()}
    momenta, lost = events.momenta, lost_ions(events.columns, len(molecule))
    if lost is not None:
        if experiment is None or np.isinf(experiment.of(molecule).spread).any():
            raise UsageError(
                "events that lack an ion need an experiment whose source is known (spread or temperature)"
            )
        momenta = completed(momenta, lost)
    sigma = events.sigma if noise is None else Noise.parse(noise).sigma(momenta)
    if sigma is None:
        raise UsageError("the events state no noise: name it")
    origin = stated | {"prior": prior.spec(), "seed": seed, "events": events.origin, LABELLED: True}
    x = np.zeros((len(events), 1, *momenta.shape[1:]), np.float32)
    return PosteriorSamples(
        molecule, momenta, x, None, events.event_id, sigma, origin, columns=events.columns
    )


@dataclass(frozen=True, eq=False)
class _Peak:
    """Laplace's approximation of E events: coordinates u = (z, turn), (K + 3), from the rotation on."""

    z: Floats  # (E, K)
    rotation: Floats  # (E, 3, 3)
    root: Floats  # lower Cholesky factor of the inverse covariance, (E, K + 3, K + 3)

    def points(self, e: Floats) -> Floats:
        """Coordinates u (E, n, K + 3), of the approximation where e are standard normal."""
        u = np.swapaxes(np.linalg.solve(np.swapaxes(self.root, 1, 2), np.swapaxes(e, 1, 2)), 1, 2)
        u[..., : self.z.shape[1]] += self.z[:, None]
        return u


class _Vibrations:
    """Events whose samples are drawn together."""

    def __init__(self, blank: PosteriorSamples, prior: NormalModesPrior) -> None:
        self.blank, self.prior = blank, prior
        self.likelihood: Likelihood = blank.likelihood
        self.accuracy = max(self.likelihood.accuracy, 1e-6)
        self.unit = (self.likelihood.size / self.likelihood.noise)[:, None]
        self.rows = np.arange(len(blank))
        self.k = prior.mode_count

    def samples(self, n: int, rng: np.random.Generator) -> PosteriorSamples:
        """Samples of the posterior, n of each event."""
        peak = self.peak()
        e = rng.standard_normal((len(self.rows), n, self.k + 3))
        weight, x = self.weight(peak, e)
        power, evidence = np.zeros(len(e)), np.zeros(len(e))
        length = np.full(len(e), _STEP)
        for _ in range(_STAGES):
            more = np.minimum(power_for(weight, _KEPT * n), 1.0 - power)
            step = more[:, None] * np.where(np.isfinite(weight), weight, -1e300)
            evidence += np.log(relative(step).mean(axis=1)) + step.max(axis=1)
            chosen = systematic(relative(step), n, rng)
            e, weight = (
                np.take_along_axis(e, chosen[..., None], axis=1),
                np.take_along_axis(weight, chosen, axis=1),
            )
            x = np.take_along_axis(x, chosen[..., None, None], axis=1)
            power = np.minimum(power + more, 1.0)
            if (power > 1.0 - 1e-9).all():
                break
            for _ in range(_MOVES):
                self._move(peak, e, weight, x, power, length, rng)
        before, accepted = e.copy(), np.zeros(len(e))
        for _ in range(_LAST):
            accepted += self._move(peak, e, weight, x, power, length, rng) / _LAST
        return self._of(x, evidence, _memory(before, e), accepted)

    def _move(
        self,
        peak: _Peak,
        e: Floats,
        weight: Floats,
        x: Floats,
        power: Floats,
        length: Floats,
        rng: np.random.Generator,
    ) -> Floats:
        """Move samples in place, by steps that leave the approximation as it is; return the share that did."""
        step = length[:, None, None]
        trial = np.sqrt(1.0 - step**2) * e + step * rng.standard_normal(e.shape)
        heavier, there = self.weight(peak, trial)
        with np.errstate(invalid="ignore", over="ignore"):
            moved = np.log(rng.random(weight.shape)) < power[:, None] * (heavier - weight)
        e[moved], weight[moved], x[moved] = trial[moved], heavier[moved], there[moved]
        share = moved.mean(axis=1)
        length[:] = np.clip(length * np.exp(share - _ACCEPTED), 0.02, 0.95)
        return share

    def weight(self, peak: _Peak, e: Floats) -> tuple[Floats, Floats]:
        """Log of posterior over approximation (E, n), and geometries (E, n, N, 3), of points (E, n, K + 3)."""
        u = peak.points(e)
        z, turn = u[..., : self.k], u[..., self.k :]
        x = self.geometries(z, turn, peak.rotation)
        half = 0.5 * np.linalg.norm(turn, axis=2)
        haar = 2.0 * np.log(np.sinc(half / np.pi)) - np.log(8.0 * np.pi**2)  # of rotations, per radian^3
        volume = np.log(np.einsum("edd->ed", peak.root)).sum(axis=1)[:, None]
        own = 0.5 * (e**2).sum(axis=2) - volume + 1.5 * np.log(2.0 * np.pi)
        return self.likelihood.log_prob(x) - 0.5 * (z**2).sum(axis=2) + haar + own, x

    def geometries(self, z: Floats, turn: Floats, rotation: Floats) -> Floats:
        """Positions (E, n, N, 3), bohr, of coordinates (E, n, K) turned by vectors (E, n, 3) from rotations."""
        turned = Rotation.from_rotvec(turn.reshape(-1, 3)).as_matrix().reshape(*turn.shape, 3)
        x = self.prior.at(z.reshape(-1, self.k)).reshape(*z.shape[:2], -1, 3)
        return x @ np.swapaxes(turned @ rotation[:, None], 2, 3)

    def peak(self) -> _Peak:
        """The most probable geometry of each event, and the curvature there."""
        z, rotation = np.zeros((len(self.rows), self.k)), self.first_rotation()
        height, misfit = self.height(z, rotation)
        for _ in range(_SEARCH):
            slope, root = self.slope(z, rotation)
            gradient = np.einsum("edk,ed->ek", slope, misfit)
            gradient[:, : self.k] += z
            step = -np.linalg.solve(root @ np.swapaxes(root, 1, 2), gradient[..., None])[..., 0]
            gain = np.zeros(len(z))
            for _ in range(_SHORTENED):
                turned = Rotation.from_rotvec(step[:, self.k :]).as_matrix() @ rotation
                other = self.height(z + step[:, : self.k], turned)
                better = other[0] < height
                gain[better] = (height - other[0])[better]
                z[better] += step[better, : self.k]
                rotation[better], height[better], misfit[better] = (
                    turned[better],
                    other[0][better],
                    other[1][better],
                )
                step[better] = 0.0
                step *= 0.3
                if better.all():
                    break
            if gain.max() < _CLOSE:
                break
        return _Peak(z, rotation, self.slope(z, rotation)[1])

    def first_rotation(self) -> Floats:
        """Rotations (E, 3, 3) of the equilibrium whose momenta are nearest to those that were detected."""
        ions = self.blank.molecule
        exact = followed_momenta(
            self.prior.at(np.zeros((1, self.k))), ions.masses, ions.charges, forward=self.likelihood.forward
        )
        there = np.ones(self.blank.momenta.shape[:2]) if self.blank.lost is None else ~self.blank.lost
        momenta = self.blank.momenta * there[..., None]
        return nearest_rotations(np.swapaxes(momenta, 1, 2) @ exact[0])

    def height(self, z: Floats, rotation: Floats) -> tuple[Floats, Floats]:
        """Minus the log posterior (E,) of a geometry of each event, up to a constant, and its misfit (E, D)."""
        x = self.geometries(z[:, None], np.zeros((len(z), 1, 3)), rotation)[:, 0]
        misfit = self.likelihood.residual(x, self.rows, accuracy=self.accuracy) * self.unit
        height = 0.5 * (misfit**2).sum(axis=1) + 0.5 * (z**2).sum(axis=1)
        return np.where(np.isfinite(height), height, np.inf), misfit

    def slope(self, z: Floats, rotation: Floats) -> tuple[Floats, Floats]:
        """Derivatives (E, D, K + 3) of the misfit, and the root (E, K + 3, K + 3) of the inverse covariance."""
        x = self.geometries(z[:, None], np.zeros((len(z), 1, 3)), rotation)[:, 0]
        by_position = self.likelihood.slope(x, self.rows, accuracy=self.accuracy) * self.unit[..., None]
        modes = self.prior.at(np.eye(self.k)) - self.prior.equilibrium
        by_z = np.einsum("kna,eba->enbk", modes, rotation).reshape(len(z), -1, self.k)
        by_turn = np.stack([np.cross(axis, x) for axis in np.eye(3)], axis=-1).reshape(len(z), -1, 3)
        slope = by_position @ np.concatenate([by_z, by_turn], axis=2)
        inverse = np.swapaxes(slope, 1, 2) @ slope + np.diag([1.0] * self.k + [_OPEN] * 3)
        return slope, np.linalg.cholesky(inverse)

    def _of(self, x: Floats, evidence: Floats, memory: Floats, accepted: Floats) -> PosteriorSamples:
        """Samples with what is known of them."""
        e, n = x.shape[:2]
        prior = self.prior.log_prob(x.reshape(-1, *x.shape[2:])).reshape(e, n)
        out = replace(
            self.blank,
            positions=x.astype(np.float32),
            log_prob=self.likelihood.log_prob(x) + prior - evidence[:, None],
            weights=Weights(
                np.repeat(evidence[:, None], n, axis=1),
                np.full(e, n),
                n * (1.0 - memory),
                evidence,
                np.full(e, np.nan),
            ),
            columns=self.blank.columns
            | {R_HAT: 1.0 / np.sqrt(np.maximum(1.0 - memory, 1e-9)), ACCEPTANCE: accepted},
        )
        return replace(out, flags=combined(mixing=memory > _MEMORY, re_simulation=unexplained(out)))


def _memory(before: Floats, after: Floats) -> Floats:
    """Squared correlation (E,) of points (E, n, D) with where they began, over all coordinates."""
    first, second = (one - one.mean(axis=1, keepdims=True) for one in (before, after))
    both = (first * second).mean(axis=1) / np.sqrt((first**2).mean(axis=1) * (second**2).mean(axis=1))
    return np.asarray(both.clip(0.0).mean(axis=1) ** 2)
