"""What makes a CPU fast: its forms of the convolution, cores as devices, quick compilation."""
