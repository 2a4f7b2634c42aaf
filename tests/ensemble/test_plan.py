"""How many events a wanted error takes: against closed forms, and against what simulated estimators reach."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import brentq, minimize

import flowcei
from flowcei.cli.main import cli
from flowcei.ensemble.coordinates import chart_of
from flowcei.ensemble.promise import Coordinates, measured, share_error
from flowcei.ensemble.wants import Want
from flowcei.errors import FlowceiError
from flowcei.evaluation.floor import weighted_slopes
from flowcei.physics.explosion import COULOMB, asymptotic_momenta
from flowcei.physics.priors import build_prior

OCS = flowcei.Molecule.load("ocs")
LONGER = """kind = "internal"
zmatrix = [
  { atom = "c" },
  { atom = "o", from = "c", length = { normal = [2.19, 0.15] } },
  { atom = "s", from = "c", length = { normal = [3.3, 0.15] }, angle_to = "o", angle = { bend = 8.5 } },
]
"""


def frame(widths: np.ndarray, bends: np.ndarray) -> Coordinates:
    """Coordinates of given widths without symmetries."""
    source = np.concatenate([np.arange(len(widths)), np.flatnonzero(bends)])
    turn = np.eye(len(source))
    for k in np.flatnonzero(bends):
        both = np.flatnonzero(source == k)
        turn[np.ix_(both, both)] = [[0.0, -1.0], [1.0, 0.0]]
    images = np.array([np.linalg.matrix_power(turn, k) for k in range(4)])
    return Coordinates(source, widths[source], images, bends)


def test_errors_of_one_coordinate_are_those_of_the_closed_form() -> None:
    """sqrt(s^2 + v) and (s^2 + v) / (s sqrt 2); of a bend, two coordinates of one width; two at once."""
    s, v = np.array([0.1, 3.0]), np.array([0.02, 4.0])
    own = frame(s, np.array([False, True]))
    told = own.information(np.tile(np.diag(1.0 / v), (7, 1, 1)), np.ones((7, 2)))
    mean, width = own.errors(told, np.eye(3))
    assert mean[0] == pytest.approx(np.sqrt(s[0] ** 2 + v[0]))
    assert width[0] == pytest.approx((s[0] ** 2 + v[0]) / (s[0] * np.sqrt(2.0)))
    bend = (s[1] ** 2 + v[1]) / (2.0 * s[1])
    assert mean[1] == pytest.approx(np.sqrt(np.pi / 2.0) * bend)
    assert width[1] == pytest.approx(np.sqrt(2.0 - np.pi / 2.0) * bend)
    none = own.errors(told * np.array([0.0, 1.0, 1.0]) * np.array([[0.0], [1.0], [1.0]]), np.eye(3))
    assert np.isinf([none[0][0], none[1][0]]).all()
    assert none[1][1] == pytest.approx(width[1])


def test_estimators_reach_what_is_promised() -> None:
    """Mean and width of two correlated coordinates, whose noise differs between events, by likelihood."""
    rng, events, runs = np.random.default_rng(0), 400, 100
    law = np.array([[1.0, 0.5], [0.5, 1.0]])
    noise = np.array([[[0.3, 0.1], [0.1, 0.2]], [[2.0, -1.0], [-1.0, 3.0]]])[np.arange(events) % 2]
    found = []
    z = rng.standard_normal((runs, events, 2))
    for one in z:
        y = np.einsum("eij,ej->ei", np.linalg.cholesky(law + noise), one)

        middle = [y[k::2].mean(axis=0) for k in range(2)]
        square = [np.cov(y[k::2].T, bias=True) for k in range(2)]

        def loss(v: np.ndarray, middle: list = middle, square: list = square) -> float:
            root, out = np.array([[np.exp(v[2]), 0.0], [v[4], np.exp(v[3])]]), 0.0
            for m, c, own in zip(middle, square, noise, strict=False):
                total = root @ root.T + own
                out += np.trace(np.linalg.solve(total, c + np.outer(m - v[:2], m - v[:2])))
                out += np.linalg.slogdet(total)[1]
            return float(out)

        best = minimize(loss, [0.0, 0.0, 0.0, -0.1, 0.5], method="BFGS", options={"gtol": 1e-4}).x
        found.append([*best[:2], np.exp(best[2]), np.hypot(np.exp(best[3]), best[4])])
    promised = np.concatenate(frame(np.ones(2), np.zeros(2, bool)).errors(np.linalg.inv(noise), law))
    assert np.std(found, axis=0) * np.sqrt(events) == pytest.approx(promised, rel=0.15)


def test_shares_reach_what_is_promised() -> None:
    """The most likely share of two normals that overlap, over many runs."""
    rng, share, events = np.random.default_rng(1), 0.3, 500
    v = 0.6**2
    laws = [(np.zeros(1), np.eye(1)), (np.array([2.0]), 0.5 * np.eye(1))]
    points = [m + np.sqrt(c[0, 0]) * rng.standard_normal((2000, 1)) for m, c in laws]
    one = share_error(laws, points, [np.full((2000, 1, 1), 1.0 / v)] * 2, share, rng)
    found = []
    for _ in range(300):
        second = rng.random(events) < share
        y = np.where(second, 2.0, 0.0) + np.sqrt(np.where(second, 0.5, 1.0) + v) * rng.standard_normal(events)
        p = [np.exp(-0.5 * (y - m[0]) ** 2 / (c[0, 0] + v)) / np.sqrt(c[0, 0] + v) for m, c in laws]
        score = lambda f, p=p: ((p[1] - p[0]) / (f * p[1] + (1.0 - f) * p[0])).sum()  # noqa: E731
        found.append(brentq(score, 1e-3, 0.999))
    assert np.std(found) * np.sqrt(events) == pytest.approx(one, rel=0.12)
    far = [laws[0], (np.array([90.0]), np.eye(1))]
    apart = share_error(far, [points[0], points[0] + 90.0], [np.full((2000, 1, 1), 4.0)] * 2, share, rng)
    assert apart == pytest.approx(np.sqrt(0.3 * 0.7))


@pytest.mark.parametrize("lost", [None, 1])
def test_information_is_that_of_fits_to_noisy_momenta(lost: int | None) -> None:
    """Bonds and angle of one geometry, fitted to 3,000 noisy explosions of it, with an ion lost as well."""
    prior, rng = build_prior(OCS, "equilibrium"), np.random.default_rng(2)
    chart = chart_of(OCS, prior)
    ions = OCS.masses, OCS.charges
    x = prior.sample_with(
        1, rng, {(0, 1): np.array([2.2]), (0, 2): np.array([3.0]), (1, 0, 2): np.array([170.0])}
    )
    x -= OCS.masses / OCS.masses.sum() @ x[0]
    exact = np.asarray(asymptotic_momenta(x, *ions, accuracy=1e-9), float)
    stated = flowcei.Experiment(noise="0.3%", spread=1.0, efficiency=0.9)
    which = np.zeros((1, 3), bool)
    which[0, lost if lost is not None else []] = True
    whitening = stated.of(OCS).whitening(exact, which)
    told = measured(chart, OCS, x, whitening, COULOMB, x)[0]
    # The same by hand: covariance of all nine momenta, rows that are there, and Gauss-Newton to the end.
    share, sigma = OCS.masses / OCS.masses.sum(), 0.003 * np.sqrt((exact**2).mean())
    total = np.kron(sigma**2 * np.eye(3) + np.outer(share, share), np.eye(3))
    rows = np.flatnonzero(np.repeat(~which[0], 3))
    root = np.linalg.cholesky(np.linalg.inv(total[np.ix_(rows, rows)])).T
    y = exact.ravel() + rng.multivariate_normal(np.zeros(9), total, 3000)
    step = 1e-4 * np.eye(9).reshape(-1, 3, 3)
    slope = asymptotic_momenta(x + step, *ions, accuracy=1e-9) - asymptotic_momenta(
        x - step, *ions, accuracy=1e-9
    )
    slope = root @ slope.reshape(9, 9).T[rows] / 2e-4
    fit = np.repeat(x, len(y), axis=0)
    for _ in range(6):
        off = (y - np.asarray(asymptotic_momenta(fit, *ions, accuracy=1e-7)).reshape(-1, 9))[:, rows] @ root.T
        fit += (off @ np.linalg.pinv(slope, rcond=1e-6).T).reshape(-1, 3, 3)
    spread = np.cov(chart.values(fit).T)
    assert np.sqrt(np.diag(spread)) == pytest.approx(np.sqrt(np.diag(np.linalg.inv(told))), rel=0.06)


def test_what_a_law_leaves_open_is_known_as_the_prior_knows_it() -> None:
    """CH2O out of its plane, beside the posterior of a normal prior of positions, in closed form."""
    ch2o = flowcei.Molecule.load("ch2o")
    prior, rng = build_prior(ch2o, {"kind": "displaced", "sigma": 0.03}), np.random.default_rng(2)
    chart, x = chart_of(ch2o, prior), ch2o.equilibrium[None]
    x = x - ch2o.masses / ch2o.masses.sum() @ x[0]
    exact = np.asarray(asymptotic_momenta(x, ch2o.masses, ch2o.charges), float)
    lost = np.array([[False, False, True, True]])
    whitening = flowcei.Experiment(noise="3%", spread=1.0).of(ch2o).whitening(exact, lost)
    told = measured(chart, ch2o, x, whitening, COULOMB, prior.sample(20_000, rng))[0]
    slope = weighted_slopes(ch2o, x, whitening, COULOMB)[0]
    turns = np.stack([np.cross(axis, x[0] - x[0].mean(axis=0)).ravel() for axis in np.eye(3)], axis=1)
    moves = np.concatenate([turns, np.tile(np.eye(3), (4, 1))], axis=1)
    shape = np.eye(12) - moves @ np.linalg.pinv(moves)
    step = 1e-4 * np.eye(12).reshape(-1, 4, 3)
    by_x = (chart.values(x + step) - chart.values(x - step)).T / 2e-4
    sigma = prior.spec()["sigma"]
    after = by_x @ np.linalg.pinv(slope.T @ slope + shape / sigma**2, rcond=1e-13) @ by_x.T
    oracle = np.linalg.inv(after) - np.linalg.inv(by_x @ shape @ by_x.T) / sigma**2
    size = np.sqrt(np.diag(oracle))
    assert told / size / size[:, None] == pytest.approx(oracle / size / size[:, None], abs=0.04)


def test_the_command_plans_and_checks(tmp_path: Path) -> None:
    """Table, picture and a check by simulated events, whose errors are as promised; lost ions cost events."""
    stated = tmp_path / "e.toml"
    stated.write_text('noise = "1%"\nspread = 1.0\nefficiency = 0.6\n')
    words = [
        "plan",
        "ocs",
        "--want",
        "c-s 0.1",
        "--want",
        "width:c-s 0.03 angstrom",
        "--want",
        "share:stretched 0.1",
    ]
    out = ["-o", str(tmp_path / "plan"), "--json", "--experiment", str(stated)]
    (second := tmp_path / "longer.toml").write_text(LONGER)
    checked = [*words[:4], "--want", f"share:{second} 0.2", "--want", f"share:{second}=0.001 0.2", *out]
    run = CliRunner().invoke(cli, [*checked, "--check", "bundled"], catch_exceptions=False)
    *told, none = json.loads(run.stdout)["check"]
    for row in told:
        assert row["reached"] == pytest.approx(row["promised"], rel=0.5)
        assert abs(row["away"]) < 3.5
    assert abs(none["away"]) < 3.5  # of few events none is of the second prior
    run = CliRunner().invoke(cli, [*words, *out, "--missing", "1", "--overwrite"], catch_exceptions=False)
    table = json.loads(run.stdout)["table"]
    assert [row["missing"] for row in table] == [0, 1] * 3
    assert table[3]["events"] >= table[2]["events"]
    assert table[3]["molecules"] < table[2]["molecules"]
    assert (tmp_path / "plan" / "plan.png").stat().st_size > 10_000
    ends = [one.error(one.events) for one in flowcei.plan("ocs", ["width:c-s 0.01"], seed=0).promises]
    assert ends == pytest.approx([0.01], rel=0.01)


@pytest.mark.parametrize(
    ("want", "how", "words"),
    [
        ("c-x 0.02", {}, "no coordinate 'c-x'"),
        ("c-s 0", {}, "above 0"),
        ("c-s", {}, "it must be such as"),
        ("depth:c-s 0.1", {}, "it must be such as"),
        ("c-s 0.1 deg", {}, "bohr or angstrom"),
        ("share:stretched=1.5 0.1", {}, "between 0 and 1"),
        ("c-s 1e-9", {}, "no number of events"),
        ("c-s 0.1", {"prior": "broad"}, "without a middle"),
        ("c-s 0.1", {"missing": 1}, "efficiency"),
        ("c-s 0.1", {"noise": "0.1%..1%"}, "one level"),
        ("c-s 0.1", {"prior": {"kind": "ensemble", "geometries": [OCS.equilibrium.tolist()]}}, "density"),
    ],
)
def test_what_is_no_plan_gets_one_line(want: str, how: dict[str, object], words: str) -> None:
    """Unknown, senseless and unreachable wishes."""
    with pytest.raises(FlowceiError, match=words) as error:
        flowcei.plan(OCS, [want], seed=0, **how)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_wishes_are_read() -> None:
    """Kinds, units and shares."""
    assert Want.of("c-s 0.02") == Want("mean", "c-s", 0.02)
    assert Want.of("width:c-s 0.02 angstrom") == Want("width", "c-s", 0.02, "angstrom")
    assert Want.of("share:a/b.toml=0.3 0.02") == Want("share", "a/b.toml", 0.02, share=0.3)
