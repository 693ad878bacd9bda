"""Training: the step, the optimizer, batches for the devices, the loop, checkpoints."""
