"""Interaction of ions that is not that of point charges: screened, or a table of one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcei.errors import DataError, UsageError
from flowcei.physics.explosion import as_events, moving_start, system_of
from flowcei.physics.nystrom import RKN86
from flowcei.physics.threads import in_threads, shares
from flowcei.storage.files import check_readable
from flowcei.units import ANGSTROM, ELECTRONVOLT, quantity

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

    from flowcei.physics.forward import Floats, Reals, Start, Status

_HEADERS = {"r_bohr,u_hartree": (1.0, 1.0), "r_angstrom,u_ev": (ANGSTROM, ELECTRONVOLT)}
_FEWEST, _MOST = 8, 10_000  # points of a table
_UNLIKE = 0.05  # of the product of charges: how far the slope at the last point may be from that of the tail
_INNER = 0, 3, 4, 5, 7  # stages whose quadrature, exact to degree four, judges a step
_SHARPER = 10.0  # tolerance of a step over the accuracy: what it judges by is far worse than it is
_LEAST_ACCURACY = 1e-11
_BATCH = 64  # explosions that are worth a thread


@dataclass(frozen=True)
class PairLaw:
    """U(r) of a pair: Coulomb's law; Yukawa's with a screening length; or a table with a Coulomb tail."""

    length: str = ""  # screening length with its unit
    r: tuple[float, ...] = ()  # bohr
    u: tuple[float, ...] = ()  # hartree
    tail: float | None = None  # U is tail / r beyond the last point; the product of the charges where None

    @classmethod
    def parse(cls, given: object) -> PairLaw:
        """Return the law of ``"coulomb"``, ``{"yukawa": "5 bohr"}``, or a table as arrays or in a file."""
        if given == "coulomb":
            return cls()
        if isinstance(given, Path):
            given = {"table": given}
        if isinstance(given, dict) and set(given) == {"yukawa"}:
            quantity(str(given["yukawa"]), "length")
            return cls(length=str(given["yukawa"]))
        if isinstance(given, dict) and {"r", "u"} <= set(given) <= {"r", "u", "tail"}:
            return cls._table(given["r"], given["u"], given.get("tail"))
        named = isinstance(given, dict) and {"table"} <= set(given) <= {"table", "tail"}
        if isinstance(given, dict) and named and isinstance(given["table"], Path):
            return cls._table(*_read(given["table"]), given.get("tail"))
        ways = 'write "coulomb", { yukawa = "5 bohr" }, or the name of a CSV file'
        raise UsageError(f"pair potential {str(given)[:60]!r} is not understood: {ways}")

    @classmethod
    def _table(cls, r: object, u: object, tail: object) -> PairLaw:
        try:
            at, energy = np.asarray(r, np.float64), np.asarray(u, np.float64)
        except (TypeError, ValueError):
            at = energy = np.empty(0)
        if at.ndim != 1 or at.shape != energy.shape or not _FEWEST <= len(at) <= _MOST:
            raise UsageError(f"the table of a pair potential needs {_FEWEST} to {_MOST} numbers r, as many U")
        if not (np.isfinite(at).all() and np.isfinite(energy).all()):
            raise UsageError("the table of a pair potential has numbers that are not finite")
        if not (at[0] > 0.0 and (np.diff(at) > 0.0).all()):
            row = int(np.argmin(np.diff(at))) + 2 if at[0] > 0.0 else 1
            raise UsageError(f"r of a pair potential must be positive and increase; row {row} does not")
        if tail is not None and (type(tail) not in (int, float) or not np.isfinite(float(str(tail)))):
            raise UsageError(f"tail of a pair potential is {str(tail)[:40]!r}; it must be a number")
        end = None if tail is None else float(str(tail))
        return cls(r=tuple(at.tolist()), u=tuple(energy.tolist()), tail=end)

    def spec(self) -> Any:  # noqa: ANN401 (text or a table)
        """What `parse` reads, as plain numbers and text."""
        if self.r:
            out = {"r": list(self.r), "u": list(self.u)}
            return out if self.tail is None else out | {"tail": self.tail}
        return {"yukawa": self.length} if self.length else "coulomb"

    def __str__(self) -> str:
        if self.r:
            digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
            return f"table {digest}, {len(self.r)} points from {self.r[0]:g} to {self.r[-1]:g} bohr"
        return f"Yukawa {self.length}" if self.length else "Coulomb"

    def spline(self, product: float) -> tuple[CubicSpline, float]:
        """The spline of a table, 0 at infinity, and its tail; UsageError where it has not reached that."""
        from scipy.interpolate import CubicSpline

        end = product if self.tail is None else self.tail
        r, u = np.array(self.r), np.array(self.u)
        shown = -float(CubicSpline(r, u)(r[-1], 1)) * r[-1] ** 2
        if not abs(shown - end) <= _UNLIKE * abs(product):
            what = f"its force at the last point, {r[-1]:g} bohr, is that of {shown:.4g}/r, not of {end:g}/r"
            raise UsageError(
                f"the table of a pair potential has no tail: {what}; let it go on, or state tail"
            )
        last = (1, -end / r[-1] ** 2)
        return CubicSpline(r, u - u[-1] + end / r[-1], bc_type=("not-a-knot", last)), end


@dataclass(frozen=True)
class PairPotential:
    """A forward model of ions with pair potentials of one's own, in place of 1/r.

    Attributes:
        laws: A law for all pairs, or one for each in the order of the ions: 0-1, 0-2, ..., 1-2, ...

    Raises:
        UsageError: For what is no potential; as the explosion is followed, for a table without a tail.

    Example:
        >>> from flowcei import PairPotential, asymptotic_momenta
        >>> screened = PairPotential.of({"yukawa": "5 bohr"})
        >>> p = asymptotic_momenta([[0, 0, 0], [1, 0, 0]], [1836.15, 1836.15], [1, 1], forward=screened)
        >>> p.round(2).tolist()  # of the energy exp(-1 / 5)
        [[-38.77, 0.0, 0.0], [38.77, 0.0, 0.0]]
    """

    laws: tuple[PairLaw, ...]

    @classmethod
    def of(cls, given: object, labels: Sequence[str] = ()) -> PairPotential:
        """Return the model of one law for all pairs, or of a table of laws by labels, as ``"c-o"``.

        A law is ``"coulomb"``, ``{"yukawa": "5 bohr"}``, ``{"r": r, "u": u}`` (bohr, hartree; with ``"tail"``
        where U is not that of the charges far away), or a `Path` of a CSV file.
        """
        if not isinstance(given, dict) or _is_law(given):
            return cls((PairLaw.parse(given),))
        pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
        ours = [next((name for name in (f"{a}-{b}", f"{b}-{a}") if name in given), "") for a, b in pairs]
        if not all(ours) or len(given) != len(ours):
            needed = ", ".join(f"{a}-{b}" for a, b in pairs)
            raise UsageError(
                f"pair_potential is of {', '.join(map(str, given))[:60]}; state each of {needed}"
            )
        return cls(tuple(PairLaw.parse(given[name]) for name in ours))

    def checked(self, charges: Floats) -> PairPotential:
        """This; UsageError unless it is of ions with charges (N,)."""
        _tabulated(self.laws, tuple(charges.tolist()))
        return self

    @property
    def name(self) -> str:
        """The laws in words; a table by its digest."""
        return f"pair potential: {'; '.join(map(str, self.laws))}"

    def follow(
        self, start: Start, accuracy: float, threads: int | None = None, *, derivatives: bool = False
    ) -> tuple[Reals, Floats, Status]:
        """As of `ForwardModel`: always in double precision, an event at a time."""
        from flowcei.physics._pairwise import fly

        if not accuracy >= _LEAST_ACCURACY:
            raise ValueError(f"accuracy is {accuracy}; with a pair potential {_LEAST_ACCURACY:g} or more")
        x, (m, q) = as_events("positions", start.positions), start.ions
        count, n = x.shape[:2]
        system_of(m, q, n)
        motion, drift = moving_start(x, start.initial_momenta, (m / m.sum())[:, None])
        tables, method = _tabulated(self.laws, tuple(q.tolist())), _method()
        momenta, status = np.empty(x.shape), np.zeros(count, np.uint8)
        jacobian = np.empty((count if derivatives else 0, 3 * n, 3 * n))
        x64, moving = x.astype(np.float64, copy=False), motion.astype(np.float64, copy=False)

        def work(rows: slice) -> None:
            out = momenta[rows], jacobian[rows], status[rows]
            fly(x64[rows], moving[rows], m, *tables, method, _SHARPER * accuracy, *out)

        in_threads(work, shares(count, _BATCH, threads), threads)
        momenta = momenta if drift is None else momenta + drift
        return momenta.astype(x.dtype, copy=False), jacobian, status


@lru_cache(16)
def _tabulated(
    stated: tuple[PairLaw, ...], charges: tuple[float, ...]
) -> tuple[tuple[NDArray[Any], ...], tuple[Floats, Floats]]:
    """Laws and tables of `_pairwise.fly`."""
    from flowcei.physics._pairwise import COULOMB, TABLE, YUKAWA

    q, pairs = np.array(charges), len(charges) * (len(charges) - 1) // 2
    laws = stated * pairs if len(stated) == 1 else stated
    if len(laws) != pairs:
        raise UsageError(f"{len(laws)} pair potentials for {pairs} pairs of ions")
    i, j = np.triu_indices(len(q), 1)
    tails, kinds, lengths = q[i] * q[j], np.full(pairs, COULOMB), np.ones(pairs)
    rows, knots, spline = np.zeros((2, pairs), np.int64), [np.empty(0)], [np.empty((0, 4))]
    for k, law in enumerate(laws):
        if law.length:
            kinds[k], lengths[k] = YUKAWA, quantity(law.length, "length")
        elif law.r:
            curve, tails[k] = law.spline(tails[k])
            rows[:, k] = len(np.concatenate(knots)), len(np.concatenate(knots)) + len(law.r)
            knots.append(curve.x)
            spline.append(np.append(curve.c.T, np.zeros((1, 4)), axis=0))
            kinds[k] = TABLE
    tables = np.concatenate(knots), np.ascontiguousarray(np.concatenate(spline))
    return (kinds, tails, lengths, *rows), tables


@lru_cache(1)
def _method() -> tuple[Reals, ...]:
    """The tableau of `_pairwise.fly`, and weights of y' of lower order."""
    c, a, bp = RKN86.arrays(np.float64)
    nodes, other = c[list(_INNER)], np.zeros(len(c))
    powers = np.arange(len(nodes))
    other[list(_INNER)] = np.linalg.solve(nodes[None, :] ** powers[:, None], 1.0 / (powers + 1.0))
    return a, c, bp, other


