"""Code to put before a command, so that packages are missing as on another machine."""

from collections.abc import Sequence

__all__ = ["NO_TORCH", "hide"]

_HIDE = """\
import importlib.abc, importlib.metadata, sys
hidden = {hidden!r}
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    def find_distributions(self, context=None):
        return ()
sys.meta_path.insert(0, Hide())
real = importlib.metadata.distribution
def distribution(name):
    if name.replace("-", "_") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.distribution = distribution
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in hidden else found(name, *a)
"""


def hide(packages: Sequence[str]) -> str:
    """Make Python code that lets imports of packages fail, and their metadata be missing."""
    return _HIDE.format(hidden=packages)


# As many a login node.
NO_TORCH = hide(["torch", "faiss", "torchvision"])
