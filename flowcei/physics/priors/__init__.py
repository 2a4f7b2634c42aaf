"""Geometry priors: what is possible is stated, never implied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowcei import plugins
from flowcei.errors import UsageError
from flowcei.physics.priors.base import GeometryPrior
from flowcei.physics.priors.equilibrium import DisplacedPrior, NormalModesPrior
from flowcei.physics.priors.internal import InternalPrior
from flowcei.physics.priors.space import BallPrior, CubePrior, EnsemblePrior

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from flowcei.molecules.molecule import Molecule

__all__ = [
    "BallPrior",
    "CubePrior",
    "DisplacedPrior",
    "EnsemblePrior",
    "GeometryPrior",
    "InternalPrior",
    "NormalModesPrior",
    "build_prior",
]

_KINDS: dict[str, Callable[..., GeometryPrior]] = {
    "internal": lambda m, zmatrix: InternalPrior(m.labels, zmatrix),
    "displaced": lambda m, sigma: DisplacedPrior(m.equilibrium, m.kinds, sigma),
    "normal_modes": lambda m, **rest: NormalModesPrior(m.equilibrium, m.masses, **rest),
    "ball": lambda m, **rest: BallPrior(len(m), **rest),
    "cube": lambda m, **rest: CubePrior(len(m), **rest),
    "ensemble": lambda m, geometries: _ensemble(len(m), geometries),
}


def _ensemble(n_atoms: int, geometries: ArrayLike) -> EnsemblePrior:
    prior = EnsemblePrior(geometries)
    if prior.n_atoms != n_atoms:
        raise UsageError(f"an ensemble holds geometries of {prior.n_atoms} atoms; the molecule has {n_atoms}")
    return prior


def build_prior(
    molecule: Molecule, prior: str | dict[str, Any] | GeometryPrior | None = None
) -> GeometryPrior:
    """Return a prior of a molecule, or the one given.

    By name, from a table as in the molecule's TOML, from a TOML file that holds such a table, or the default
    where None. UsageError for an unknown name or kind, or parameters that do not fit; DataError for a file
    that cannot be read.

    Example:
        >>> import numpy as np
        >>> from flowcei.molecules.molecule import Molecule
        >>> ocs = Molecule.load("ocs")
        >>> build_prior(ocs, "broad").sample(2, np.random.default_rng(0)).shape
        (2, 3, 3)
    """
    if isinstance(prior, GeometryPrior):
        return prior
    table = prior if isinstance(prior, dict) else molecule.prior_table(prior)
    if not (isinstance(prior, str) and prior.endswith(".toml")):
        return _of_table(molecule, table)
    try:
        return _of_table(molecule, table)
    except UsageError as error:  # which does not know the file
        raise UsageError(f"{prior}: {error}") from error


def _of_table(molecule: Molecule, table: dict[str, Any]) -> GeometryPrior:
    parameters = {key: value for key, value in table.items() if key != "kind"}
    kind = table.get("kind")
    build = (_KINDS.get(kind) or plugins.load_plugin(plugins.PRIORS, kind)) if isinstance(kind, str) else None
    if build is None:
        kinds = ", ".join([*_KINDS, *plugins.plugin_names(plugins.PRIORS)])
        own = f"(own ones are entry points {plugins.PRIORS})"
        raise UsageError(f"a prior's kind is one of {kinds}; got {kind!r} {own}")
    try:
        made = build(molecule, **parameters)
    except UsageError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        unfit = f"a prior of kind {kind!r} does not fit its parameters {sorted(parameters)}"
        raise UsageError(f"{unfit}: {error}") from error
    if not isinstance(made, GeometryPrior):
        raise UsageError(f"the plug-in of prior {kind!r} returned {type(made).__name__}, no GeometryPrior")
    return made
