"""Layers without sharing: test errors clearly higher, lower, not different; an interval that just leaves out
0, and just not; one network.
"""

from golden_cases.equal_parameters import SPREAD, result

ZERO = [[0, 0]] * 3
SHARED = result([[0.2, 0.1], [0.6, 0.5], [0.4, 0.2]], ZERO, 6_578, spread=0 * SPREAD)
CASES = {
    "higher, lower, not different": {
        "all shared": SHARED,
        "layer 1 unshared": result([[0.3, 0.2], [0.7, 0.6], [0.5, 0.3]], ZERO, 14_578),
        "layer 2 unshared": result([[0.2, 0.11], [0.5, 0.4], [0.41, 0.2]], ZERO, 40_978),
        "layer 3 unshared": result([[0.2, 0.1], [0.6, 0.5], [0.4, 0.2]], ZERO, 70_978),
    },
    "just beside 0": {
        "all shared": SHARED,
        "layer 1 unshared": result([[0.2277, 0.1277], [0.6276, 0.5276], [0.3723, 0.1723]], ZERO),
    },
    "one network": {"all shared": SHARED},
}
