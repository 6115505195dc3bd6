"""The four parts of a learning process as pure TensorFlow functions, and their TFF wrapping.

Each piece of mathematics is written once, as a function of tensors. `tff_adapters` wraps the pieces as TFF's
`DistributionProcess`, `ClientWorkProcess`, `AggregationFactory` and `FinalizerProcess`; the compiled runtime calls
the same functions directly.
"""
