"""How claims about convolution are shown."""
