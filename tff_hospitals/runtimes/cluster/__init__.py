"""The cluster runtime: chunks of the cohort on the machines of a Ray cluster."""
