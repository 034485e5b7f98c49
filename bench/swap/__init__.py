"""`make bench-swap`: what clients see while a model is changed, beside Triton and MLServer."""
