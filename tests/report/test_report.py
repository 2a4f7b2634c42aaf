"""Pictures hold what they claim to show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from flowcei.errors import UsageError
from flowcei.evaluation.comparison import Comparison
from flowcei.events.simulation import simulate
from flowcei.posterior.samples import PosteriorSamples
from flowcei.report import figures
from flowcei.report.judging import comparison_figure
from flowcei.report.style import save

if TYPE_CHECKING:
    from pathlib import Path


def _samples() -> PosteriorSamples:
    events = simulate("ocs", 4, seed=4)
    assert events.positions is not None
    noise = np.random.default_rng(0).normal(0.0, 0.1, (4, 60, 3, 3))
    positions = (events.positions[:, None] + noise).astype(np.float32)
    return PosteriorSamples(events.molecule, events.momenta, positions, None, np.arange(4), np.ones(4))


def test_clouds_are_drawn_where_the_atoms_are() -> None:
    """The marker of each atom is the mean of its samples, and axes carry units."""
    spread = _samples().spread()
    figure = figures.spread_figure(spread, 1)
    plane = figure.axes[0]
    markers = {line.get_label(): line.get_xydata()[0] for line in plane.lines if len(line.get_xdata()) == 1}
    for k, label in enumerate("cos"):
        np.testing.assert_allclose(markers[label], spread.positions[1, :, k, :2].mean(axis=0))
    assert "(bohr)" in plane.get_xlabel()


def test_internal_figure_names_every_bond_and_angle() -> None:
    """Two bonds and an angle of OCS, and the bonds together, with units."""
    axes = figures.internal_figure(_samples().spread(), 0).axes
    assert [a.get_xlabel() for a in axes] == [
        "c-o length (bohr)",
        "c-s length (bohr)",
        "o-c-s angle (deg)",
        "c-o length (bohr)",
    ]
    assert axes[3].get_ylabel() == "c-s length (bohr)"


def test_bars_are_as_long_as_the_numbers() -> None:
    """Widths of bars are the table's values; every model is named."""
    keys = [f"{k}_{w}" for k in ("std_mse", "std_mae") for w in ("mean", "sample")]
    keys += ["atom_error_median", "atom_error_sample_median"]
    table = pd.DataFrame(np.arange(1.0, 13.0).reshape(2, 6), index=["flow", "mean"], columns=keys).assign(
        coverage_50=0.5, coverage_90=0.9
    )
    axes = comparison_figure(Comparison(table)).axes
    widths = [bar.get_width() for bar in axes[0].patches]
    assert widths == [1.0, 7.0, 2.0, 8.0]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["flow", "mean\n(null model)"]


def test_events_figure_puts_the_fastest_ion_at_one() -> None:
    """In a Newton plot the reference ion sits at (1, 0)."""
    newton = figures.events_figure(simulate("ocs", 30, seed=1)).axes[0]
    ends = [line.get_xydata() for line in newton.lines if len(line.get_xdata()) == 30]
    np.testing.assert_allclose(ends[2], [[1.0, 0.0]] * 30, atol=1e-12)


def test_pictures_are_whole_files_and_refuse_to_replace(tmp_path: Path) -> None:
    """A PNG appears at once, and only --overwrite replaces it."""
    metrics = pd.DataFrame({"epoch": [1, 2], "train_loss": [3.0, 2.0], "validation_loss": [3.0, 2.5]})
    figure = figures.training_figure(metrics)
    path = tmp_path / "loss.png"
    save(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="exists"):
        save(figure, path)
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]
