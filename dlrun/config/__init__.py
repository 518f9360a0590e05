"""Configuration: composing YAML into one tree, checking it, and the frozen dataclasses it becomes."""
