"""Exact samples: what a model draws is the start, and the exact prior and likelihood decide.

For an event as for the whole file the answer is that of the posterior, however poor the model: see
`flowcei.posterior.chains`, whose coordinates here are the positions relative to the first ion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowcei.physics.explosion import centre_of_mass
from flowcei.posterior.adaptation import CHAIN_RULES, ChainRules
from flowcei.posterior.chains import Proposal, run_chains
from flowcei.posterior.flags import combined
from flowcei.posterior.mixtures import StudentMixture
from flowcei.posterior.refinement import OUTSIDE
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats, Rows
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.samples import PosteriorSamples

    Draw = Callable[[Rows, int], PosteriorSamples]
    Density = Callable[[Floats, Floats | None, Rows], Floats]
    """Log density (e, m) of a model, at geometries (e, m, N, 3) and build-up times of the events (e,)."""

R_HAT, ACCEPTANCE = "r_hat", "acceptance"
"""Extra columns of exact samples: see `Draws`."""

_SCALE = 0.05  # bohr for a deviation of the build-up time, as a coordinate beside positions
_HELD = 200_000  # points in memory, of each of a dozen arrays
_STARTS = 64  # of searches for modes
_MODES, _LEAST = 16, 1e-3  # of an event that get a component of their own, and their least share
_REACHED = 100  # geometries about a mode outside the prior, of which one inside is enough


def exact_samples(
    draw: Draw,
    density: Density,
    events: int,
    n: int,
    prior: GeometryPrior,
    rng: np.random.Generator,
    *,
    budget: int | None = None,
    worth: Floats | None = None,
    rules: ChainRules = CHAIN_RULES,
) -> PosteriorSamples:
    """Draw n samples of the exact posterior of each event, which count alike.

    Events whose posterior, not normalised, is nowhere as high as `worth` (E,) get no chains.
    `log_prob` is the exact log posterior density, `weights` those of draws from it: equal, with the evidence.
    A build-up time that has a prior is one more coordinate.
    """
    first = draw(np.arange(min(events, 1)), 1)
    count = max(rules.points, rules.per_dimension * (3 * len(first.molecule) - 3))
    size = max(1, _HELD // max(count, n))
    several = [np.arange(k, min(k + size, events)) for k in range(0, events, size)]
    parts = [
        _Block(draw(rows, count), rows, draw, density, prior, rules).run(
            n, rng, budget, None if worth is None else worth[rows]
        )
        for rows in several
    ]
    return type(first).concatenate(parts)


@dataclass
class _Block:
    """Events whose samples are drawn together."""

    samples: PosteriorSamples  # of the model
    rows: Rows  # numbers of the events
    model_draw: Draw
    model_density: Density
    prior: GeometryPrior
    rules: ChainRules

    def run(
        self, n: int, rng: np.random.Generator, budget: int | None, worth: Floats | None
    ) -> PosteriorSamples:
        samples, self.rng = self.samples, rng
        self.unknown = np.zeros(len(samples), dtype=bool)
        exact, law = samples.log_prob is not None, samples.build_up_prior
        self.unit = None if samples.build_up is None or law is None else _SCALE / law.width
        chains = run_chains(
            self.log_posterior,
            Proposal(*self.points(samples), self.density if exact else None, self.draw if exact else None),
            n,
            rng,
            budget=budget or 150 * max(samples.positions.shape[1], n, self.rules.chains),
            symmetry=self.symmetry,
            local=self.modes,
            worth=worth,
            rules=self.rules,
        )
        lost = ~np.isfinite(chains.r_hat)
        # Of an event that nothing explains both are -inf.
        evidence = np.where(lost, 0.0, chains.log_evidence)
        log_prob = chains.height - evidence[:, None] + np.log(self.unit or 1.0)
        positions, times = self.geometries(chains.points)
        if lost.any():  # those of the model, for who wants to see what it thinks
            positions[lost], log_prob[lost] = self.model_draw(self.rows[lost], n).positions, np.nan
        evidence[lost] = -np.inf
        log_weights = np.repeat(evidence[:, None], n, axis=1)
        tail = np.full(len(lost), np.nan)
        # Of as many samples: how many densities were asked for says nothing of those that are there.
        weights = Weights(log_weights, np.full(len(lost), n), chains.effective, evidence, tail)
        columns = samples.columns | {R_HAT: chains.r_hat, ACCEPTANCE: chains.acceptance}
        x = positions.astype(np.float32)
        # A geometry whose density nobody knows counts as impossible, and that has to be said.
        flags = combined(mixing=~chains.mixed | self.unknown)
        out = replace(samples, positions=x, log_prob=log_prob, weights=weights, build_up=times)
        return replace(out, columns=columns, flags=flags)

    def points(self, samples: PosteriorSamples) -> tuple[Floats, Floats | None]:
        """Points (e, m, D) of samples, and the model's log density (e, m) there, if it has one."""
        points = _relative(samples.positions.astype(np.float64))
        density = samples.log_prob
        if self.unit is not None and samples.build_up is not None:
            points = np.concatenate([points, self.unit * samples.build_up[..., None]], axis=2)
            density = None if density is None else density - np.log(self.unit)
        return np.nan_to_num(points), None if density is None else np.nan_to_num(density)

    def geometries(self, points: Floats) -> tuple[Floats, Floats | None]:
        """Positions (e, m, N, 3), bohr, centre of mass 0, and times (e, m), fs, of points (e, m, D)."""
        masses = self.samples.molecule.masses
        # One product of matrices: from the first ion, then from the centre of mass.
        assembly = np.eye(len(masses))[1:] - (masses / masses.sum())[1:, None]
        x = points[..., : 3 * len(assembly)] @ np.kron(assembly, np.eye(3))
        times = None if self.unit is None else points[..., -1] / self.unit
        return x.reshape(*points.shape[:2], -1, 3), times

    def log_posterior(self, points: Floats, rows: Rows) -> Floats:
        """Of points (e, m, D); the events of which the prior cannot say it once are kept in mind."""
        positions, times = self.geometries(points)
        values = self.samples[rows].log_posterior(positions, self.prior, times) - np.log(self.unit or 1.0)
        self.unknown[rows] |= np.isnan(values).any(axis=1) & self.samples.answered[rows]
        return values

    def draw(self, rows: Rows, n: int) -> tuple[Floats, Floats | None]:
        return self.points(self.model_draw(self.rows[rows], n))

    def density(self, points: Floats, rows: Rows) -> Floats:
        return self.model_density(*self.geometries(points), self.rows[rows]) - np.log(self.unit or 1.0)

    def symmetry(self, points: Floats, rows: Rows, rng: np.random.Generator) -> Floats:
        """Mirror images in the plane of the momenta, or two like ions exchanged, half of the points each."""
        x = self.geometries(points)[0]
        normal = np.linalg.svd(self.samples.momenta[rows])[2][:, -1]
        out = x - 2.0 * np.einsum("enij,ej->eni", x, normal)[..., None] * normal[:, None, None]
        pairs = [(i, j) for group in self.samples.molecule.identical for i in group for j in group if i < j]
        if pairs:
            swapped = np.tile(np.arange(x.shape[2]), (*x.shape[:2], 1))
            first, second = np.array(pairs)[rng.integers(len(pairs), size=x.shape[:2])].transpose(2, 0, 1)
            e, m = np.indices(first.shape)
            swapped[e, m, first], swapped[e, m, second] = second, first
            other = np.take_along_axis(x, swapped[..., None], axis=2)
            out = np.where((rng.random(first.shape) < 0.5)[..., None, None], out, other)
        return np.concatenate([_relative(out), points[..., 3 * x.shape[2] - 3 :]], axis=2)

    def modes(self, rows: Rows, points: Floats) -> StudentMixture:
        """A component at each mode that is found from points and from anywhere in the prior."""
        start = self.geometries(points[:, :: max(1, points.shape[1] // _STARTS)])[0]
        anywhere = self.prior.sample(_STARTS, self.rng)
        for group in self.samples.molecule.identical:  # whose role each of them has nobody knows
            order = self.rng.permuted(np.tile(group, (_STARTS, 1)), axis=1)
            anywhere[:, list(group)] = np.take_along_axis(anywhere, order[..., None], axis=1)
        anywhere -= centre_of_mass(anywhere, self.samples.molecule.masses)
        anywhere = np.broadcast_to(anywhere, (len(rows), *anywhere.shape))
        start = np.concatenate([start, anywhere], axis=1)
        found = replace(self.samples[rows], positions=start.astype(np.float32), log_prob=None, build_up=None)
        modes = found.modes(self.prior, keep_flagged=True)
        return _at_modes(modes, self.reaches(modes), points.mean(axis=1))

    def reaches(self, modes: Modes) -> NDArray[np.bool_]:
        """Whether modes (M,) lie outside the prior, but the noise about them reaches into it.

        Such a mode has no probability, and the posterior beside it, at the edge of the prior, may have much.
        """
        out = (modes.status == OUTSIDE) & np.isfinite(modes.covariance).all(axis=(1, 2))
        rows = np.flatnonzero(out)
        if len(rows) and self.prior.has_density:
            size = modes.covariance.shape[1]
            variance, axes = np.linalg.eigh(modes.covariance[rows])  # some are 0: of the centre of mass
            factor = axes * np.sqrt(variance.clip(min=0.0))[:, None]
            away = self.rng.standard_normal((len(rows), _REACHED, size)) @ np.swapaxes(factor, 1, 2)
            x = modes.positions[rows][:, None] + away.reshape(len(rows), _REACHED, *modes.positions.shape[1:])
            x = x.reshape(-1, *x.shape[2:])
            inside = self.prior.plausible(x, self.samples.molecule.identical)  # as modes are judged
            out[rows] = inside.reshape(len(rows), -1).any(axis=1)
        return out


def _at_modes(modes: Modes, reaches: NDArray[np.bool_], middle: Floats) -> StudentMixture:
    """Components at modes of events, with the scale of the noise; others have no share.

    They are the most probable ones, and those outside the prior that reach into it (M,). Of middle (e, D)
    comes what no mode has: the time of build-up.
    """
    ions, d = modes.positions.shape[1], middle.shape[1]
    size = 3 * ions - 3
    mean = np.repeat(middle[:, None], _MODES, axis=1)
    factor = np.tile(_SCALE * np.eye(d), (len(middle), _MODES, 1, 1))
    log_share = np.full(mean.shape[:2], -np.inf)
    relative = np.kron(np.eye(ions)[1:] - np.eye(ions)[:1], np.eye(3))
    mass = np.where(np.isfinite(modes.laplace), modes.laplace, np.where(reaches, 0.0, modes.probability))
    usable = np.isfinite(modes.covariance).all(axis=(1, 2)) & ((mass > _LEAST) | reaches)
    places = _relative(modes.positions[None])[0]
    for event in range(len(middle)):
        chosen = modes.of(event)[usable[modes.of(event)]]
        chosen = chosen[np.argsort(-mass[chosen], kind="stable")][:_MODES]
        scale = relative @ modes.covariance[chosen] @ relative.T
        scale += 1e-6 * np.einsum("kdd->k", scale)[:, None, None] / size * np.eye(size)
        own = event, slice(len(chosen)), slice(size)
        mean[own], factor[(*own, slice(size))] = places[chosen], np.linalg.cholesky(scale)
        # Where Laplace's approximation is wrong by much a mode still has a chance.
        log_share[own[:2]] = np.log(0.9 * mass[chosen] + 0.1 / max(len(chosen), 1))
    return StudentMixture(mean, factor, log_share)


def exact_in_words(effective: Floats) -> str:
    """Say what exact samples of events are worth, from their effective numbers (E,)."""
    low, middle = np.quantile(effective, (0.1, 0.5))
    return (
        f"samples of the exact posterior: {middle:.0f} effective an event (median; a tenth below {low:.0f})"
    )


def _relative(x: Floats) -> Floats:
    """Points (e, m, 3N - 3) of positions (e, m, N, 3)."""
    return np.asarray((x[:, :, 1:] - x[:, :, :1]).reshape(*x.shape[:2], -1))
