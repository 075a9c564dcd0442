"""What can become of a convolution or a residual block."""
