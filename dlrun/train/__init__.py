"""The training loop, its events, callbacks and evaluation."""
