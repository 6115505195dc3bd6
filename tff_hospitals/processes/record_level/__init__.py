"""Steps inside a hospital: how a batch becomes a step's gradients, one record-level mechanism a file."""
