"""Units taken out, put in another order, or changed."""
