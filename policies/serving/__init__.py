"""policies/serving/: a planner in a process of its own, here or on another machine, and the link to it."""
