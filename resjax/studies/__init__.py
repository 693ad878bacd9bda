"""Studies: one file each, with the method, the result, the measuring function, the figure and the texts."""