def canonical(given: object) -> Any:  # noqa: ANN401 (text or a table)
    """What `PairPotential.of` takes, as plain numbers and text; UsageError where it is no potential."""
    if isinstance(given, dict) and given and not _is_law(given):
        return {str(pair): PairLaw.parse(law).spec() for pair, law in given.items()}
    return PairLaw.parse(given).spec()


def laws_in_words(stated: Any) -> str:  # noqa: ANN401 (what `canonical` returns)
    """What is stated in a few words, tables by their digests."""
    if isinstance(stated, dict) and not _is_law(stated):
        return ", ".join(f"{pair} {PairLaw.parse(law)}" for pair, law in stated.items())
    return str(PairLaw.parse(stated))


def _is_law(given: Mapping[str, object]) -> bool:
    return bool({"yukawa", "table", "r"} & set(given))


def beside(given: object, folder: Path) -> object:
    """What a TOML file states, with its names of CSV files as paths from its folder."""
    if isinstance(given, str) and given != "coulomb":
        return folder / given
    if isinstance(given, dict) and "yukawa" not in given:
        return {key: beside(value, folder) for key, value in given.items()}
    return given


def _read(path: Path) -> tuple[Floats, Floats]:
    """r, bohr, and U, hartree, of a CSV file; DataError where it is none."""
    check_readable(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        header = "".join(file.readline(200).split()).lower()
        if header not in _HEADERS:
            raise DataError(f"the first line must be {' or '.join(_HEADERS)}; got {header[:40]!r}", path=path)
        rows = []
        for number, line in enumerate(file, 2):
            if line.strip():
                try:
                    at, energy = (float(cell) for cell in line.split(","))
                except ValueError as error:
                    raise DataError(
                        f"line {number} is no pair of numbers: {line[:40]!r}", path=path
                    ) from error
                rows.append((at, energy))
            if len(rows) > _MOST:
                raise DataError(f"more than {_MOST} points", path=path)
    length, unit = _HEADERS[header]
    table = np.array(rows).reshape(-1, 2)
    return table[:, 0] * length, table[:, 1] * unit
