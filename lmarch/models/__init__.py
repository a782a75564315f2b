"""Layers, the block, the stack, and the architectures as thin wiring."""
