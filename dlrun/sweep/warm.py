"""What the processes of a pool have before their first trial, imported once, in that which they are forked from."""

import dlrun.sweep.runner
import dlrun.sweep.start

__all__ = ["dlrun"]
