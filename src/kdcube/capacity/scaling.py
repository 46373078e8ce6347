"""What Application Auto Scaling does to the number of tasks, as far as AWS says it.

Target tracking keeps a signal at a target by two alarms. Sources: its API reference (TargetTrackingScalingPolicy-
Configuration: cooldowns, 300 s by default for ECS services) and user guide ("How target tracking scaling works":
scale-out in proportion to the signal, scale-in more gradually, nothing while data are missing).

- Above the target for 3 datapoints of a minute†: desired = ceil(capacity x signal / target). While a scale-out cooldown
  runs, ``capacity`` is that before the scale-out which began it, so that only a larger one adds to it.
- Below 90 %† of the target for 15 datapoints†: fewer, in the same proportion but gradually; how gradually is not
  published, here at most ``scale_in_share`` of the tasks each time. A scale-in waits for its cooldown, and a scale-out
  ends that.
- Without a datapoint nothing happens.

† Seen in the alarms that AWS makes for ECS services; not in its documentation.
"""

from __future__ import annotations

import math
from collections import deque

from kdcube.capacity.scenario import Scaling

DATAPOINTS_OUT = 3
DATAPOINTS_IN = 15
IN_BELOW = 0.9


class TargetTracking:
    """One policy. ``desired`` is how many tasks there should be."""

    def __init__(self, settings: Scaling, tasks: int) -> None:
        self._settings = settings
        self.desired = tasks
        self._seen: deque[float] = deque(maxlen=DATAPOINTS_IN)
        self._before_out = tasks
        self._out_until = self._in_until = -math.inf

    def observe(self, now_s: float, value: float | None) -> int:
        """A period is over, in which the signal was ``value``; None: it is not known. Gives ``desired``."""
        if value is None:
            return self.desired
        self._seen.append(value)
        seen, target = list(self._seen), self._settings.target
        if len(seen) >= DATAPOINTS_OUT and min(seen[-DATAPOINTS_OUT:]) > target:
            self._scale_out(now_s, value / target)
        elif len(seen) == DATAPOINTS_IN and max(seen) < target * IN_BELOW:
            self._scale_in(now_s, value / target)
        return self.desired

    def _scale_out(self, now_s: float, ratio: float) -> None:
        if now_s >= self._out_until:
            self._before_out = self.desired
        wanted = min(self._settings.max_tasks, math.ceil(self._before_out * ratio - 1e-9))
        if wanted > self.desired:
            self.desired = wanted
            self._out_until = now_s + self._settings.scale_out_cooldown_s
            self._in_until = -math.inf

    def _scale_in(self, now_s: float, ratio: float) -> None:
        if now_s < max(self._in_until, self._out_until):
            return
        gradual = self.desired - max(1, math.floor(self.desired * self._settings.scale_in_share))
        wanted = max(self._settings.min_tasks, math.ceil(self.desired * ratio - 1e-9), gradual)
        if wanted < self.desired:
            self.desired = wanted
            self._in_until = now_s + self._settings.scale_in_cooldown_s
