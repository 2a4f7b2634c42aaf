"""`bin/reproduce-study`, at a small size: the whole way, and what must hold at any size."""

from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "bin" / "reproduce-study"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a quick reproduction wrote."""
    place = tmp_path_factory.mktemp("study")
    script = runpy.run_path(str(SCRIPT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(SCRIPT), "--quick", "-o", str(place)])
        script["main"]()
    return place


def test_the_page_has_every_model_and_four_pictures(folder: Path) -> None:
    """Filled in, with no place left over."""
    page = (folder / "study.md").read_text()
    assert "$" not in page
    for name in ("published", "recoil", "apart", "ambiguity"):
        assert f"(pictures/study-{name}.png)" in page
        assert (folder / "pictures" / f"study-{name}.png").stat().st_size > 10_000
    for model in ("ae-cvae", "cvae", "latent-cinn", "cinn", "mlp", "nearest", "mean", "marginal", "floor"):
        assert page.count(f"| {model} |") == 6
    assert page.count("| solver |") == 3


def test_null_figures_as_published_and_exact_ones_in_one_frame(folder: Path) -> None:
    """What was published cannot be learned; the same events in one frame can be solved exactly."""
    rows = pd.read_csv(folder / "study.csv").set_index(["version", "dataset", "model"]).sort_index()
    published, sound = rows.loc["as published", "mse_study"], rows.loc["recoil frame"]
    mean = float(published["cei_traning_orient_1", "mean"])
    assert float(published["cei_traning_orient_1", "cvae"]) == pytest.approx(mean, rel=0.3)
    assert float(published["cei_traning_orient_1", "marginal"]) == pytest.approx(2 * mean, rel=0.4)
    floor = rows.loc[("as published", "generated_cos3d_check", "floor"), "mse_mean"]
    assert float(floor) == pytest.approx(1.0, abs=0.03)  # the variance of where the origin was
    for dataset in ("cei_traning_orient_1", "generated_cos3d_check"):
        error = sound["atom_error"]
        assert float(error[dataset, "solver"]) < 1e-3
        assert float(error[dataset, "nearest"]) < 0.4 * float(error[dataset, "mean"])
        # 40 test rows: the variance of their squares is large
        assert float(sound["std_mse_mean"][dataset, "mean"]) == pytest.approx(1.0, abs=0.5)
