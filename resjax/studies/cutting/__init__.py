"""Networks made shallower: which units are cut, and how many."""
