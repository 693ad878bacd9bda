"""Types of the arguments of convolutions and poolings."""

Shape = tuple[int, ...]
Pair = tuple[int, int]  # vertical and horizontal
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))
