"""Which coordinates a law has under each kind of prior, and what the prior says of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import kstest

from flowcei import Molecule
from flowcei.ensemble.coordinates import chart_of
from flowcei.ensemble.laws import Moments, NormalLaw
from flowcei.errors import UsageError
from flowcei.physics.priors import build_prior


@cache
def _chart(name: str, prior: str | None = None, names: tuple[str, ...] = ()):  # noqa: ANN202
    molecule = Molecule.load(name)
    return chart_of(molecule, build_prior(molecule, prior), names)


@pytest.mark.parametrize(("name", "prior"), [("ocs", "broad"), ("chbrclf", None)])
def test_prior_density_integrates(name: str, prior: str | None) -> None:
    """The mean of a law over the density of the prior is 1 over draws of the prior."""
    chart = _chart(name, prior)
    z = chart.drawn(10_000, np.random.default_rng(1))[1]
    law = NormalLaw.of(Moments.of(z, np.ones((len(z), 1))), chart.bends)
    narrow = NormalLaw(law.share, law.mean, 0.8 * law.covariance, law.bends)
    ratio = np.exp(narrow.log_prob(z) - chart.log_prior(z))
    assert ratio.mean() == pytest.approx(narrow_share(chart, narrow), abs=5 * ratio.std() / np.sqrt(len(z)))


def narrow_share(chart, law: NormalLaw) -> float:  # noqa: ANN001
    """Share of a law within the support of the prior."""
    return float(np.isfinite(chart.log_prior(law.sample(20_000, np.random.default_rng(2)))).mean())


def test_coordinates_are_independent_of_each_other() -> None:
    """Of six angles at a carbon five, and of three in a plane two; like atoms share a law."""
    assert [one.name for one in _chart("chbrclf").coordinates][-1] == "br-c-f"
    assert len(_chart("chbrclf").coordinates) == 9
    water = _chart("h2o")
    assert [one.name for one in water.coordinates] == ["o-h1", "o-h2", "h1-o-h2"]
    assert sorted(water.images[:, 0, 0]) == [0.0, 1.0]
    with pytest.raises(UsageError, match="like atoms exchange o-h1 with others that are not named"):
        _chart("h2o", None, ("o-h1",))


def test_geometries_have_the_law() -> None:
    """Those that are drawn of a law, by their coordinates, for each kind of prior."""
    for name, prior in (("ocs", "broad"), ("iodopyridine", None)):
        chart, rng = _chart(name, prior), np.random.default_rng(3)
        z = chart.drawn(2000, rng)[1]
        law = NormalLaw.of(Moments.of(z, np.ones((len(z), 1))), chart.bends)
        law = NormalLaw(law.share, law.mean, 0.2 * law.covariance, law.bends)
        x = chart.geometries(law, 500, rng)
        made = chart.values(x - x.mean(axis=1, keepdims=True))
        assert kstest(made[:, 0], law.sample(5000, rng)[:, 0]).pvalue > 1e-3
        assert kstest(made[:, -1], law.sample(5000, rng)[:, -1]).pvalue > 1e-3


def test_normal_coordinates_are_those_of_the_geometry() -> None:
    """Displaced along modes and turned at random, a geometry has these coordinates; symmetries map them."""
    molecule = Molecule.load("benzene")
    prior, rng = build_prior(molecule), np.random.default_rng(4)
    z = 0.3 * rng.standard_normal((20, prior.mode_count))  # type: ignore[attr-defined]
    assert prior.normal_coordinates(prior.displaced(z, rng))[0] == pytest.approx(z, abs=1e-4)  # type: ignore[attr-defined]
    order = np.array([*range(1, 6), 0, *range(7, 12), 6])  # a turn by 60 degrees
    maps = prior.symmetries(np.array([np.arange(12), order]))  # type: ignore[attr-defined]
    assert maps[0] == pytest.approx(np.eye(prior.mode_count), abs=1e-4)  # type: ignore[attr-defined]
    assert len(maps) == 2
    assert np.linalg.matrix_power(maps[1], 6) == pytest.approx(np.eye(prior.mode_count), abs=1e-2)  # type: ignore[attr-defined]
