"""flowcei: molecular geometries from the ion momenta of Coulomb explosions.

The public names stand in `__init__.pyi` and are imported when they are first used, so that the command line
answers at once.
"""

import lazy_loader

from flowcei._version import __version__ as __version__  # not lazily: setup.cfg reads it

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
