"""What Petastorm sees as `distutils.version`, deprecated in Python 3.11 and gone in 3.12."""

from packaging.version import Version as LooseVersion

__all__ = ["LooseVersion"]
