"""Shapes of the arguments of convolutions and poolings."""

import math

Shape = tuple[int, ...]
Pair = tuple[int, int]  # vertical and horizontal
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def that_fit(elements: int, *images: Shape) -> int:
    """How many images have at most ``elements`` numbers in each of these shapes, at least one."""
    return max(1, elements // max(map(math.prod, images)))
