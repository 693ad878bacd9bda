"""Import and export of networks trained elsewhere.

``load("resnet50.pth")`` reads a file of PyTorch tensors without PyTorch (``files``, ``torch_files``),
recognizes their naming scheme (``layouts``, ``naming``) and converts them (``places``, ``convert``).
``python -m resjax.pretrained FILE --workdir=DIR`` makes a workdir of it, to analyze or to continue training.
``python -m resjax.pretrained.export --workdir=DIR --out=FILE`` writes a run's network for PyTorch.
"""

from resjax.pretrained.files import read
from resjax.pretrained.layouts import Layout, recognize
from resjax.pretrained.load import Pretrained, load

__all__ = ["Layout", "Pretrained", "load", "read", "recognize"]
