"""Training: the one loop, evaluation, checkpoints and stopping rules."""
