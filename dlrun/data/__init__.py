"""Data: the sets that YAML can choose by name, splits, statistics, and the loaders of batches."""
