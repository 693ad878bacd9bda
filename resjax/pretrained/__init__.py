"""Networks that others trained, as networks of this project, and back.

``load("resnet50.pth")`` reads a file of PyTorch tensors without PyTorch (``files``, ``torch_files``),
recognizes whose names they have (``layouts``, ``naming``) and puts each where it belongs (``places``,
``convert``).
``python -m resjax.pretrained FILE --workdir=DIR`` makes a workdir of it, to analyze or to train on.
``python -m resjax.pretrained.export --workdir=DIR --out=FILE`` goes back.
"""

from resjax.pretrained.files import read
from resjax.pretrained.layouts import Layout, recognize
from resjax.pretrained.load import Pretrained, load

__all__ = ["Layout", "Pretrained", "load", "read", "recognize"]
