"""The models that a configuration can choose by name: one file each, found by ``dlrun.registry.MODELS``.

Every model maps a float image batch (B, C, H, W) to class scores (B, K), and is built as two children:
``features``, and ``head``, the last linear layer. Shared parts are in ``blocks``, those of the ResNet family in
``residual``, initialisation in ``init``.
"""
