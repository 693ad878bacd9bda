"""Speed on CPUs: forms of the convolution, batches shared by cores, fast and cached compilation."""
