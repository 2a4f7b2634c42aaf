"""Posterior samples: for each event the geometries that explain it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcei.errors import DataError, FlaggedWarning, NoDensityError
from flowcei.events.container import one_row
from flowcei.events.extracolumns import checked_columns, joined_columns
from flowcei.experiment.likelihood import Likelihood
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.posterior.flags import EXCLUDING, POOR_WEIGHTS, counted, flag_names, poor_weights
from flowcei.posterior.labels import label_by_geometry, relabel
from flowcei.posterior.laplace import local_covariance
from flowcei.posterior.modes import Modes, find_modes
from flowcei.posterior.refinement import CONVERGED, OUTSIDE, Refinement, refine
from flowcei.posterior.restriction import INSIDE
from flowcei.posterior.spread import Spread
from flowcei.posterior.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from flowcei.molecules.molecule import Molecule

_AMONG = " and among these results (samples.unflagged() leaves them out)"


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorSamples:
    """Samples of the posterior of events.

    Attributes:
        molecule: Which atoms, in the order of the arrays.
        momenta: What was measured, (E, N, 3), hbar / bohr.
        positions: (E, n, N, 3), bohr, in the frame of the momenta, centre of mass 0; NaN for
            an event that the model can express no geometry for (`answered`).
        log_prob: Log density of each sample under the model, (E, n), per bohr^(3N-3); NaN like
            the positions. Where samples are restricted to the prior (`flowcei.posterior.restriction`)
            it is that of the model before.
        ids: The number of each event, (E,).
        sigma: Noise that was assumed, (E,), hbar / bohr.
        origin: Model, prior, seed, latent and what is known of the events.
        weights: Importance weights of the samples, where they were weighed.
        flags: Why an answer is not to be trusted, (E,), bits: see `flowcei.posterior.flags`.
        columns: Extra columns of the events, (E,) each: a delay, a shot number.

    Raises:
        DataError: For shapes that do not match.
    """

    molecule: Molecule
    momenta: NDArray[np.float64]
    positions: NDArray[np.float32]
    log_prob: NDArray[np.float64] | None
    ids: NDArray[np.int64]
    sigma: NDArray[np.float64]
    origin: dict[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    flags: NDArray[np.uint16] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Say in a line how many there are, and how many not to trust."""
        events, n = self.positions.shape[:2]
        weighed = ", weighed" if self.weights is not None else ""
        flagged = f", {self.flagged.sum()} flagged" if self.flagged.any() else ""
        return f"PosteriorSamples: {events} events x {n} samples of {self.molecule.name}{weighed}{flagged}"

    def __post_init__(self) -> None:
        """Check shapes."""
        e, n = (*self.positions.shape, 0, 0)[:2]
        atoms = len(self.molecule)
        expected = {
            "positions": (e, n, atoms, 3),
            "momenta": (e, atoms, 3),
            "log_prob": (e, n),
            "ids": (e,),
            "sigma": (e,),
            "flags": (e,),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                msg = f"{name} of samples have shape {array.shape}; expected {shape}"
                raise DataError(msg)
        if self.weights is not None and self.weights.log_weights.shape != (e, n):
            msg = f"weights of samples have shape {self.weights.log_weights.shape}; expected {(e, n)}"
            raise DataError(msg)
        if self.columns:
            object.__setattr__(self, "columns", checked_columns(self.columns, self.molecule, e))

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.positions)

    def __iter__(self) -> Iterator[PosteriorSamples]:
        """Yield the samples of one event after the other, each as samples of one event."""
        return (self[k : k + 1] for k in range(len(self)))

    def __getitem__(self, rows: int | slice | NDArray) -> PosteriorSamples:
        """Return some of the events; of a single place the event there, as samples of one event."""
        rows = one_row(rows, len(self))
        return replace(
            self,
            momenta=self.momenta[rows],
            positions=self.positions[rows],
            log_prob=None if self.log_prob is None else self.log_prob[rows],
            ids=self.ids[rows],
            sigma=self.sigma[rows],
            weights=None if self.weights is None else self.weights[rows],
            flags=None if self.flags is None else self.flags[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence[PosteriorSamples]) -> PosteriorSamples:
        """Join samples of different events.

        Raises:
            DataError: Where some have a density or weights and others do not, or molecules differ.
        """
        first = parts[0]
        if any(p.molecule.to_dict() != first.molecule.to_dict() for p in parts):
            raise DataError("samples of different molecules cannot be joined")
        densities = [p.log_prob for p in parts if p.log_prob is not None]
        weights = [p.weights for p in parts if p.weights is not None]
        for name, some in (("a density", densities), ("weights", weights)):
            if len(some) not in (0, len(parts)):
                raise DataError(f"some of the samples have {name} and others do not; they cannot be joined")
        flags = [p.flags if p.flags is not None else np.zeros(len(p), np.uint16) for p in parts]
        return replace(
            first,
            momenta=np.concatenate([p.momenta for p in parts]),
            positions=np.concatenate([p.positions for p in parts]),
            log_prob=np.concatenate(densities) if densities else None,
            ids=np.concatenate([p.ids for p in parts]),
            sigma=np.concatenate([p.sigma for p in parts]),
            weights=Weights.concatenate(weights) if weights else None,
            flags=np.concatenate(flags) if any(p.flags is not None for p in parts) else None,
            columns=joined_columns([p.columns for p in parts]),
        )

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which events (E,) have samples: False where the model can express no geometry for them."""
        return np.asarray(np.isfinite(self.positions).all(axis=(1, 2, 3)))

    @property
    def flag_names(self) -> tuple[tuple[str, ...], ...]:
        """The names of the flags of each event, E tuples: see `flowcei.posterior.flags.FLAGS`."""
        return tuple(map(flag_names, self._bits))

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which events (E,) have an answer that is not to be trusted.

        Poor weights alone (`efficiency`, `weights`) do not count: the flow's samples stand in.
        """
        return np.asarray(self._bits & EXCLUDING > 0)

    @property
    def _bits(self) -> NDArray[np.uint16]:
        return np.zeros(len(self), np.uint16) if self.flags is None else self.flags

    def unflagged(self, *, keep_flagged: bool = False) -> PosteriorSamples:
        """Return the events whose answer may be trusted.

        Args:
            keep_flagged: Whether to return flagged ones too; those without a geometry never are.

        Raises:
            DataError: Where none is left.
        """
        chosen = self.answered & (keep_flagged | ~self.flagged)
        if chosen.all():
            return self
        if not chosen.any():
            advice = "none has samples to look at" if keep_flagged else "none is left to look at"
            raise DataError(f"{counted(self._bits)}: {advice}")
        return self[chosen]

    def _warn_of_flagged(self, outcome: str, *, keep_flagged: bool) -> None:
        lines = [f"{counted(self._bits)}{outcome}"] if self.flagged.any() else []
        if (self._bits & POOR_WEIGHTS).any():
            lines.append(f"{counted(self._bits, POOR_WEIGHTS)}: samples of the flow count alike there")
        if lines and not keep_flagged:
            text = f"{'; '.join(lines)}; keep_flagged=True says nothing of it"
            warnings.warn(text, FlaggedWarning, stacklevel=3)

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of the events."""
        relative = bool(self.origin.get("noise_relative", True))
        tables = (self.molecule.masses, self.molecule.charges, self.momenta, self.sigma)
        return Likelihood(*tables, relative=relative)

    @property
    def prior(self) -> GeometryPrior:
        """The geometry prior of the model that drew the samples.

        Raises:
            NoDensityError: Where the model was trained on a file that states none.
        """
        spec = self.origin.get("prior")
        if not isinstance(spec, dict):
            msg = "the model was trained on data whose prior nobody stated; --prior states one"
            raise NoDensityError(msg)
        return build_prior(self.molecule, spec)

    def weigh(self, prior: GeometryPrior | None = None) -> PosteriorSamples:
        """Return these samples with importance weights: see `flowcei.posterior.weights`.

        Events whose weights are not reliable get the flag `weights`; their samples go on counting
        alike.

        Args:
            prior: That of the model where None.

        Raises:
            NoDensityError: Where the prior or the model has no density.
        """
        if self.log_prob is None:
            msg = "importance weights need the density of the samples, and this model has none"
            raise NoDensityError(msg)
        posterior = self.log_posterior(self.positions, prior)
        answered = self.answered[:, None]
        # Without the density of one sample nobody can say what the others weigh beside it.
        weighed = answered & ~np.isnan(posterior).any(axis=1, keepdims=True)
        log_weights = np.where(weighed, posterior - np.where(answered, self.log_prob, 0.0), -np.inf)
        if INSIDE in self.columns:
            # Where samples were drawn until all lay inside, their density is the flow's over the share
            # that does: without it the evidence would be too large by as much.
            restricted = (self.columns[INSIDE] < 1.0) & np.isfinite(log_weights).all(axis=1)
            log_weights += np.log(np.where(restricted, self.columns[INSIDE], 1.0))[:, None]
        weights = Weights.of(log_weights)
        poor = np.where(self.answered, poor_weights(weights), np.uint16(0))
        return replace(self, weights=weights, flags=(self._bits & ~np.uint16(POOR_WEIGHTS)) | poor)

    def log_posterior(
        self, positions: NDArray[np.floating], prior: GeometryPrior | None = None
    ) -> NDArray[np.float64]:
        """Return log prior + log likelihood (E, n) of geometries (E, n, N, 3), bohr: not normalised.

        NaN where the prior cannot say (`GeometryPrior.log_prob_unlabelled`).

        Args:
            positions: n geometries for each event, in the frame of its momenta.
            prior: That of the model where None.

        Raises:
            NoDensityError: Where the prior has no density.
        """
        flat = positions.reshape(-1, *positions.shape[2:]).astype(np.float64)
        log_prior = self._log_prior(prior or self.prior, flat).reshape(positions.shape[:2])
        log_likelihood = self.likelihood.log_prob(positions)
        # Atoms in one place can have an infinite density; nothing can follow them.
        return np.where(np.isneginf(log_likelihood), -np.inf, log_prior + log_likelihood)

    def refine(
        self,
        prior: GeometryPrior | None = None,
        *,
        threads: int | None = None,
        keep_flagged: bool = False,
    ) -> Refinement:
        """Return where searches from the samples end: see `flowcei.posterior.refinement`.

        Args:
            prior: Whose support is asked of what is found; that of the model where None. A
                prior that cannot say excludes nothing.
            threads: To use; all the process may run on by default.
            keep_flagged: Whether flagged events are meant to be among them; else a
                `FlaggedWarning` says that they are.
        """
        self._warn_of_flagged(_AMONG, keep_flagged=keep_flagged)
        likelihood = self.likelihood
        found = refine(likelihood, self.positions, threads=threads)
        # Also what explains the momenta within their noise alone must be a geometry of the prior.
        asked = (found.status == CONVERGED) | (found.chi_squared <= likelihood.most_misfit)
        allowed = self._allowed(found.positions[asked], prior)
        found.status[asked] = np.where(allowed, found.status[asked], OUTSIDE)
        return found

    def modes(
        self,
        prior: GeometryPrior | None = None,
        *,
        threads: int | None = None,
        keep_flagged: bool = False,
    ) -> Modes:
        """Return every distinct geometry of each event: see `flowcei.posterior.modes`.

        Their probabilities are those of the weights, if the samples were weighed (`weigh`), else
        the shares of the model's own samples.

        Args:
            prior: That of the model where None.
            threads: To use; all the process may run on by default.
            keep_flagged: As of `refine`.
        """
        self._warn_of_flagged(_AMONG, keep_flagged=keep_flagged)
        stated = prior or self.known_prior()
        return find_modes(
            self.refine(stated, threads=threads, keep_flagged=True),
            self.likelihood,
            weights=None if self.weights is None else self.weights.normalised,
            reliable=None if self.weights is None else self.weights.reliable,
            log_prior=None if stated is None or not stated.has_density else partial(self._log_prior, stated),
        )

    def _log_prior(self, prior: GeometryPrior, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density (B,) of geometries: -inf where they are none, NaN where it is unknown."""
        whole = np.isfinite(positions).all(axis=(1, 2))
        out = np.full(len(positions), -np.inf)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            out[whole] = prior.log_prob_unlabelled(positions[whole], self.molecule.identical)
        return out

    def known_prior(self) -> GeometryPrior | None:
        """Return the prior of the model, None where it was trained on data that state none."""
        return self.prior if isinstance(self.origin.get("prior"), dict) else None

    def _allowed(
        self, positions: NDArray[np.float64], prior: GeometryPrior | None
    ) -> NDArray[np.bool_] | bool:
        stated = prior or self.known_prior()
        if stated is None or not stated.has_density:
            return True
        return stated.plausible(positions, self.molecule.identical)

    def equally_weighted(self, seed: int = 0) -> PosteriorSamples:
        """Return as many samples, drawn from these by their weights, each counting alike.

        Samples whose weights are not reliable stay as they are.

        Systematic resampling: a sample comes as often as its share of n, rounded up or down.

        Args:
            seed: Of the one random number an event.
        """
        if self.weights is None:
            return self
        e, n = self.positions.shape[:2]
        steps = self.weights.normalised.cumsum(axis=1)
        start = np.random.default_rng(seed).random((e, 1))
        marks = (np.arange(n) + start) / n * steps[:, -1:]
        chosen = np.stack([np.searchsorted(s, m).clip(0, n - 1) for s, m in zip(steps, marks, strict=True)])
        rows = np.arange(e)[:, None]
        log_prob = None if self.log_prob is None else self.log_prob[rows, chosen]
        return replace(self, positions=self.positions[rows, chosen], log_prob=log_prob, weights=None)

    def mean(self, *, keep_flagged: bool = False) -> NDArray[np.float64]:
        """Return the posterior mean of the positions, (E, N, 3), bohr; weighted where weighed.

        Args:
            keep_flagged: As of `refine`.
        """
        self._warn_of_flagged(_AMONG, keep_flagged=keep_flagged)
        if self.weights is not None:
            return np.asarray(np.einsum("en,enix->eix", self.weights.normalised, self.positions))
        mean: NDArray[np.float64] = self.positions.mean(axis=1, dtype=np.float64)
        return mean

    def floor(self) -> NDArray[np.float64]:
        """Return what the momenta alone fix each atom to, (E, N), bohr: the Cramer-Rao bound.

        The rms distance of an efficient estimate from the truth, at the most probable sample
        (without densities: at that nearest to the mean), for a flat prior and the frame of the
        centre of mass; infinite where momenta leave a direction open. Compare it with
        `Spread.per_atom`.
        """
        e = len(self)
        if self.log_prob is None:
            away = ((self.positions - self.mean(keep_flagged=True)[:, None]) ** 2).sum(axis=(2, 3))
            best = away.argmin(axis=1)
        else:
            density = self.log_prob if self.weights is None else self.log_prob + self.weights.log_weights
            best = density.argmax(axis=1)
        places = self.positions[np.arange(e), best].astype(np.float64)
        covariance = local_covariance(self.likelihood, places, np.arange(e))[0]
        variance = np.diagonal(covariance, axis1=1, axis2=2).reshape(e, -1, 3).sum(axis=2)
        return np.asarray(np.sqrt(variance))

    def spread(self, *, keep_flagged: bool = False) -> Spread:
        """Return how far the samples of each event lie apart: see `flowcei.posterior.spread`.

        Flagged events are left out, with a `FlaggedWarning`: `Spread.ids` says which are there.

        Args:
            keep_flagged: Whether to keep them.

        Raises:
            DataError: Where all are flagged.
        """
        even = self.unflagged(keep_flagged=keep_flagged).equally_weighted()
        self._warn_of_flagged(" and left out", keep_flagged=keep_flagged)
        tables = (even.molecule, even.momenta, even.positions, even.ids)
        return Spread.of(*tables, prior=self.known_prior(), columns=even.columns)

    def labelled(self, positions: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
        """Return positions (E, n, N, 3), bohr, with identical ions labelled by the geometry.

        `positions` has each ion where its momentum stands in `momenta`; bonds, angles and means
        of atoms are to be taken of these: see `flowcei.posterior.labels`.

        Args:
            positions: n geometries for each event, (E, n, N, 3), bohr; the samples where None.
        """
        x = np.asarray(self.positions if positions is None else positions, dtype=np.float64)
        return relabel(x, label_by_geometry(self.molecule, self.momenta, x, self.known_prior()))
