"""Learning-rate schedules: pure functions of the step that give the factor on the optimizer's lr.

A registered schedule is called with the number of steps it has to fill (after the warmup) and, if it asks for it, the
:class:`~dlrun.timeline.Timeline` of the training seen from its first step; it returns ``factor(step)`` for ``step`` =
0 .. total_steps - 1. Being pure, a resumed run is at the right rate without any state, and a curve can be drawn without
training. ``plateau`` alone looks at what was measured, and its state is in the checkpoint.

A schedule that comes down reaches its end at the last step of the training, total_steps - 1, and not one step after.
"""

from dlrun.optim.schedules.base import MovingMomentum, Schedule, WarmupShape, Watching, momentum_of, with_warmup

__all__ = ["MovingMomentum", "Schedule", "WarmupShape", "Watching", "momentum_of", "with_warmup"]
