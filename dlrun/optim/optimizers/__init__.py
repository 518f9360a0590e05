"""Optimizers, one idea per file. Each takes parameter groups, so the decay rule is decided in one place
(:mod:`dlrun.optim.groups`).

Runtime arguments: ``params``, the groups; ``fused``, which asks for the single-kernel implementation and is true where
torch has one for all parameters; ``hidden``, the weight matrices between the input layer and the head.
"""
