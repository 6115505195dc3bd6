"""Aggregators: what turns the hospitals' updates into one, one mechanism a file."""
