"""The compiled runtime: the plan's parts in this process, at the machine's limit."""
