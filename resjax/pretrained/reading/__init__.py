"""From a file or folder to its tensors and values; nothing in it is executed."""
