"""Audits: what attacks get out of a run, and whether its promise of privacy holds against them.

The statistics and bounds are plain numpy and scipy; what trains or differentiates imports TensorFlow when it is called.
"""
