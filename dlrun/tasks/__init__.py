"""Tasks: what a batch means, its loss and its metrics."""
