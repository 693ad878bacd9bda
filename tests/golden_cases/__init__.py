"""Results made by hand for ``test_goldens``: small, uneven, and with numbers at and beside each threshold."""
