"""flowcei: molecular geometries from the ion momenta of Coulomb explosions.

The public names stand in `__init__.pyi` and are imported when they are first used, so that the command line
answers at once.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("flowcei")  # of setup.cfg

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
