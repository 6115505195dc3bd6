"""Foundations: validators, named random streams, files written whole or not at all, a quiet start. No TensorFlow."""
