"""The defaults and option groups, composed by Hydra. Every option of every component is listed here."""
