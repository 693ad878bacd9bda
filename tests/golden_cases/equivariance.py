"""Moved images: a rise of the error of just one point, and just more; an interior off by just what is called
rounding, and just more; features as near to where they were as to where they should be; places left out;
beside initialization.
"""

import dataclasses

import numpy as np

from resjax.studies.convolution.equivariance import Equivariance
from resjax.studies.convolution.moves import DIRECTIONS

NAN = np.nan
NONE = (NAN, NAN, NAN)
# Errors of one number of pixels in four directions: their mean is 0, and their median is not.
SPREAD = np.array([-0.03, -0.025, 0.015, 0.04])


def result(
    errors=(0.1, 0.3, 0.55),
    whole=(0.12, 0.37, 0.7, 0.9),
    interior=(3e-7, 1.6e-6, NAN, NAN),
    in_place=(0.81, 0.64, 0.7, 0.62),
    stride=(1, 1, 2, 4),
    left_out=None,
    classes=10,
):
    n, shifts = len(whole), len(errors)
    errors = np.array(errors)[:, None] + np.arange(shifts)[:, None] * SPREAD
    return Equivariance(
        place=("stem", "stage1/unit1", "stage2/unit1", "stage3/unit1", "stage4/unit1")[:n],
        stride=np.array(stride),
        whole=np.array(whole),
        interior=np.array(interior),
        in_place=np.array(in_place),
        interior_share=np.array([0.51, 0.273, 0.0, 0.0, NAN])[:n],
        left_out=left_out or {},
        shift=np.arange(shifts),
        direction=tuple(DIRECTIONS),
        error=errors,
        agreement=1 - errors**2,
        logits=0.3 * np.arange(shifts) ** 1.5,
        num_examples=200,
        num_classes=classes,
        choices={},
    )


SHORT = {"whole": (0.2, 0.9), "in_place": (0.8, 0.7), "interior": (NAN, 3e-5), "stride": (1, 2)}
ERRORS = {"errors": (0.1, 0.3)}
CASES = {
    "rise just none, and just more": {
        "at": result((0.1, 0.11 - 1e-12, 0.15), **SHORT),
        "beside": result((0.1, 0.11001, 0.15), **SHORT),
    },
    "two rise, one falls": {
        "deep": result(),
        "flat": result((0.2, 0.25, 0.5), **SHORT, classes=4),
        "other": result((0.4, 0.3), **SHORT),
    },
    "interior at rounding, and beside": {
        "at": result(**SHORT | ERRORS | {"interior": (2e-5, 1e-3)}),
        "beside": result(**SHORT | ERRORS | {"interior": (1.001e-3, 4e-4)}),
        "nowhere": result(**SHORT | ERRORS | {"interior": (NAN, NAN)}),
    },
    "first and last are left out": {
        "deep": result(
            whole=(NAN, 0.3, 0.9, 0.45, NAN),
            interior=(NAN, 2e-4, 0.03, NAN, NAN),
            in_place=(NAN, 0.2, 0.7, 0.6, NAN),
            stride=(1, 2, 2, 2, 8),
            left_out={
                "stem": "its features are not a map",
                "stage4/unit1": "its map has one position",
            },
        )
    },
    "beside initialization": {
        "deep": dataclasses.replace(
            result(), initial=result((0.9, 0.9, 0.91), whole=(0.2, 0.3, 0.8, 0.61), interior=(NAN,) * 4)
        )
    },
    "no maps": {"dense": result((0.1, 0.105, 0.6), NONE, NONE, NONE, (1, 1, 1))},
}
