"""Self-tests of a run's mechanism, one kind a file: noise, independence, clipping, batches, counts, shares, ledger."""
