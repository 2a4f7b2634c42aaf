"""What a training takes where nobody says: by ions, prior and architecture."""

from __future__ import annotations

import numpy as np
import pytest

import flowcei
from flowcei.molecules.molecule import Molecule
from flowcei.physics.priors import build_prior
from flowcei.physics.priors.base import GeometryPrior
from flowcei.reconstruction.defaults import Defaults, usual_training
from flowcei.reconstruction.training_data import fresh


def _usual(name: str, prior: str | None = None, architecture: str = "cinn") -> Defaults:
    molecule = Molecule.load(name)
    return usual_training(len(molecule), build_prior(molecule, prior), architecture)


@pytest.mark.parametrize(
    ("name", "prior", "wide"),
    [
        ("ocs", "equilibrium", False),  # lengths of 2.19 +- 0.15 and 2.95 +- 0.18 bohr: 0.07
        ("ocs", "broad", True),  # 1.8 to 4.0 bohr, uniform: 2.2 / sqrt(12) / 2.9 = 0.22
        ("ocs", "stretched", False),  # 2.53 +- 0.35, 3.53 +- 0.49 bohr: 0.14
        ("chbrclf", "equilibrium", True),  # hydrogen 2.05 bohr from carbon, each moved along three axes
    ],
)
def test_splines_where_a_prior_is_wide(name: str, prior: str, *, wide: bool) -> None:
    """By the largest deviation of a distance over its mean, above 0.15."""
    usual = _usual(name, prior)
    assert usual.whitened == (wide or name != "ocs")  # of three ions near an equilibrium couplings learn all
    assert usual.options.get("coupling", "glow") == ("spline" if wide else "glow")


@pytest.mark.parametrize(
    ("name", "prior", "architecture"),
    [("ocs", "ball", "cinn"), ("ch4", "ball", "cinn"), ("ocs", None, "cvae"), ("ch4", None, "fm")],
)
def test_bonds_without_a_middle_or_a_density(name: str, prior: str | None, architecture: str) -> None:
    """A ball, and architectures without a density that knows whitened charts: many events, their options."""
    assert _usual(name, prior, architecture) == Defaults()


def test_a_prior_that_nobody_knows_is_trained_on_as_many_events_as_its_charts_take() -> None:
    """A plug-in's kind: charts of bonds, and what these take, in the source itself."""

    class Shell(GeometryPrior):
        kind = "shell"

        def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
            return np.asarray(rng.standard_normal((n, 3, 3)))

        def spec(self) -> dict[str, str]:
            return {"kind": self.kind}

    assert usual_training(3, Shell(), "cinn") == Defaults()
    source, _, record = fresh("ocs", "broad", None, None, 1, None, "cinn")
    assert record.simulation is not None
    assert source.rows == record.simulation.events_per_epoch == _usual("ocs", "broad").events
    assert source.schedule().batch == 256


def test_more_atoms_take_fewer_events_and_steps_of_fewer() -> None:
    """A search grows with the fourth power of the ions: of iodopyridine's eleven to some milliseconds."""
    few, many = _usual("c2h2"), _usual("iodopyridine")
    assert few.events == 20_000
    assert many.events * 11**3.5 == pytest.approx(20_000 * 6**3.5, rel=1e-3)
    assert many.batch < few.batch
    source, _, _ = fresh("iodopyridine", None, None, None, 1, None, "cinn")
    assert source.rules.pilot_events == source.rules.validation_events == source.rows == many.events


def test_what_is_given_wins() -> None:
    """An option, in the card of the model."""
    model = flowcei.train(
        "cinn",
        molecule="ocs",
        prior="broad",
        options={"couplings": 1, "hidden": 8},
        schedule=flowcei.Schedule(epochs=1),
        events_per_epoch=100,
        rules=flowcei.TrainingRules(pilot_events=100, validation_events=50),
        seed=1,
    )
    options = model.sampler.options.to_dict()
    assert (options["couplings"], options["hidden"], options["coupling"]) == (1, 8, "spline")
