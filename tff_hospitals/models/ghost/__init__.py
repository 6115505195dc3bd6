"""Clipped gradient sums with one backward pass: which layers are handled how, and the rules of each kind."""
