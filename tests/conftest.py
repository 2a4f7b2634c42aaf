"""What several test files share: tiny models, trained in seconds."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import torch
from matplotlib.figure import Figure
from numba.core import event
from quick import QUICK

from flowcei.events.simulation import simulate
from flowcei.reconstruction import fitting
from flowcei.reconstruction.loading import load
from flowcei.training.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowcei.events.container import Events
    from flowcei.reconstruction.model import Reconstructor

torch.set_num_threads(1)


class _KernelsHaveNoText(event.Listener):
    """Fails where a kernel compiles a message, as `target[:] = source` does: ten seconds for each of them."""

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        assert function.__module__ != "numba.cpython.unicode", "copy arrays by flowcei.physics._vectors.copy"

    def on_end(self, event: event.Event) -> None:
        """Nothing to do."""


event.register("numba:compile", _KernelsHaveNoText())

# In the order of their length, but the first two compile other kernels. A file stays in one process: what is
# long must not come last, and two processes should not compile the same at once.
LONGEST = (
    "physics/test_explosion.py",
    "cli/test_kills.py",
    "physics/test_build_up.py",
    "study/test_reproduction.py",
    "cli/test_train_command.py",
    "posterior/test_exact.py",
    "cli/test_cli.py",
    "storage/test_safety.py",
    "check/test_check_run.py",
    "report/test_page.py",
    "oracles/test_reference.py",
    "check/test_check.py",
    "cli/test_sample_resume.py",
    "reconstruction/test_absurd.py",
    "reconstruction/test_by_axis_model.py",
    "plot/test_plot.py",
    "posterior/test_flags.py",
    "events/test_hostile.py",
    "evaluation/test_calibration.py",
    "evaluation/test_evaluation.py",
    "oracles/test_distances.py",
    "frame/test_alignment.py",
    "models/test_models.py",
    "training/test_until.py",
    "training/test_resume.py",
    "physics/test_prior_densities.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    files = [str(item.path) for item in items]
    ranks = {name: k for k, end in enumerate(LONGEST) for name in {*files} if name.endswith(f"/tests/{end}")}
    items.sort(key=lambda item: ranks.get(str(item.path), len(LONGEST)))


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: no search for garbage needs to go through them again."""
    gc.freeze()


SMALL = {
    "cinn": {"couplings": 3, "hidden": 16, "context": 4},
    "fm": {"steps": 3, "hidden": 16, "context": 4},
    "cvae": {"latent": 3, "hidden": 32, "depth": 2},
    "ae-cvae": {"latent": 3, "hidden": 32, "depth": 2},
    "latent-cinn": {"couplings": 3, "latent": 3, "hidden": 32, "context": 8},
    "mlp": {"hidden": 32},
    "nearest": {},
    "solver": {"starts": 3, "steps": 10},
    "mean": {},
    "marginal": {},
}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of pictures hold a word: drawing takes most of the time of a command that is asked for tables."""
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write(b"picture"))


@pytest.fixture(scope="session")
def tiny() -> Iterator[Callable[[str, str], Reconstructor]]:
    """`tiny("cinn", "ocs")`: a small model, trained once on a few thousand events."""
    made: dict[tuple[str, str], Reconstructor] = {}

    def get(architecture: str, molecule: str) -> Reconstructor:
        key = (architecture, molecule)
        if key not in made:
            made[key] = fitting.train(
                architecture,
                molecule=molecule,
                options=SMALL[architecture],
                noise="0.5%..2%",
                schedule=Schedule(epochs=2, batch=128, learning_rate=5e-3),
                events_per_epoch=3000,
                rules=QUICK,
                seed=11,
            )
        return made[key]

    yield get
    made.clear()


@pytest.fixture(scope="session")
def tiny_cinn(tiny: Callable[[str, str], Reconstructor]) -> Reconstructor:
    """Return a small flow for OCS, trained for 0.5 % to 2 % noise."""
    return tiny("cinn", "ocs")


@pytest.fixture(scope="session")
def off_flow() -> Callable[[float], Reconstructor]:
    """`off_flow(0.8)`: the bundled flow with its first chart off by that many of the posterior's deviations.

    Its densities are exact, its answers biased: 0.8 leaves a median efficiency of 0.52, 2.0 one of 0.06
    with unreliable weights in 57 % of the events.
    """

    def get(deviations: float) -> Reconstructor:
        model = load()
        charts = model.chart_standardiser
        charts.mean[0] += deviations * charts.scale[0]
        return model

    return get


@pytest.fixture(scope="session")
def tiny_cvae(tiny: Callable[[str, str], Reconstructor]) -> Reconstructor:
    """Return a small auto-encoder for OCS, trained for 0.5 % to 2 % noise."""
    return tiny("cvae", "ocs")


@pytest.fixture(scope="session")
def ocs_events() -> Events:
    """Return twelve events of OCS with 1 % noise."""
    return simulate("ocs", 12, noise="1%", seed=5)
