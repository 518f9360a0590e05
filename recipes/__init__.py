"""Recipes: complete experiments that override only what differs from the defaults in dlrun.configs."""
