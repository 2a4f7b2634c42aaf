"""The picture of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from flowcei.plot.style import COLOURS, new_figure, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@styled
def training_figure(metrics: pd.DataFrame) -> Figure:
    """Draw training and validation loss against epochs."""
    figure = new_figure(4.6, 3.0)
    axis = figure.subplots()
    for k, (name, line) in enumerate({"training": "s-", "validation": "o--"}.items()):
        column = "train_loss" if name == "training" else "validation_loss"
        axis.plot(metrics["epoch"], metrics[column], line, ms=3, color=COLOURS[k], label=name)
    axis.set(xlabel="epoch", ylabel="loss (nats per event)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return figure
