"""Events in a notebook: a DataFrame and back, one by one, a line and a table of facts, an xarray dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import flowcei
from flowcei.errors import DataError
from flowcei.events.container import Events
from flowcei.events.storage import read_events
from flowcei.physics.explosion import kinetic_energy
from flowcei.units import ELECTRONVOLT

if TYPE_CHECKING:
    from pathlib import Path

KG = 1.992851914e-24  # hbar/bohr in kg m/s


@pytest.fixture
def events() -> Events:
    """Return six events with positions, a noise and a delay."""
    simulated = flowcei.simulate("ocs", 6, noise="1%", seed=4)
    table = simulated.to_dataframe().assign(delay_fs=np.linspace(0.0, 50.0, 6))
    return Events.from_dataframe(table, "ocs")


def test_a_table_is_read_back_exactly(events: Events, tmp_path: Path) -> None:
    """All that a DataFrame holds: momenta, positions, noise, extra columns."""
    table = events.to_dataframe()
    assert list(table.columns[:3]) == ["cx", "cy", "cz"]
    assert table["psz"].tolist() == events.momenta[:, 2, 2].tolist()
    back = Events.from_dataframe(table, "ocs")
    for name in ("momenta", "positions", "sigma"):
        assert np.array_equal(getattr(back, name), getattr(events, name))
    assert back.columns["delay_fs"].tolist() == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    table.to_csv(tmp_path / "e.csv", index=False)
    assert np.array_equal(read_events(tmp_path / "e.csv").momenta, events.momenta)


@pytest.mark.filterwarnings("ignore:DataFrame")
def test_a_table_of_another_program_in_other_units(events: Events) -> None:
    """A row an ion, kg m/s, and ions told apart by their mass: the same momenta, in atomic units."""
    b, n = np.divmod(np.arange(18), 3)
    flat = events.momenta.reshape(-1, 3) * KG
    masses = np.round(events.molecule.masses / 1822.888486)
    table = pd.DataFrame(
        {"event": b, "mass_u": masses[n], **dict(zip(("px", "py", "pz"), flat.T, strict=True))}
    )
    read = Events.from_dataframe(
        table.sample(frac=1.0, random_state=1).sort_values("event"), "ocs", unit="kg m/s"
    )
    assert read.momenta == pytest.approx(events.momenta, rel=1e-8)
    assert read.event_id.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_table_that_is_not_understood_is_refused(events: Events) -> None:
    """With the name of the column."""
    table = events.to_dataframe().drop(columns="pcx")
    with pytest.raises(DataError, match="pc"):
        Events.from_dataframe(table, "ocs")
    with pytest.raises(DataError, match="pcy"):
        Events.from_dataframe(events.to_dataframe().astype({"pcy": object}).assign(pcy="word"), "ocs")


def test_events_one_by_one(events: Events) -> None:
    """An integer gives that event, from the end where it is negative; iteration gives all of them."""
    assert len(events[2]) == 1
    assert events[2].columns["delay_fs"].tolist() == [20.0]
    assert np.array_equal(events[-1].momenta[0], events.momenta[5])
    assert events[-1].event_id.tolist() == [5]
    assert [int(event.event_id[0]) for event in events] == [0, 1, 2, 3, 4, 5]
    assert events[1:3].columns["delay_fs"].tolist() == [10.0, 20.0]
    with pytest.raises(IndexError, match="no event 6 among 6"):
        events[6]


def test_a_line_and_a_table_of_facts(events: Events) -> None:
    """Their numbers are those of the events."""
    assert repr(events) == "Events: 6 of ocs, positions, noise, delay_fs"
    assert repr(Events("ocs", events.momenta)) == "Events: 6 of ocs"
    html = events._repr_html_()
    median = np.median(kinetic_energy(events.momenta, events.molecule.masses)) / ELECTRONVOLT
    assert f"{median:.3g} eV (median)" in html
    assert "<th>events</th><td>6</td>" in html
    assert "delay_fs" in html
    assert "KER" not in events[:0]._repr_html_()


def test_xarray(events: Events) -> None:
    """Named dimensions, units, and the values of the arrays."""
    data = events.to_xarray()
    assert dict(data.sizes) == {"event": 6, "ion": 3, "axis": 3}
    assert data.momenta.sel(event=4, ion="o", axis="y").item() == events.momenta[4, 1, 1]
    assert data.positions.attrs["units"] == "bohr"
    assert data.sigma.values.tolist() == events.sigma.tolist()  # type: ignore[union-attr]
    assert data.delay_fs.values.tolist() == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    assert "positions" not in Events("ocs", events.momenta).to_xarray()
