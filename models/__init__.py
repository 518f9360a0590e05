"""The models that a configuration can choose by name: one file each, found by ``dlrun.registry.MODELS``.

Every model maps a float image batch (B, C, H, W) to class scores (B, K), and is built as two children:
``features``, and ``head``, the last linear layer. Layers that torch has not are in ``layers``, shared parts in
``blocks``, those of the ResNet family in ``residual``, initialisation in ``init``, and what the options choose (norm,
activation, pool, dropout) in ``options``.
"""
