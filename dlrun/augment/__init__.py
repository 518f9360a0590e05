"""Augmentations that YAML can choose by name: batched, on the device, with randomness per sample."""
