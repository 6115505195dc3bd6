"""Installation: the doctor that examines a machine, and the smallest round that proves that it can train."""
