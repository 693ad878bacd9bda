"""Known layouts: the names of tensors in collections of networks, and the networks that they tell."""
