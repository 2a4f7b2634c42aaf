"""The whole way of an event: from momenta to posterior samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowcei.errors import DataError, UsageError
from flowcei.events.simulation import fresh_seed
from flowcei.posterior.hdf import arrays_of
from flowcei.posterior.samples import PosteriorSamples
from flowcei.posterior.unfinished import Quality
from flowcei.reconstruction.sampling import Sampling
from flowcei.reconstruction.trainedmodel import TrainedModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike

    from flowcei.check.evidence import EvidenceCheck
    from flowcei.events.container import Events
    from flowcei.experiment.detector import Noise
    from flowcei.models.interface import Latent

__all__ = ["Reconstructor"]


@dataclass(eq=False)
class Reconstructor(TrainedModel):
    """Answers which geometries explain measured momenta; its attributes are those of `TrainedModel`."""

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
    ) -> PosteriorSamples:
        """Draw geometries that explain measured momenta.

        Args:
            momenta: (E, N, 3) or (N, 3), hbar / bohr, ions in the molecule's order; or events,
                also in chunks.
            n: Samples of each event.
            noise: The detector's, such as ``"1%"``; what the events say where None, else
                1 % or the nearest level the model was trained for.
            latent: ``"prior"``, or ``"training"`` for latents of the training set.
            seed: Of the samples; drawn where None.
            weigh: Whether to give the samples importance weights, which make them those of the
                exact posterior: see `flowcei.posterior.weights`.
            min_ess: Effective samples an event should have; for one with fewer more are
                drawn. Above 0 it implies `weigh`.
            budget: Samples drawn of one event, at the most; 100 n where None.

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
        options: dict[str, Any] = {"noise": noise, "latent": latent, "seed": seed}
        options |= {"weigh": weigh, "min_ess": min_ess, "budget": budget}
        samples = PosteriorSamples.concatenate(list(self.stream(momenta, n, **options)))
        if not samples.answered.any():
            msg = f"event {samples.ids[0]} has no geometry the model can express, nor has any other; "
            raise DataError(f"{msg}are the momenta in hbar/bohr?")
        return samples

    def check_evidence(self, samples: PosteriorSamples, *, seed: int = 0) -> EvidenceCheck:
        """Compare how probable the momenta of weighed samples are with those of events of the prior.

        100 to 500 events are simulated with the noise that was assumed, sampled and weighed: see
        `flowcei.check.evidence`.

        Args:
            samples: Of this model, weighed, without `min_ess`.
            seed: Of the simulated events and their samples.

        Returns:
            p-values of each event and of the run, and what they mean.

        Raises:
            UsageError: For samples that were not weighed.

        Example:
            >>> import flowcei
            >>> model, events = flowcei.load(), flowcei.simulate("ocs", 60, noise="1%", seed=1)
            >>> model.check_evidence(model.sample(events, 20, weigh=True, seed=1)).sound
            True
        """
        asked = Sampling(self, samples.positions.shape[1], seed, weigh=True)
        found = asked.judged(Quality.of(arrays_of(samples), samples.molecule))[1]
        if found is None:
            msg = "the samples have no weights: sample with weigh=True"
            raise UsageError(msg)
        return found

    def stream(
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
        start: int = 0,
    ) -> Iterator[PosteriorSamples]:
        """Yield what `sample` returns, block by block, in bounded memory.

        A block holds `flowcei.reconstruction.sampling.block_size(n)` events, whatever the chunks
        are that they come in. What is drawn of an event depends on the seed, on n, and on the
        events before it in its block, which only shift the random numbers; not on chunks, threads
        or where the stream begins. Another device, or other events after it in the last block,
        change the rounding (1e-5); with `min_ess` the further samples of a block are those of the
        whole block.

        Args:
            momenta: As for `sample`, or anything that yields events or arrays, chunk by chunk:
                a file of any size. Events without numbers are numbered through.
            n: As for `sample`, as are all but the last.
            noise: Of each event.
            latent: Of each sample.
            seed: Of all blocks; the number of a block chooses its stream.
            weigh: Whether to weigh.
            min_ess: Of each event.
            budget: Of each event.
            start: Events to skip at the beginning, a whole number of blocks: what follows is
                what it would have been after them.

        Yields:
            The samples of a block of events.

        Raises:
            UsageError: For a bad argument, at once; for noise above the trained range, and
                events of another molecule, when their block comes.
            DataError: For no events at all.

        Example:
            >>> import flowcei
            >>> events = flowcei.simulate("ocs", 5, noise="1%", seed=1)
            >>> [len(part) for part in flowcei.load().stream([events[:3], events[3:]], 10, seed=2)]
            [5]
        """
        settled = fresh_seed() if seed is None else seed
        rules: dict[str, Any] = {"weigh": weigh, "min_ess": min_ess, "budget": budget}
        return Sampling(self, n, settled, noise, latent, **rules).blocks(momenta, start)
