"""Edge maps: exact, off, with none to compare with, and with a flipped filter that gives the same; outputs
of 16 numbers, which are written into the picture, and of 17, which are not.
"""

import numpy as np

from resjax.studies.convolution.edges import FILTERS, EdgeMaps

# Two rows of three numbers from each filter; uneven, so that no order of them is another one.
FIRST = np.array([[-5.0, 2.5, 0.0], [31.25, -0.0, 7.0]])
OFF = np.array([[0, 0.5, 0], [0, 0, -0.25]])
NEARLY = np.array([[[-0.0, 4, 2], [1, 0.5, 9]], [[6, 0.0, 2], [7, 0.25, 3]]])
SECOND = np.array([[12.0, -8.0, 1.0], [-0.0, 3.0, -0.75]])


def result(output=(FIRST, SECOND), expected=None, flipped=None):
    output = np.array(output)
    rows, columns = output.shape[1:]
    names = ("vertical", "horizontal")
    return EdgeMaps(
        image=np.arange((rows + 2) * (columns + 2)).reshape(rows + 2, columns + 2) % 7,
        filter=names,
        kernel=np.stack([FILTERS[name] for name in names]),
        output=output,
        flipped=-output / 2 if flipped is None else np.array(flipped),
        expected=expected,
    )


def of_size(rows, columns):
    one = (np.arange(rows * columns).reshape(rows, columns) ** 2) % 11 - 3.4
    return result((one, 2 * one - 1))


CASES = {
    "exact": {"printed": result(expected=FIRST), "a digit": result((SECOND, FIRST), None, NEARLY)},
    "off, one of two": {
        "printed": result(expected=FIRST),
        "other": result((FIRST + OFF, SECOND), expected=FIRST),
    },
    "off, both": {
        "one": result((SECOND, FIRST), expected=FIRST),
        "another": result(expected=SECOND),
    },
    "flipped alike": {
        "printed": result(expected=FIRST),
        "alike": result(expected=FIRST, flipped=(FIRST, -SECOND)),
    },
    "nothing to compare with": {"16 numbers": of_size(2, 8), "17 numbers": of_size(1, 17)},
    "flipped at most 0": {"a digit": result((SECOND, FIRST), None, -NEARLY[::-1])},
}
