"""Pictures hold what they claim to show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from flowcei.errors import UsageError
from flowcei.evaluation.comparison import Comparison
from flowcei.plot.style import save
from flowcei.report.figures import training_figure
from flowcei.report.judging import comparison_figure
from flowcei.units import ANGSTROM

if TYPE_CHECKING:
    from pathlib import Path


def test_bars_are_as_long_as_the_numbers() -> None:
    """Widths of bars are the table's values; every model is named."""
    keys = [f"{k}_{w}" for k in ("std_mse", "std_mae") for w in ("mean", "sample")]
    keys += ["atom_error_median", "atom_error_sample_median"]
    table = pd.DataFrame(np.arange(1.0, 13.0).reshape(2, 6), index=["flow", "mean"], columns=keys).assign(
        coverage_50=0.5, coverage_90=0.9
    )
    axes = comparison_figure(Comparison(table)).axes
    assert "angstrom" in axes[0].get_xlabel()
    assert [bar.get_width() for bar in axes[0].patches] == [x / ANGSTROM for x in (5.0, 11.0, 6.0, 12.0)]
    widths = [bar.get_width() for panel in axes if "MSE" in panel.get_xlabel() for bar in panel.patches]
    assert widths == [1.0, 7.0, 2.0, 8.0]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["flow", "mean\n(null model)"]


def test_pictures_are_whole_files_and_refuse_to_replace(tmp_path: Path) -> None:
    """A PNG appears at once, and only --overwrite replaces it."""
    metrics = pd.DataFrame({"epoch": [1, 2], "train_loss": [3.0, 2.0], "validation_loss": [3.0, 2.5]})
    figure = training_figure(metrics)
    path = tmp_path / "loss.png"
    save(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="exists"):
        save(figure, path)
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]
