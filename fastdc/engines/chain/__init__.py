"""Passes through chains of layers in closed form, in plain torch: what kernels are measured by, on any device."""
