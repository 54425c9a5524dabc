"""What an agent decided, kept and explained: the trace of decisions, and the graph of one."""
