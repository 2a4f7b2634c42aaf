"""The whole way of an event: from momenta to posterior samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from flowcei.errors import DataError, NoDensityError, UsageError
from flowcei.events.container import Events, events_of
from flowcei.events.simulation import fresh_seed
from flowcei.experiment.accidents import P_TRUE
from flowcei.experiment.detector import Noise
from flowcei.experiment.experiment import Experiment
from flowcei.physics.priors import build_prior
from flowcei.posterior.files import arrays_of
from flowcei.posterior.quality import Quality
from flowcei.posterior.samples import PosteriorSamples
from flowcei.reconstruction import limits
from flowcei.reconstruction.answering import Answering
from flowcei.reconstruction.sampling import SamplingRequest, bar_of_events, judged, sampled_blocks, told_apart
from flowcei.storage.card import ModelCard, TrainingRecord, describe_model
from flowcei.storage.html import html_table
from flowcei.storage.modelfile import sealed, write_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowcei.check.evidence import EvidenceCheck
    from flowcei.frame.interface import Frame, FramedEvents
    from flowcei.frame.standardiser import Standardiser
    from flowcei.models.interface import InverseModel, Sampler, Single
    from flowcei.models.options import Latent
    from flowcei.molecules.molecule import Molecule
    from flowcei.physics.priors import GeometryPrior
    from flowcei.posterior.arrays import Floats
    from flowcei.reconstruction.sampling import Blocks, Judged

    Entered = tuple[FramedEvents, Single]  # and what the network is told of them


@dataclass(eq=False, repr=False)
class Reconstructor:
    """Answers which geometries explain measured momenta: what a training leaves.

    Attributes:
        molecule: Whose ions they are.
        frame: Its recoil frame and chart, or the raw coordinates of a file.
        sampler: What draws samples of its charts: the trained network, or kernels with its weights.
        noise: The range of detector noise it was trained for.
        chart_standardiser: Of the chart.
        condition_standardiser: Of the condition.
        training: Record of the training: prior, schedule, seed, data, metrics.
        path: The file that it was read from; None for the one that comes with flowcei, and for no file.

    Example:
        >>> import flowcei
        >>> flowcei.load()
        Reconstructor: cinn of ocs, prior equilibrium, noise 0.1%..5%/axis
    """

    molecule: Molecule
    frame: Frame
    sampler: Sampler
    noise: Noise
    chart_standardiser: Standardiser
    condition_standardiser: Standardiser
    training: TrainingRecord = field(default_factory=TrainingRecord)
    path: Path | None = None
    _last: tuple[bytes, Entered] | None = field(default=None, init=False)  # events that were entered last

    def __post_init__(self) -> None:
        simulator = self.frame.simulator(self.molecule, self.chart_standardiser, self.condition_standardiser)
        if simulator is not None:
            self.sampler.attach(simulator)

    def __repr__(self) -> str:
        title = f"Reconstructor: {self.architecture} of {self.molecule.name}"
        times = f", build-up 0..{self.frame.build_up:g}fs" if self.frame.build_up else ""
        return f"{title}, prior {self._prior_name}, noise {self.noise}{times}"

    def _repr_html_(self) -> str:
        facts = {
            "molecule": ", ".join(self.molecule.labels),
            "prior": self._prior_name,
            "noise": f"{self.noise}; {self.default_noise} where nobody says",
            "frame": self.frame.kind,
            "options": ", ".join(f"{k} {v}" for k, v in self.sampler.options.to_dict().items()) or "none",
            "validation loss": self.training.validation_loss,
        }
        return html_table(repr(self).partition(",")[0], facts)

    @property
    def _prior_name(self) -> str:
        return self.training.prior_name or ("unnamed" if self.prior_spec else "unknown")

    def sample(
        self,
        momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
        n: int = 100,
        *,
        noise: str | Noise | None = None,
        latent: Latent = "prior",
        seed: int | None = None,
        weigh: bool = False,
        min_ess: float = 0.0,
        budget: int | None = None,
        exact: bool = False,
        experiment: Experiment | str | Path | None = None,
        progress: bool = False,
    ) -> PosteriorSamples:
        """Draw geometries that explain measured momenta.

        Args:
            momenta: (E, N, 3) or (N, 3), hbar / bohr, ions in the molecule's order; events; or chunks.
            n: Samples of each event.
            noise: The detector's, such as ``"1%"``; what the events say where None, else
                1 % or the nearest level the model was trained for.
            latent: ``"prior"``, or ``"training"`` for latents of the training set.
            seed: Of the samples; drawn where None.
            weigh: Whether to give weights that make the samples those of the exact posterior (`Weights`).
            min_ess: Effective samples an event should have; for one with fewer, or whose weights
                a few samples carry, more are drawn. Above 0 it implies `weigh`.
            budget: Samples drawn of one event, at the most; 100 n where None. With `exact` geometries whose
                density is asked for: 150 for each of n, 1,000 or 25 a dimension, whichever is most.
            exact: Whether to draw from the exact posterior, whatever the model: from mixtures fitted to its
                samples, and Markov chains where needed (`flowcei.posterior.chains`). They count alike; the
                columns `r_hat` and `acceptance` and the flag `mixing` tell of the chains.
            experiment: Instead of `noise`, an `Experiment` or its TOML file: weights and exact samples are
                those of its resolution and source, of momenta on their true scale and without its drift.
            progress: Whether to show a bar, block by block.

        Returns:
            Positions (E, n, N, 3), bohr, in the frame of the momenta with the centre of
            mass at 0, and their log density per bohr^(3N-3) where the model has one.

        Raises:
            UsageError: For n < 1 or noise outside the trained range.
            NoDensityError: For weights, where the model or its prior has no density.
            DataError: For momenta of the wrong shape or not finite, or where the model can express
                a geometry for none of them. One such event of many is flagged, its samples NaN.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
            >>> flowcei.load().sample(events, 50, seed=2).positions.shape
            (2, 50, 3, 3)
        """
        seed = fresh_seed() if seed is None else seed
        own = None if experiment is None else Experiment.load(experiment)
        request = SamplingRequest(n, seed, noise, latent, weigh, min_ess, budget, exact, own)
        blocks = list[PosteriorSamples]()
        with bar_of_events(len(momenta) if isinstance(momenta, Events) else None, show=progress) as bar:
            for block in self.blocks(momenta, request):
                blocks.append(block)
                bar.update(len(block))
        samples = PosteriorSamples.concatenate(blocks)
        if not samples.answered.any():
            first = samples.event_id[0]
            raise DataError(f"no geometry for event {first}, nor any other: are the momenta in hbar/bohr?")
        limits.warn_of_motion(self, samples)
        return self._told_apart(samples) if samples.mixed else samples

    def _told_apart(self, samples: PosteriorSamples) -> PosteriorSamples:
        """Samples with P(true) of their events."""
        if (own := samples.measurement) is None:
            return samples
        quality = told_apart(Quality.of(arrays_of(samples), self.molecule, mixed=True), own)
        columns = samples.columns | {P_TRUE: np.asarray(quality.p_true)}
        origin = samples.origin | {"accidents": quality.accidents}
        return replace(samples, columns=columns, origin=origin, flags=quality.flags)

    def stream(
        self,
        momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
        n: int = 100,
        *,
        seed: int | None = None,
        start: int = 0,
        **settings: Any,  # noqa: ANN401 (those of `sample`, which SamplingRequest checks)
    ) -> Iterator[PosteriorSamples]:
        """Yield what `sample` returns, block by block, in bounded memory.

        A block holds `flowcei.reconstruction.sampling.block_size(n)` events. What is drawn of an
        event depends on the seed, on n, and on the events before it in its block; not on chunks,
        threads or where the stream begins. Another device, or other events after it in the last
        block, change the rounding (1e-5); with `min_ess` further samples are those of the whole block.
        Accidents are told by the events of a block: P(true) is NaN in one of fewer than 30.

        Args:
            momenta: As for `sample`; chunks may be a file of any size. Events without numbers are numbered.
            n: Samples of each event.
            seed: Of all blocks; the number of a block chooses its stream.
            start: Events to skip, a whole number of blocks; what follows is as if they had been drawn.
            settings: The others of `sample`, ``experiment`` as an `Experiment`.

        Raises:
            UsageError: For a bad argument, at once; for noise or events that do not fit, with their block.
            DataError: For no events at all.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 5, noise="1%", seed=1)
            >>> [len(part) for part in flowcei.load().stream([events[:3], events[3:]], 10, seed=2)]
            [5]
        """
        request = SamplingRequest(n, fresh_seed() if seed is None else seed, **settings)
        blocks = self.blocks(momenta, request, start=start)
        return (self._told_apart(block) if block.mixed else block for block in blocks)

    def blocks(
        self,
        momenta: ArrayLike | Events | Iterable[Events | ArrayLike],
        request: SamplingRequest,
        *,
        start: int = 0,
    ) -> Iterator[PosteriorSamples]:
        """As `stream`, without P(true): for who tells accidents when all blocks are there."""
        limits.check_request(self, request)
        return sampled_blocks(momenta, self.molecule, request, Answering.of(self, request).block, start)

    def describe(self, request: SamplingRequest) -> dict[str, Any]:
        """All that the samples of given events depend on, as plain numbers and words."""
        about = {"model": self.training.name or self.architecture, "flowcei": version("flowcei")}
        return about | {"model checksum": sealed(*self.stored())[1][:16]} | request.to_dict()

    def judge(self, quality: Quality, request: SamplingRequest, blocks: Blocks | None = None) -> Judged:
        """Tell accidents, and compare the evidence of a run with that of its prior, drawn by `blocks`."""
        if quality.statistic is None:
            return quality, None
        if request.experiment is not None:
            quality = told_apart(quality, request.experiment.of(self.molecule))
        how = self.prior, blocks or self.blocks
        return judged(quality, request, self.molecule, *how, relative=self.noise.relative)

    def check_evidence(self, samples: PosteriorSamples, *, seed: int = 0) -> EvidenceCheck:
        """Return p-values of weighed events, and of their run, under the prior: see `flowcei.check.evidence`.

        Args:
            samples: Of this model, weighed, without `min_ess`.
            seed: Of 100 to 500 events that are simulated, sampled and weighed alike.

        Raises:
            UsageError: For samples that were not weighed.

        Example:
            >>> import flowcei
            >>> model, events = flowcei.load(), flowcei.simulate("ocs", 60, noise="1%", seed=1)
            >>> model.check_evidence(model.sample(events, 20, weigh=True, seed=1)).sound
            True
        """
        own = Experiment.from_dict(stated) if (stated := samples.origin.get("experiment")) else None
        request = SamplingRequest(samples.positions.shape[1], seed, weigh=True, experiment=own)
        check = self.judge(Quality.of(arrays_of(samples), samples.molecule), request)[1]
        if check is None:
            raise UsageError("the samples have no weights: sample with weigh=True")
        return check

    @property
    def architecture(self) -> str:
        """Name of the model's architecture."""
        return self.sampler.architecture

    @property
    def network(self) -> InverseModel:
        """The network in torch, which from now on is what answers."""
        self.sampler = self.sampler.in_torch()
        return self.sampler

    @property
    def prior(self) -> GeometryPrior:
        """The geometry prior it was trained for.

        NoDensityError where a file stated none, or for raw coordinates, whose orientation was learned.
        """
        if self.prior_spec is None:
            raise NoDensityError(
                "the model was trained on data whose prior nobody stated, or in a frame of their own; "
                "flowcei modes takes a --prior"
            )
        return build_prior(self.molecule, self.prior_spec)

    @property
    def prior_spec(self) -> dict[str, Any] | None:
        """The table of the prior, or None where there is no `prior`."""
        return self.training.prior if self.frame.invariant else None

    @property
    def default_noise(self) -> Noise:
        """The level assumed where nobody says: that of the training data, else 1 %; in the trained range."""
        return limits.default_noise(self.noise, self.training.data)

    def log_prob(
        self,
        positions: ArrayLike,
        momenta: ArrayLike | Events,
        *,
        noise: str | Noise | None = None,
        draws: int = 0,
        seed: int = 0,
    ) -> Floats:
        """Return the log posterior density (E, n) of geometries, per bohr^(3N-3), or a bound on it.

        Args:
            positions: (E, n, N, 3), bohr, n geometries for each event; where they are in
                space does not matter, how they are turned does.
            momenta: (E, N, 3), hbar / bohr, or events.
            noise: As for `sample`.
            draws: Of an architecture without an exact density, latents for a lower bound, which holds
                on average over them; the more, the tighter.
            seed: Of the latents.

        Raises:
            NoDensityError: Without an exact density, where `draws` is 0 or there is no bound either.
            UsageError: For positions that do not match the events.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 2, noise="1%", seed=1)
            >>> flowcei.load().log_prob(events.positions[:, None], events).shape
            (2, 1)
        """
        events = events_of(momenta, self.molecule)
        x = np.asarray(positions, dtype=np.float64)
        if x.ndim != 4 or x.shape[::2] != (len(events), len(self.molecule)) or x.shape[3] != 3:
            raise UsageError(f"positions are {x.shape}; expected ({len(events)}, n, {len(self.molecule)}, 3)")
        entered = self.enter(events.momenta, self.sigma(events, noise))
        return self.log_prob_entered(x, *entered, draws=draws, seed=seed)

    @np.errstate(all="ignore")  # of absurd events, which are flagged
    def log_prob_entered(
        self, x: Floats, framed: FramedEvents, c: Single, *, draws: int = 0, seed: int = 0
    ) -> Floats:
        """Log density (E, n) of geometries (E, n, N, 3) of events in the frame; `draws` as of `log_prob`."""
        chart = self.frame.to_chart(x, framed)
        flat = self.chart_standardiser(chart).reshape(-1, self.frame.width)
        values = self.sampler.density(flat, np.repeat(c, x.shape[1], axis=0), draws=draws, seed=seed)
        return values.reshape(x.shape[:2]) + self.log_volume(chart, framed)

    def enter(self, momenta: Floats, sigma: Floats, times: Floats | float = 0.0) -> Entered:
        """Events (E, N, 3) in the frame, and what the network is told of them, standardised (E, T).

        sigma: (E,), or (E, 3), of each lab axis, for a model that was trained for that. times: of the
        build-up, (E,), fs.
        """
        each = np.broadcast_to(np.asarray(times, dtype=np.float64), len(momenta)).copy()
        digest = sha256(b"".join(table.tobytes() for table in (momenta, sigma, each))).digest()
        if (last := self._last) is None or last[0] != digest:  # who judges samples asks for theirs again
            framed = self.frame.enter(momenta, sigma, each)
            self._last = last = digest, (framed, self.condition_standardiser(framed.told))
        return last[1]

    def log_volume(self, chart: Floats, framed: FramedEvents) -> Floats:
        """Log|d standardised chart / d positions|, (E, n), at charts (E, n, D)."""
        return self.frame.log_jacobian(chart, framed) - self.chart_standardiser.log_scale()

    def sigma(
        self, events: Events, noise: str | Noise | None, experiment: Experiment | None = None
    ) -> Floats:
        """Noise (E,) of each event's components, hbar / bohr: `stated_sigma` within the trained range."""
        limits.check_noise(noise, self.noise)
        least, most = limits.noise_limits(events.momenta, self.noise)
        return np.clip(self.stated_sigma(events, noise, experiment).T, least, most).T

    def stated_sigma(
        self, events: Events, noise: str | Noise | None, experiment: Experiment | None = None
    ) -> Floats:
        """What `noise` says (E,); else what the events say; else `default_noise`.

        Of a model that is told it by axis that of the axes of the experiment, (E, 3), where there is one.
        """
        if experiment is not None and self.frame.by_axis:
            return experiment.of(self.molecule).by_axis(events.momenta)
        if noise is None and events.sigma is not None:
            return events.sigma
        return Noise.parse(noise or self.default_noise).sigma(events.momenta)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model to a `.safetensors` file, which `flowcei.load` reads.

        Raises:
            UsageError: Where the file exists, without `overwrite`, or cannot be written.
        """
        write_model(*self.stored(), path, overwrite=overwrite)

    def stored(self) -> tuple[ModelCard, dict[str, NDArray[Any]]]:
        """Description and tensors, as a model file has them."""
        tables = {"chart": vars(self.chart_standardiser), "condition": vars(self.condition_standardiser)}
        parts = {"model": self.sampler.arrays(), **tables}
        tensors = {f"{part}.{name}": array for part, one in parts.items() for name, array in one.items()}
        noise = {name: value for name, value in asdict(self.noise).items() if name != "by_axis"}  # as frame
        about = {"options": self.sampler.options.to_dict(), "molecule": self.molecule.to_dict()}
        about |= {"frame": asdict(self.frame), "noise": noise}
        return describe_model(self.training, architecture=self.architecture, **about), tensors
