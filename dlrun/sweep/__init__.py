"""Searching hyperparameters: the space, the plan of trials, what is concluded from them, and how they are run."""
