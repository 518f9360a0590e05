"""What the processes of a pool have before their first trial, imported once, in that which they are forked from."""

# Every optimizer of torch imports it at its first step, which takes as long as importing torch itself.
import torch._dynamo

import dlrun.sweep.runner
import dlrun.sweep.start

__all__ = ["dlrun", "torch"]
