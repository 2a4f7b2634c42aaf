"""Potentials of one's own in place of 1/r, against Newton's equations in plain time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import oracle
import pytest

from flowcei.errors import DataError, UsageError
from flowcei.molecules.molecule import Molecule
from flowcei.physics.explosion import asymptotic_momenta, followed_momenta
from flowcei.physics.jacobian import momenta_jacobian
from flowcei.physics.pair_potential import PairPotential
from flowcei.physics.priors import build_prior

if TYPE_CHECKING:
    from pathlib import Path

OCS = Molecule.load("ocs")
IONS = OCS.masses, OCS.charges
LENGTH = 4.0  # bohr
R = np.geomspace(0.8, 900.0, 4000)


def _screened(r: np.ndarray) -> np.ndarray:
    """-U' / r of exp(-r / LENGTH) / r."""
    return np.exp(-r / LENGTH) * (1.0 / r + 1.0 / LENGTH) / r**2


def _soft(r: np.ndarray) -> np.ndarray:
    """-U' / r of 1 / sqrt(r^2 + 1)."""
    return (r**2 + 1.0) ** -1.5


CASES = {
    "yukawa": ({"yukawa": f"{LENGTH} bohr"}, _screened, 0.0),
    "table": (None, _soft, 1.0),
    "screened table": (None, _screened, 0.0),
}


def _model(name: str) -> PairPotential:
    spec, _, _ = CASES[name]
    if spec is not None:
        return PairPotential.of(spec)
    pairs = {}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b = OCS.labels[i], OCS.labels[j]
        q = float(OCS.charges[i] * OCS.charges[j])
        u = 1.0 / np.sqrt(R**2 + 1.0) if name == "table" else np.exp(-R / LENGTH) / R
        pairs[f"{b}-{a}"] = {"r": R, "u": q * u + 0.3} | ({} if name == "table" else {"tail": 0.0})
    return PairPotential.of(pairs, OCS.labels)


@pytest.fixture(scope="module")
def geometries() -> np.ndarray:
    """Return three geometries of OCS, bohr."""
    return build_prior(OCS, "broad").sample(3, np.random.default_rng(3))


def _truth(x: np.ndarray, name: str, motion: np.ndarray | None = None) -> np.ndarray:
    """Momenta (B, N, 3) of geometries by the oracle, with centred momenta at the start."""
    _, law, tail = CASES[name]
    starts = [None] * len(x) if motion is None else list(motion)
    return np.array([oracle.momenta(g, *IONS, p, law=law, tail=tail) for g, p in zip(x, starts, strict=True)])


@pytest.mark.parametrize("name", CASES)
def test_momenta_are_those_of_plain_time(name: str, geometries: np.ndarray) -> None:
    """To what is asked for, also with motion at the start."""
    model, total = _model(name), np.array([3.0, -2.0, 9.0])
    motion = 5.0 * np.random.default_rng(1).standard_normal(geometries.shape)
    drift = (OCS.masses / OCS.masses.sum())[:, None] * total
    motion -= (OCS.masses / OCS.masses.sum())[:, None] * motion.sum(axis=1, keepdims=True)
    for start, initial in ((None, None), (motion, motion + drift)):
        truth = _truth(geometries, name, start)
        for accuracy in (1e-6, 1e-9):
            how = {"forward": model, "accuracy": accuracy, "initial_momenta": initial}
            found = asymptotic_momenta(geometries, *IONS, **how) - (0.0 if start is None else drift)
            error = np.linalg.norm(found - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
            assert error.max() < max(accuracy, 3e-9)  # of the table: what it leaves out beyond 900 bohr


@pytest.mark.parametrize("name", ["yukawa", "table"])
def test_derivatives_are_differences_of_plain_time(name: str, geometries: np.ndarray) -> None:
    """Along a random direction, and of momenta themselves along all."""
    model, x, step = _model(name), geometries[:1], 1e-3
    jacobian = momenta_jacobian(x, *IONS, forward=model)[0]
    direction = np.random.default_rng(2).standard_normal(x.shape)
    ends = [_truth(x + k * step * direction, name)[0] for k in (-2, -1, 1, 2)]
    slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]).ravel() / (12 * step)
    np.testing.assert_allclose(jacobian @ direction.ravel(), slope, atol=1e-6 * np.abs(slope).max())
    every = x + step * np.eye(9).reshape(9, 3, 3) * np.array([-2, -1, 1, 2])[:, None, None, None]
    p = asymptotic_momenta(every.reshape(-1, 3, 3), *IONS, forward=model, accuracy=1e-11).reshape(4, 9, 9)
    differences = (p[0] - 8 * p[1] + 8 * p[2] - p[3]) / (12 * step)
    np.testing.assert_allclose(jacobian, differences.T, atol=1e-6 * np.abs(jacobian).max())


