"""Why convolution works, or does not: sparse connections, shared parameters, shifts."""
