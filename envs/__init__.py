"""envs/: tasks as Gymnasium environments with one observation, one action range, one meaning of an end."""
