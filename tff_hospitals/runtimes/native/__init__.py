"""The native runtime: TFF's own executor, the reference, with a worker that is isolated and bound to our life."""
