"""robot/safety/: the gate between every goal and every command, what stops an arm, and how it comes to rest."""
