"""From a file's tensors to those of one network, with the names of a known layout."""
