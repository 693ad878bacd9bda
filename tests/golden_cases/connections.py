"""Connections: rows that see one input more, or fewer, than the window, or that do not repeat once; rows
that were not compared; three and four odd layers; dense layers as large as unshared ones, and smaller.
"""

import numpy as np

from resjax.studies.convolution.connections import Connections

WINDOW = np.array([27, 9, 18, 25, 50])


def result(more=(0, 0, 0), different=(0, 0, 0), rows=(128, 100, 77), equal=(1, 3, 2), dense=9_001):
    """``more`` [layer]: inputs that a row sees beyond its window."""
    n = len(more)
    return Connections(
        layer=("stem/conv", "stage1/unit1/conv1", "stage1/unit1/conv2", "deep", "deeper")[:n],
        equal=np.array(equal),
        parameters=np.array([112, 40, 76, 104, 51])[:n],
        locally_connected=np.array([7_168, 2_560, 9_000, 1_700, 3_400])[:n],
        dense=np.array([49_216, 12_345, dense, 2_006, 4_012])[:n],
        inputs=np.array([3_072, 640, 1_280, 250, 501])[:n],
        window=WINDOW[:n],
        seen=WINDOW[:n] + more,
        different=np.array(different),
        rows=np.array(rows),
        choices={},
    )


MANY = {"rows": (128, 100, 77, 3, 12), "equal": (1, 3, 2, 1, 4)}
CASES = {
    "as the windows say, two alike and one not": {
        "first": result(),
        "second": result(equal=(1, 2, 5), dense=9_000),
        "third": result(),
    },
    "small maps, dense smaller": {
        "small": result((-1, -2, -3), (-1, -1, -1), (0, 0, 0), dense=8_999),
        "partly": result((0, 0, -4), (0, 0, -1), (128, 1, 0)),
    },
    "sees one more, or one less": {
        "more": result((0, 1, 0)),
        "less": result((0, 0, -1), rows=(128, 100, 1)),
        "clean": result((0, 0, 0), (0, 0, -1)),
    },
    "does not repeat once, four odd": {
        "once": result(different=(0, 1, -1)),
        "four": result((0, 2, 0, -1, 3), (5, 0, 0, 2, -1), **MANY),
    },
    "three odd": {"three": result((1, 0, 0, 0, 1), (0, 0, 7, 0, 0), **MANY)},
}