def test_coulomb_is_a_pair_potential(geometries: np.ndarray) -> None:
    """1/r by both ways, in either precision of positions; each event as if alone."""
    model = PairPotential.of("coulomb")
    p = asymptotic_momenta(geometries, *IONS, forward=model, accuracy=1e-9)
    np.testing.assert_allclose(p, asymptotic_momenta(geometries, *IONS, accuracy=1e-10), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        asymptotic_momenta(geometries[2], *IONS, forward=model, accuracy=1e-9), p[2]
    )
    single = asymptotic_momenta(geometries.astype(np.float32), *IONS, forward=model)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, p, rtol=1e-4, atol=1e-3)


def test_what_cannot_be_followed_is_named() -> None:
    """Nearer than the table, bound in a well, coincident, not finite: the reason."""
    r = np.linspace(1.5, 400.0, 4000)
    well = 1.0 / r - 3.0 * np.exp(-((r - 2.0) ** 2))
    model = PairPotential.of({"r": r, "u": well})
    m, q = [1836.0, 1836.0], [1, 1]
    x = np.array([[[0.0, 0, 0], [0, 0, d]] for d in (5.0, 1.0, 2.0, 0.0, np.nan)])
    found = followed_momenta(x, m, q, forward=model)
    assert np.isfinite(found).all(axis=(1, 2)).tolist() == [True, False, False, False, False]
    reasons = {1: "nearer than the first point", 2: "do not fly apart", 3: "coincident", 4: "not finite"}
    for row, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            asymptotic_momenta(x[row], m, q, forward=model)
    with pytest.raises(ValueError, match="state it, or a forward model"):
        asymptotic_momenta(x[0], m, q, forward=model, build_up="5fs")


GOOD = [1.0, 2, 3, 4, 5, 6, 7, 8, 900]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("yukawa", "not understood"),
        ("co.csv", "not understood"),
        ({"yukawa": 5}, "write a positive number"),
        ({"yukawa": "5 fs"}, "no length"),
        ({"yukawa": "5 bohr", "r": [1]}, "not understood"),
        ({"r": GOOD, "u": GOOD[:3]}, "as many U"),
        ({"r": GOOD[:3], "u": GOOD[:3]}, "8 to"),
        ({"r": [*GOOD[:-1], 7.5], "u": GOOD}, "row 9 does not"),
        ({"r": [0.0, *GOOD[1:]], "u": GOOD}, "row 1 does not"),
        ({"r": GOOD, "u": [*GOOD[:-1], float("nan")]}, "not finite"),
        ({"r": GOOD, "u": GOOD, "tail": "none"}, "must be a number"),
        ({"r": GOOD, "u": "1/r"}, "as many U"),
        ({"c-o": "coulomb", "c-s": "coulomb"}, "state each of"),
        ({"c-o": "coulomb", "c-s": "coulomb", "o-h": "coulomb"}, "state each of"),
        ({}, "state each of"),
        (7, "not understood"),
        ({"r": [0.5 * k for k in range(2, 12)], "u": [2 / k**3 for k in range(2, 12)]}, "no tail"),
    ],
)
def test_what_is_no_potential_is_refused_in_one_line(given: object, word: str) -> None:
    """Never read as a formula, never guessed."""
    with pytest.raises(UsageError, match=word) as refusal:
        PairPotential.of(given, OCS.labels).checked(OCS.charges)
    assert "\n" not in str(refusal.value)


def test_a_table_is_read_with_its_units(tmp_path: Path) -> None:
    """Of bohr and hartree, or of angstrom and eV; lines that are none are named."""
    r = np.geomspace(0.9, 400.0, 300)
    atomic, other = tmp_path / "au.csv", tmp_path / "other.csv"
    atomic.write_text("r_bohr, U_hartree\n" + "\n".join(f"{a!r},{1 / a!r}" for a in r.tolist()) + "\n")
    lines = (f"{a * 0.529177210903!r},{27.211386245988 / a!r}" for a in r.tolist())
    other.write_text("r_angstrom,U_eV\n" + "\n".join(lines) + "\n")
    x, ions = [[0.0, 0, 0], [0, 0, 2.0], [0, 3.0, 0.7]], ([1836.0] * 3, [1, 1, 1])
    expected = asymptotic_momenta(x, *ions, accuracy=1e-9)
    for path in (atomic, other):
        found = asymptotic_momenta(x, *ions, forward=PairPotential.of(path), accuracy=1e-9)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    for text, word in (
        ("r,u\n1,1\n", "first line must be"),
        ("r_bohr,u_hartree\n1,1\n2,x\n", "line 3 is no pair"),
    ):
        atomic.write_text(text)
        with pytest.raises(DataError, match=word):
            PairPotential.of(atomic)
    assert PairPotential.of(other).name != PairPotential.of("coulomb").name
