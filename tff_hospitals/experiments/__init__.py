"""Experiments: flag groups, methods, comparisons and reports; what the scripts call."""
