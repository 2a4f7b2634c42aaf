"""What can be trained can be stored and read: architectures and priors of other packages too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from quick import QUICK
from shell import Shell

import flowcei
from flowcei.errors import DataError, UsageError
from flowcei.models.registry import ARCHITECTURES, build_model
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import GeometryPrior, build_prior
from flowcei.reconstruction.fitting import train
from flowcei.storage.modelfile import read_model
from flowcei.training.schedule import Schedule

MODULE = "a_package_of_someone_else"
PACKAGE = '''
    from dataclasses import dataclass, field

    import numpy as np
    import torch
    from torch import nn

    from flowcei.models.interface import InverseModel, ModelOptions
    from flowcei.physics.priors import GeometryPrior
    from flowcei.physics.priors.base import random_orientation


    @dataclass(frozen=True)
    class MaskedOptions(ModelOptions):
        rounds: int = 12
        share: float = 0.5
        shifted: bool = True
        shape: str = field(default="round", metadata={"choices": ("round", "square")})


    class Masked(InverseModel):
        """A linear map of some of the condition, with bool and integer buffers."""

        architecture = "masked"
        options_type = MaskedOptions

        def __init__(self, width, condition_width, options):
            super().__init__(width, condition_width, options)
            self.net = nn.Linear(condition_width, width)
            self.register_buffer("mask", torch.arange(condition_width) % 2 == 0)
            self.register_buffer("columns", torch.full((condition_width,), 7, dtype=torch.int32))
            self.register_buffer("order", torch.zeros(condition_width, dtype=torch.int64))

        def predict(self, c):
            return self.net(c * self.mask)

        def loss(self, x, c):
            return ((self.predict(c) - x) ** 2).mean(dim=1)

        def sample_with_log_prob(self, c, n, *, latent="prior", generator):
            return self.predict(c)[:, None].repeat(1, n, 1), None


    class Forgetful(Masked):
        """Computes with a number that is neither option nor buffer."""

        architecture = "forgetful"

        def __init__(self, width, condition_width, options):
            super().__init__(width, condition_width, options)
            self.factor = float(np.random.default_rng().uniform(1, 2))

        def predict(self, c):
            return self.factor * self.net(c) + self.factor


    class Half(Masked):
        """Has weights that no model file holds."""

        architecture = "half"

        def __init__(self, width, condition_width, options):
            super().__init__(width, condition_width, options)
            self.register_buffer("scale", torch.ones(2, dtype=torch.float16))


    class Shell(GeometryPrior):
        """The equilibrium at any size within a share of its own."""

        kind = "shell"

        def __init__(self, equilibrium, width=0.1):
            self._equilibrium, self._width = np.asarray(equilibrium), width

        def sample(self, n, rng):
            size = 1 + self._width * rng.uniform(-1, 1, (n, 1, 1))
            bend = self._width * rng.uniform(-1, 1, (n, *self._equilibrium.shape))
            return random_orientation(self._equilibrium * size + bend, rng)

        def spec(self):
            return {"kind": "shell", "width": self._width}


    def shell(molecule, **parameters):
        return Shell(molecule.equilibrium, **parameters)
'''
POINTS = f"""
    [flowcei.architectures]
    masked = {MODULE}:Masked
    forgetful = {MODULE}:Forgetful
    half = {MODULE}:Half
    broken = {MODULE}:NotThere

    [flowcei.priors]
    shell = {MODULE}:shell
"""
ONCE = Schedule(epochs=1, batch=100)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package with plug-ins where Python looks, and take it away again."""
    site = tmp_path / "site"
    about = site / "someone_elses_package-1.5.dist-info"
    about.mkdir(parents=True)
    (site / f"{MODULE}.py").write_text(dedent(PACKAGE))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: someone-elses-package\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text(dedent(POINTS))
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield site
    sys.modules.pop(MODULE, None)


def _train(architecture: str, **rest: object) -> flowcei.Reconstructor:
    return train(architecture, schedule=ONCE, events_per_epoch=200, seed=1, rules=QUICK, **rest)  # type: ignore[arg-type]


@pytest.mark.usefixtures("package")
def test_an_architecture_of_someone_else_trains_and_loads(tmp_path: Path) -> None:
    """With bool and integer buffers, and options of any size and kind."""
    options = {"rounds": 100_000, "share": 0.125, "shifted": False, "shape": "square"}
    model = _train("masked", options=options)
    model.save(tmp_path / "m.safetensors")
    again = flowcei.load(tmp_path / "m.safetensors")
    assert again.sampler.options.to_dict() == options
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)
        assert again.network.state_dict()[name].dtype == tensor.dtype
    events = flowcei.simulate("ocs", 5, noise="1%", seed=2)
    np.testing.assert_array_equal(
        again.sample(events, 2, seed=1).positions, model.sample(events, 2, seed=1).positions
    )
    for bad in ({"shifted": 1}, {"shape": "flat"}, {"rounds": True}, {"rounds": -1}):
        with pytest.raises(UsageError, match="option"):
            build_model("masked", 6, 5, bad)


