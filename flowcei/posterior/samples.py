"""Posterior samples: for each event the geometries that explain it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, NoDensityError
from flowcei.experiment.covariance import AssignedLikelihood, CovarianceLikelihood
from flowcei.experiment.likelihood import Likelihood
from flowcei.experiment.moving import MovingLikelihood
from flowcei.physics.build_up import LONGEST
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.posterior.assignments import modes_of_assignments
from flowcei.posterior.container import SampleArrays
from flowcei.posterior.drawing import INSIDE
from flowcei.posterior.flags import FLAG_BITS, POOR_WEIGHTS, poor_weights, warn_of_flagged
from flowcei.posterior.gathering import search_modes
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.laplace import MODE_RULES, ModeRules, local_covariance
from flowcei.posterior.modes import AMBIGUOUS, UNIQUE
from flowcei.posterior.refinement import REFINEMENT_RULES, Refinement, RefinementRules, refine
from flowcei.posterior.resampling import systematic
from flowcei.posterior.searches import SEARCH_RULES, SearchRules
from flowcei.posterior.spread import Spread
from flowcei.posterior.structures import to_atoms
from flowcei.posterior.weights import WEIGHT_RULES, WeightRules, Weights

if TYPE_CHECKING:
    from flowcei.frame.recoil import RecoilFrame
    from flowcei.posterior.arrays import Floats, Reals
    from flowcei.posterior.modes import Modes
    from flowcei.posterior.refinement import Plausible

_AMONG = " and among these results (samples.unflagged() leaves them out)"


class PosteriorSamples(SampleArrays):
    """Samples of the posterior of E events, n of each.

    `samples[3]` are those of one event, and iteration goes over events.

    Attributes:
        molecule: Which atoms, in the order of the arrays.
        momenta: What was measured, (E, N, 3), hbar / bohr.
        positions: (E, n, N, 3), bohr, in the frame of the momenta, centre of mass 0; NaN for
            an event that the model can express no geometry for (`answered`).
        log_prob: Log density of each sample under the model, (E, n), per bohr^(3N-3), also where samples are
            restricted to the prior (`flowcei.posterior.drawing`); NaN like the positions.
        event_id: The number of each event, (E,).
        sigma: Noise that was assumed, (E,), hbar / bohr.
        origin: Model, prior, seed, latent and what is known of the events.
        weights: Importance weights of the samples, where they were weighed.
        flags: Why an answer is not to be trusted, (E,), bits: see `flowcei.posterior.flags`.
        columns: Extra columns of the events, (E,) each: a delay, a shot number.
        build_up: Build-up time of each sample, (E, n), fs, where the experiment states a prior of it: samples
            are of geometry and time together, and `log_prob` is per bohr^(3N-3) fs. Modes, refinement and
            floor are at the prior's mean.
        assignment: Which assignment of hits to ions each sample is of, (E, n), where an experiment has
            several. Columns ``p_assignment_0``, ... hold their probabilities; `momenta` are of the likeliest.

    Raises:
        DataError: For shapes that do not match.

    Example:
        >>> import flowcei
        >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
        >>> samples = flowcei.load().sample(events, 20, seed=1)
        >>> samples
        PosteriorSamples: 2 events x 20 samples of ocs
        >>> samples[1].event_id.tolist()
        [1]
        >>> samples.mean().shape, samples.floor().shape
        ((2, 3, 3), (2, 3))
        >>> samples.refine().share(0).tolist(), samples.weigh().modes().count().tolist()
        ([1.0, 1.0], [1, 1])
        >>> samples.weigh().equally_weighted(seed=1).spread().per_atom().shape
        (2, 3)
    """

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of the events."""
        relative, ions = bool(self.origin.get("noise_relative", True)), self.molecule
        prior, measurement = self.origin.get("prior"), self.measurement
        moving = prior if isinstance(prior, dict) and prior.get("motion") is True else None
        if measurement is not None:
            if measurement.orders is not None:
                of = (lambda p: MovingLikelihood(ions, p, measurement, moving)) if moving else None
                return AssignedLikelihood(ions.masses, ions.charges, self.momenta, measurement, of)
            if moving:
                return MovingLikelihood(ions, self.momenta, measurement, moving, self.lost)
            return CovarianceLikelihood(ions.masses, ions.charges, self.momenta, measurement, self.lost)
        if forward := self.origin.get("forward"):
            raise DataError(f"samples of explosions by {forward} that no --experiment states: draw them anew")
        if moving:
            return MovingLikelihood.of_level(ions, self.momenta, self.sigma, moving)
        return Likelihood(ions.masses, ions.charges, self.momenta, self.sigma, relative=relative)

    @property
    def prior(self) -> GeometryPrior:
        """The geometry prior of the model that drew the samples; NoDensityError where none is stated."""
        prior = self.known_prior()
        if prior is None:
            raise NoDensityError(
                "the model was trained on data whose prior nobody stated; --prior states one"
            )
        return prior

    def known_prior(self) -> GeometryPrior | None:
        """Return the prior of the model, None where it was trained on data that state none."""
        spec = self.origin.get("prior")
        return build_prior(self.molecule, spec) if isinstance(spec, dict) else None

    def weigh(
        self, prior: GeometryPrior | None = None, *, rules: WeightRules = WEIGHT_RULES
    ) -> PosteriorSamples:
        """Return these samples with importance weights: see `flowcei.posterior.weights`.

        Events whose weights are not reliable get the flag `weights`; their samples go on counting
        alike.

        Args:
            prior: That of the model where None.
            rules: When weights are reliable.

        Raises:
            NoDensityError: Where the prior or the model has no density.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 50, seed=1)
            >>> bool((s.weigh().weights.efficiency > 0.5).all())
            True
        """
        if self.log_prob is None:
            raise NoDensityError("importance weights need the density of the samples; this model has none")
        log_weights = np.full(self.log_prob.shape, -np.inf)
        posterior, answered = self.log_posterior(self.positions, prior, self.build_up), self.answered
        # Without the density of one sample nobody can say what the others weigh beside it.
        finite = answered & ~np.isnan(posterior).any(axis=1)
        log_weights[finite] = posterior[finite] - self.log_prob[finite]
        if INSIDE in self.columns:
            # Where samples were drawn until all lay inside, their density is the flow's over the share
            # that does: without it the evidence would be too large by as much.
            restricted = (self.columns[INSIDE] < 1.0) & np.isfinite(log_weights).all(axis=1)
            log_weights[restricted] += np.log(self.columns[INSIDE][restricted])[:, None]
        weights = Weights.of(log_weights, rules)
        poor = np.where(answered, poor_weights(weights, stand_in=self.isotropic), np.uint16(0))
        kept = self.flag_bits & ~np.uint16(POOR_WEIGHTS | FLAG_BITS["experiment"])
        return replace(self, weights=weights, flags=kept | poor)

    def log_posterior(
        self, positions: Reals, prior: GeometryPrior | None = None, times: Floats | None = None
    ) -> Floats:
        """Return log prior + log likelihood (E, n) of geometries, not normalised.

        NaN where the prior cannot say (`GeometryPrior.log_prob_unlabelled`).

        Args:
            positions: n geometries for each event, (E, n, N, 3), bohr, in the frame of its momenta.
            prior: That of the model where None.
            times: Build-up time of each, (E, n), fs, whose prior then counts too; else that of all is taken.

        Raises:
            NoDensityError: Where the prior has no density.
        """
        flat = positions.reshape(-1, *positions.shape[2:]).astype(np.float64)
        log_prior = self._log_prior(prior or self.prior, flat).reshape(positions.shape[:2])
        if times is not None:
            law, times = self.build_up_prior, np.asarray(times, dtype=np.float64)
            log_prior = log_prior if law is None else log_prior + law.log_prob(times)
            times = np.clip(times, 0.0, LONGEST)  # trials beyond have no prior, and nothing to follow
        log_likelihood = self.likelihood.log_prob(positions, times=times)
        # Atoms in one place can have an infinite density; such momenta cannot be simulated.
        return np.where(np.isneginf(log_likelihood), -np.inf, log_prior + log_likelihood)

    def _log_prior(self, prior: GeometryPrior, positions: Floats) -> Floats:
        """Log density (B,) of geometries (B, N, 3): -inf where they are none, NaN where it is unknown."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            if np.isfinite(positions).all():  # as nearly always: no copy
                return prior.log_prob_unlabelled(positions, self.molecule.identical)
            finite = np.isfinite(positions).all(axis=(1, 2))
            out = np.full(len(positions), -np.inf)
            out[finite] = prior.log_prob_unlabelled(positions[finite], self.molecule.identical)
        return out

    def refine(
        self,
        prior: GeometryPrior | None = None,
        *,
        rules: RefinementRules = REFINEMENT_RULES,
        threads: int | None = None,
        keep_flagged: bool = False,
    ) -> Refinement:
        """Return where searches from the samples end: see `flowcei.posterior.refinement`.

        Args:
            prior: Whose support is asked of the ends; that of the model where None. A prior that cannot say
                excludes nothing.
            rules: When a search ends.
            threads: To use; all the process may run on by default.
            keep_flagged: Whether flagged events are meant to be among them; else a
                `FlaggedWarning` says that they are.
        """
        warn_of_flagged(self.flag_bits, _AMONG, keep_flagged=keep_flagged)
        how: Any = {"plausible": self._plausible(prior or self.known_prior()), "rules": rules}
        return replace(refine(self.likelihood, self.positions, threads=threads, **how), samples=self)

    def _plausible(self, prior: GeometryPrior | None) -> Plausible | None:
        """What the prior says of ends of searches; None where it cannot."""
        if prior is None or not prior.has_density:
            return None
        return partial(prior.plausible, identical=self.molecule.identical)

    def modes(
        self,
        prior: GeometryPrior | None = None,
        *,
        rules: ModeRules = MODE_RULES,
        search: SearchRules = SEARCH_RULES,
        threads: int | None = None,
        keep_flagged: bool = False,
    ) -> Modes:
        """Return every distinct geometry of each event: see `flowcei.posterior.modes`.

        Their probabilities are those of the weights, if the samples were weighed (`weigh`), else
        the shares of the model's own samples.

        Args:
            prior: That of the model where None.
            rules: When two geometries are one, and when an event is ambiguous.
            search: Where searches begin, and when those of an event end.
            threads: To use; all the process may run on by default.
            keep_flagged: As of `refine`.
        """
        warn_of_flagged(self.flag_bits, _AMONG, keep_flagged=keep_flagged)
        prior = prior or self.known_prior()
        plausible = self._plausible(prior)
        log_prior = None if prior is None or plausible is None else partial(self._log_prior, prior)
        how: Any = {"log_prior": log_prior, "plausible": plausible, "rules": rules, "search": search}
        likelihood, how = self.likelihood, how | {"threads": threads, "weights": self.weights}
        if isinstance(likelihood, AssignedLikelihood):
            modes = modes_of_assignments(likelihood, self.positions, **how)
        else:
            modes = search_modes(likelihood, self.positions, **how)
        if self.lost is not None:  # a family of geometries gives the momenta of those that lack several ions
            open_ = (self.lost.sum(axis=1) > 1) & (modes.verdict == UNIQUE)
            modes = replace(modes, verdict=np.where(open_, AMBIGUOUS, modes.verdict))
        return replace(modes, samples=self)

    def equally_weighted(self, seed: int | np.random.Generator = 0) -> PosteriorSamples:
        """Return as many samples, drawn from these by their weights, each counting alike.

        Systematic resampling: a sample comes as often as its share of n, rounded up or down. Samples whose
        weights are not reliable stay as they are.

        Args:
            seed: Of the one random number an event; a generator goes on from block to block.
        """
        if self.weights is None:
            return self
        n, rng = self.positions.shape[1], np.random.default_rng(seed)
        return self.select(systematic(self.weights.normalised, n, rng))

    def mean(self, *, keep_flagged: bool = False) -> Floats:
        """Return the posterior mean of the positions, (E, N, 3), bohr; weighted where weighed.

        Args:
            keep_flagged: As of `refine`.
        """
        warn_of_flagged(self.flag_bits, _AMONG, keep_flagged=keep_flagged)
        if self.weights is not None:
            return np.asarray(np.einsum("en,enix->eix", self.weights.normalised, self.positions))
        return np.asarray(self.positions.mean(axis=1, dtype=np.float64))

    def floor(self) -> Floats:
        """Return what the momenta alone fix each atom to, (E, N), bohr: the Cramer-Rao bound.

        The rms distance of an efficient estimate from the truth, at the most probable sample
        (without densities: at that nearest to the mean), for a flat prior and the frame of the
        centre of mass; infinite where momenta leave a direction open. Compare it with
        `Spread.per_atom`.
        """
        rows = np.arange(len(self))
        if self.log_prob is None:
            mean = self.mean(keep_flagged=True)[:, None]
            best = ((self.positions - mean) ** 2).sum(axis=(2, 3)).argmin(axis=1)
        else:
            density = self.log_prob if self.weights is None else self.log_prob + self.weights.log_weights
            best = density.argmax(axis=1)
        x = self.positions[rows, best].astype(np.float64)
        likelihood, rows = self.likelihood.of_samples(x[:, None])
        variance = np.einsum("ekk->ek", local_covariance(likelihood, x, rows)[0])
        floor = np.asarray(np.sqrt(variance.reshape(len(self), -1, 3).sum(axis=2)))
        if self.lost is not None:  # of two and more momenta leave directions open
            floor[self.lost.sum(axis=1) > 1] = np.inf
        return floor

    def spread(
        self,
        *,
        keep_flagged: bool = False,
        seed: int | np.random.Generator = 0,
        frame: RecoilFrame | None = None,
    ) -> Spread:
        """Return how far the samples of each event lie apart: see `flowcei.posterior.spread`.

        Flagged events are left out, with a `FlaggedWarning`: `Spread.event_id` says which are there.

        Args:
            keep_flagged: Whether to keep them.
            seed: As of `equally_weighted`.
            frame: The frame of positions; the one that these events choose where None. To blocks of a
                file pass that of the first (`Spread.frame`): others may choose another axis.

        Raises:
            DataError: Where all are flagged.
        """
        even = self.unflagged(keep_flagged=keep_flagged).equally_weighted(seed)
        warn_of_flagged(self.flag_bits, " and left out", keep_flagged=keep_flagged)
        return Spread.of(even, frame)

    def labelled(self, positions: Reals | None = None) -> Floats:
        """Return positions (E, n, N, 3), bohr, with identical ions labelled by the geometry.

        `positions` has each ion where its momentum stands in `momenta`; bonds, angles and means
        of atoms are to be taken of these: see `flowcei.posterior.labels`.

        Args:
            positions: n geometries for each event, (E, n, N, 3), bohr; the samples where None.
        """
        x = np.asarray(self.positions if positions is None else positions, dtype=np.float64)
        return relabel(x, label_by_geometry(self.molecule, self.momenta, x, self.known_prior()))

    def plot(self, kind: str = "structure", unit: str = "angstrom") -> Any:  # noqa: ANN401 (matplotlib)
        """Return a figure of the samples, ``structure``, ``corner`` or ``predictive``: see `flowcei.plot`.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 20, seed=1)
            >>> len(s[0].plot("corner").axes)
            6
        """
        return import_module("flowcei.plot.figure").samples_figure(self, kind, unit)

    def to_arviz(self, *, seed: int = 0) -> Any:  # noqa: ANN401 (xarray is optional)
        """Return an `xarray.DataTree` in the layout of ArviZ, of which `to_netcdf` makes a file.

        Groups `posterior` (dimensions chain, draw, event), `sample_stats`, `observed_data`, `constant_data`
        and, of samples with weights, `posterior_resampled`, of which all draws count alike.

        Args:
            seed: Of the resampling.

        Raises:
            UsageError: Where xarray is not installed.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 5, seed=1)
            >>> tree = s.to_arviz()
            >>> sorted(tree.children), tree["posterior/c-o"].sizes["draw"]
            (['constant_data', 'observed_data', 'posterior', 'sample_stats'], 5)
        """
        from flowcei.posterior.inference_data import to_datatree

        return to_datatree(self, seed=seed)

    def to_ase(self, event: int) -> list[Any]:
        """Return the samples of one event as `ase.Atoms`, angstrom, in the frame of the momenta.

        Args:
            event: Counted from 0.

        Returns:
            n structures, identical ions labelled by the geometry, each with event number, sample and, where
            it was weighed, weight in its `info`.

        Example:
            >>> import flowcei
            >>> s = flowcei.load().sample(flowcei.simulate("ocs", 2, noise="1%", seed=1), 5, seed=1)
            >>> [atoms.get_chemical_formula() for atoms in s.to_ase(0)]
            ['COS', 'COS', 'COS', 'COS', 'COS']
        """
        one = self[event]
        n = one.positions.shape[1]
        facts = {"event": np.repeat(one.event_id, n), "sample": np.arange(n)}
        facts |= {} if one.weights is None else {"weight": one.weights.normalised[0]}
        return to_atoms(self.molecule, one.labelled()[0], facts)
