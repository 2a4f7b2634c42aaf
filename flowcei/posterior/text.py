"""Posterior samples as long tables, one row a sample: CSV, and Parquet where pyarrow is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowcei.errors import UsageError
from flowcei.events.extracolumns import add_columns
from flowcei.events.extracolumns import component_names as columns
from flowcei.posterior.flags import FLAGS, in_words
from flowcei.storage.cells import write_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO, TextIO

    from flowcei.posterior.samples import PosteriorSamples


def samples_table(samples: PosteriorSamples) -> pd.DataFrame:
    """Return a row a sample: event, sample, positions (bohr), log density, flags, weight, extra columns.

    Of an event without samples (`PosteriorSamples.answered`) its positions, density and weight are
    NaN: empty cells in CSV.
    """
    e, n = samples.positions.shape[:2]
    table: dict[str, Any] = {
        "event": np.repeat(samples.ids, n),
        "sample": np.tile(np.arange(n), e),
    }
    flat = samples.positions.reshape(e * n, -1)
    table |= dict(zip(columns(samples.molecule.labels), flat.T, strict=True))
    if samples.log_prob is not None:
        table["log_prob"] = samples.log_prob.reshape(-1)
    if samples.flags is not None:
        words = {int(flags): in_words(flags) for flags in np.unique(samples.flags)}
        table["flags"] = np.repeat([words[int(flags)] for flags in samples.flags], n)
    if samples.weights is not None:
        weights = np.where(samples.answered[:, None], samples.weights.normalised, np.nan)
        table["weight"] = weights.reshape(-1)
    return pd.DataFrame(add_columns(table, samples.columns, np.repeat(np.arange(e), n)))


def write_samples_csv(parts: Iterable[PosteriorSamples], file: TextIO) -> None:
    """Write long CSV: see `samples_table`; the log density to 1e-6."""
    for k, part in enumerate(parts):
        table = samples_table(part)
        if part.log_prob is not None:
            table["log_prob"] = table["log_prob"].round(6)
        write_table(table, file, index=False, header=k == 0)


def refuse_missing_parquet() -> None:
    """Refuse to write Parquet where pyarrow is not installed.

    Raises:
        UsageError: Saying how it is installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        msg = "writing .parquet needs pyarrow: pip install flowcei[parquet]; or write .h5 or .csv"
        raise UsageError(msg) from error


def write_parquet(parts: Iterable[PosteriorSamples], file: BinaryIO) -> None:
    """Write the long table as Parquet, a row group a part, units with the columns.

    Raises:
        UsageError: Where pyarrow is not installed.
    """
    refuse_missing_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for part in parts:
            table = pa.Table.from_pandas(samples_table(part), preserve_index=False)
            if writer is None:
                schema = _with_units(table.schema, part)
                writer = pq.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(table.cast(schema))
    finally:
        if writer is not None:
            writer.close()


def _with_units(schema: Any, part: PosteriorSamples) -> Any:  # noqa: ANN401 (of pyarrow)
    """Return a schema that says the units, the molecule and the origin."""
    units = dict.fromkeys(columns(part.molecule.labels), "bohr")
    units["log_prob"] = f"log(1/bohr^{3 * len(part.molecule) - 3})"
    for k, field in enumerate(schema):
        if field.name in units:
            schema = schema.set(k, field.with_metadata({"unit": units[field.name]}))
    about = {"molecule": part.molecule.to_dict(), "origin": part.origin, "flags": FLAGS}
    texts = {key: json.dumps(value) for key, value in about.items()}
    return schema.with_metadata({"content": "flowcei samples", **texts})