def test_a_file_names_the_package_that_it_needs(package: Path, tmp_path: Path) -> None:
    """Without the plug-in, one line says what to install."""
    ocs = Molecule.load("ocs")
    _train("masked", molecule=ocs, prior={"kind": "shell", "width": 0.05}).save(tmp_path / "m.safetensors")
    card, _ = read_model(tmp_path / "m.safetensors")
    assert card.training.plugins == {
        "architecture masked": "someone-elses-package 1.5",
        "prior shell": "someone-elses-package 1.5",
    }
    points = next(package.glob("*/entry_points.txt"))
    whole = dedent(POINTS)
    for lost, what in (("masked =", "architecture 'masked'"), ("shell =", "prior 'shell'")):
        points.write_text("\n".join(line for line in whole.splitlines() if not line.startswith(lost)))
        importlib.invalidate_caches()
        with pytest.raises(DataError, match=f"{what} is a plug-in of someone-elses-package 1.5") as caught:
            flowcei.load(tmp_path / "m.safetensors")
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("forgetful", "answers otherwise"),
        ("half", "float16 cannot be stored"),
        ("broken", "of someone-elses-package 1.5 cannot be imported"),
        ("wings", "no architecture 'wings'; there are cinn, .*masked"),
    ],
)
def test_what_could_not_be_read_again_is_refused_before_the_first_step(architecture: str, words: str) -> None:
    """One line, and no step is made."""

    def no_step(rows: int, loss: float) -> None:
        pytest.fail(f"a step of {rows} rows was made, loss {loss}")

    with pytest.raises(UsageError, match=words) as caught:
        _train(architecture, on_step=no_step)
    assert "\n" not in str(caught.value)


def test_an_option_of_flowcei_that_no_file_may_hold_is_refused_before_the_first_step() -> None:
    """A solver's file holds at most 4,096 starts: more is said now, not when it is loaded."""
    with pytest.raises(UsageError, match="4096"):
        _train("solver", options={"starts": 5000})


@pytest.mark.usefixtures("package")
def test_a_prior_of_someone_else() -> None:
    """By its table, or as an object of a class with an entry point; a class without one is refused."""
    ocs = Molecule.load("ocs")
    prior = build_prior(ocs, {"kind": "shell", "width": 0.2})
    assert type(prior).__name__ == "Shell"
    assert _train("mean", molecule=ocs, prior=prior).prior_spec == {"kind": "shell", "width": 0.2}

    class Mine(type(prior)):  # type: ignore[misc]
        def spec(self) -> dict[str, object]:
            return {"kind": "mine"}

    class Lossy(type(prior)):  # type: ignore[misc]
        def spec(self) -> dict[str, object]:
            return {"kind": "shell"}

    for kind, words in ((Mine, "prior Mine could not be stored .* 'mine'"), (Lossy, "spec.. of Lossy draws")):
        own: GeometryPrior = kind(ocs.equilibrium, 0.2)
        with pytest.raises(UsageError, match=words):
            _train("cinn", molecule=ocs, prior=own)


@pytest.mark.usefixtures("package")
def test_its_options_are_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`train --arch masked --rounds 700`, its help, and what another architecture does not have."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    assert shell("train", "--arch", "masked", "--help") == 0
    assert all(option in shell.out for option in ("--rounds", "--share", "--shifted", "[round|square]"))
    words = ["--events", "200", "--epochs", "2", "--seed", "1", "--rounds", "700", "--shifted", "false"]
    assert shell("train", "--arch=masked", *words, "-o", "r") == 0, shell.err
    assert flowcei.load("r").sampler.options.to_dict() == {
        "rounds": 700,
        "share": 0.5,
        "shifted": False,
        "shape": "round",
    }
    assert shell("train", "--arch", "mlp", *words, "-o", "s") == 2
    assert "rounds" in shell.err
    stop = ["--max-time", "0.000001s"]
    assert shell("train", "--arch=masked", *words, *stop, "-o", "t") == 5, shell.err
    assert shell("train", "--resume", "t") == 0, shell.err
    assert flowcei.load("t").sampler.options.to_dict()["rounds"] == 700


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("listed", [False, True])
def test_a_new_architecture_is_one_file_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, *, listed: bool
) -> None:
    """It is trained, saved and loaded, and its options are those of the command.

    They are in every help where the line names them too, else in that of `--arch own`.
    """
    kind = importlib.import_module(MODULE).Masked
    shell = Shell(monkeypatch, capsys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kind, "architecture", "own")
    monkeypatch.setitem(ARCHITECTURES, "own", (f"{MODULE}:Masked", kind.options_type if listed else None))
    assert shell("train", "--help") == 0
    assert ("--rounds INTEGER" in shell.out) == listed
    assert "marginal, own" in shell.out
    assert shell("train", "--arch", "own", "--help") == 0
    assert "--rounds INTEGER" in shell.out
    words = ["--events", "200", "--epochs", "1", "--seed", "1", "--rounds", "700"]
    words += ["--shifted", "false", "--shape=square"]
    assert shell("train", "--arch", "own", *words, "-o", "r") == 0, shell.err
    options = flowcei.load("r").sampler.options.to_dict()
    assert options == {"rounds": 700, "share": 0.5, "shifted": False, "shape": "square"}
    assert shell("train", "--arch", "own", "--rounds", "7", "--data", "no.csv") == 2
    assert "no.csv" in shell.err
    assert shell("train", "--arch", "cvae", "--rounds", "7") == 2
    assert "rounds" in shell.err
    assert shell("train", "--arch", "own", "--shape", "flat") == 2
