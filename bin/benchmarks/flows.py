"""Flows: negative log densities and rates beside those of other packages, and kernels beside torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import flowcei
from benchmarks.timing import cpu_rates, seconds
from flowcei.frame.recoil import RecoilFrame
from flowcei.frame.standardiser import Standardiser
from flowcei.models.registry import build_model
from flowcei.reconstruction.framing import charts_of

if TYPE_CHECKING:
    from flowcei.models.interface import InverseModel

_SHORT = 1 / 8  # of the time of a race: how long each setting is tried
_UNSEEN = 20_000  # rows that judge the settings, and as many that judge the flow
_CHUNKS = 1_000, 4_000, 20_000, 100_000  # rows of one call of sampling


class Flow(NamedTuple):
    """A flow as a race needs it."""

    weights: list[Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]  # of rows and conditions, of each row
    sample: Callable[[Tensor, int], object]  # so many rows of each condition


class Setting(NamedTuple):
    """How a flow is trained."""

    width: int  # units of its networks
    rows: int  # of a step
    rate: float  # the largest

    def __str__(self) -> str:
        """Return it as a table shows it."""
        return f"{self.width}, {self.rows}, {self.rate:g}"


def flows(quick: bool) -> None:  # noqa: FBT001
    """Negative log density of flowcei's flow and others, each trained for as long on the same charts."""
    limit, count = (3.0, 20_000) if quick else (40.0, 200_000)
    for package in ("zuko", "nflows"):
        if not find_spec(package):
            print(f"{package} is not installed: left out")
    print(f"{limit:g} s of CPU each, {count} events at 1 % noise; of settings that with the least NLL after")
    print(
        f"{limit * _SHORT:g} s by {_UNSEEN} other events, NLL by {_UNSEEN} more; sampled in the best chunks"
    )
    print(
        f"{'flow':34s} {'events of':20s} {'units, rows, rate':>18s} {'NLL (nats)':>11s}"
        f" {'trained (rows/s)':>17s} {'sampled (/s)':>13s}"
    )
    for molecule, prior in (("ocs", "equilibrium"), ("ocs", "broad"), ("chbrclf", "equilibrium")):
        data = charts(molecule, prior, count)
        for name, make, widths in makers(*(rows.shape[1] for rows in data[0])):
            tried = {
                setting: race(make, setting, data, limit * _SHORT)[0]
                for width in widths
                for setting in (
                    Setting(width, 256, 1e-3),
                    Setting(width, 256, 3e-3),
                    Setting(width, 1024, 3e-3),
                )
            }
            best = min(tried, key=lambda setting: tried[setting])
            _, nll, trained, sampled = race(make, best, data, limit)
            case = f"{molecule} {prior}"
            print(
                f"{name:34s} {case:20s} {best!s:>18s} {nll:11.3f} {trained:17.3g} {sampled:13.3g}", flush=True
            )


def makers(width: int, told: int) -> Iterator[tuple[str, Callable[[int], Flow], tuple[int, ...]]]:
    """Names of flows, functions that make them of so many units, and the units to try."""

    def ours(units: int, **options: int | str) -> Flow:
        model, generator = (
            build_model("cinn", width, told, options | {"hidden": units}),
            np.random.default_rng(0),
        )
        return Flow([*model.parameters()], model.loss, lambda c, n: model.sample(c, n, generator=generator))

    yield "flowcei cinn, 8 GLOW couplings", ours, (32, 64)
    yield "flowcei cinn, 4 spline couplings", partial(ours, couplings=4, coupling="spline"), (64, 128)
    if find_spec("zuko"):
        from zuko import flows as zuko

        def lazy(units: int, kind: Callable[..., Any], **options: int) -> Flow:
            flow = kind(width, told, hidden_features=(units, units), **options)
            return Flow(
                [*flow.parameters()], lambda x, c: -flow(c).log_prob(x), lambda c, n: flow(c).sample((n,))
            )

        yield "zuko RealNVP, 8 transforms", partial(lazy, kind=zuko.RealNVP, transforms=8), (64, 128)
        yield "zuko NSF, 3 transforms", partial(lazy, kind=zuko.NSF, transforms=3), (64, 128)
        yield "zuko MAF, 5 transforms", partial(lazy, kind=zuko.MAF, transforms=5), (64, 128)
    if find_spec("nflows"):
        from nflows.distributions import StandardNormal
        from nflows.flows import Flow as Stack
        from nflows.transforms import (
            CompositeTransform,
            MaskedAffineAutoregressiveTransform,
            ReversePermutation,
        )

        def stacked(units: int) -> Flow:
            steps = [
                kind
                for _ in range(5)
                for kind in (
                    MaskedAffineAutoregressiveTransform(width, units, context_features=told, num_blocks=2),
                    ReversePermutation(width),
                )
            ]
            flow = Stack(CompositeTransform(steps), StandardNormal([width]))
            return Flow(
                [*flow.parameters()], lambda x, c: -flow.log_prob(x, c), lambda c, n: flow.sample(n, c)
            )

        yield "nflows MAF, 5 transforms", stacked, (64, 128)


Rows = tuple[Tensor, Tensor]  # charts and conditions, both standardised


def charts(molecule: str, prior: str, count: int) -> tuple[Rows, Rows, Rows]:
    """Return standardised charts and conditions: to train with, to choose settings by, and to judge by."""
    events = flowcei.simulate(molecule, count + 2 * _UNSEEN, prior=prior, noise="1%", seed=1)
    frame = RecoilFrame.of(events.molecule, events.momenta[:20_000], reflect=False)
    x, framed = charts_of(frame, events)
    out = []
    for column in (x, framed.condition):
        standardised = torch.from_numpy(Standardiser.of(column[:20_000])(column))
        out.append(standardised.split([count, _UNSEEN, _UNSEEN]))
    train, choose, unseen = zip(*out, strict=True)
    return train, choose, unseen


def race(
    make: Callable[[int], Flow], setting: Setting, data: tuple[Rows, Rows, Rows], limit: float
) -> tuple[float, float, float, float]:
    """Train for `limit` seconds of CPU; return NLL on both unseen parts, rows a second, samples a second.

    The same optimiser for all, its rate a cosine of the time that has gone.
    """
    (x, c), *unseen = data
    torch.manual_seed(1)
    flow = make(setting.width)
    weights = [w for w in flow.weights if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=setting.rate, weight_decay=1e-4, betas=(0.9, 0.99), fused=True)
    began, rows = time.process_time(), 0
    while (time.process_time() - began) / limit < 1.0:
        for chosen in torch.randperm(len(x)).split(setting.rows):
            gone = (time.process_time() - began) / limit
            if gone >= 1.0:
                break
            rise = min(gone / 0.2, 1.0) if gone < 0.2 else 0.5 + 0.5 * np.cos(np.pi * (gone - 0.2) / 0.8)
            optimiser.param_groups[0]["lr"] = setting.rate * max(rise, 1e-3)
            optimiser.zero_grad(set_to_none=True)
            flow.loss(x[chosen], c[chosen]).mean().backward()
            torch.nn.utils.clip_grad_norm_(weights, 5.0)
            optimiser.step()
            rows += len(chosen)
    with torch.no_grad():
        nll = [
            float(
                torch.cat(
                    [flow.loss(*part) for part in zip(a.split(4096), b.split(4096), strict=True)]
                ).mean()
            )
            for a, b in unseen
        ]
        rate = max(sampling_rate(flow, unseen[-1][1], chunk) for chunk in _CHUNKS) if limit > 10.0 else np.nan
    return nll[0], nll[1], rows / limit, rate


def sampling_rate(flow: Flow, conditions: Tensor, chunk: int) -> float:
    """Return samples a second, 100 of each condition, so many rows a call."""
    parts = conditions[:1000].split(chunk // 100)
    return 100_000 / seconds(lambda: [flow.sample(part, 100) for part in parts], 2)


def inference(quick: bool) -> None:  # noqa: FBT001
    """Rows a second of CPU time through couplings: few at a time go through torch, many through a kernel."""
    few, many = 4_000, 40_000 if quick else 200_000
    short: dict[str, Any] = {"schedule": flowcei.Schedule(epochs=1), "events_per_epoch": 2_000}
    models = {
        "OCS, bundled: 8 GLOW": flowcei.load(),
        "CHBrClF, default: 4 splines": flowcei.train(molecule="chbrclf", noise="1%", seed=1, **short),
    }
    print(
        f"{'couplings':28s} {'rows an event':>16s} {'what':10s} {'torch':>9s} {'kernel':>9s}   ratio (rows/s)"
    )
    for name, model in models.items():
        network = model.network
        for n in (1_000, 100, 10, 1):
            c = torch.randn(many // n, network.condition_width, generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                x = network.sample(c, n, generator=np.random.default_rng(1)).reshape(-1, network.width)
            own = c.repeat_interleave(n, dim=0)

            def draw(size: int, c: torch.Tensor = c, n: int = n, network: InverseModel = network) -> None:
                for rows in c.split(size // n):
                    network.sample_with_log_prob(rows, n, generator=np.random.default_rng(1))

            def judge(
                size: int, x: torch.Tensor = x, own: torch.Tensor = own, network: InverseModel = network
            ) -> None:
                for rows in zip(x.split(size), own.split(size), strict=True):
                    network.log_prob(*rows)

            for what, work in (("sampling", draw), ("density", judge)):
                slow, fast = cpu_rates([partial(work, few), partial(work, many)], many)
                print(f"{name:28s} {n:16d} {what:10s} {slow:9.3g} {fast:9.3g} {fast / slow:7.2f}", flush=True)
