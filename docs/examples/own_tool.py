"""Tools of one's own that the ladder may use (`policies/tools.py`): one mends a jam in simulation, one mends nothing.

semagram-bench suite=stuck checkpoint=<run> faults=[jam@60,dead@60] plugins=[docs/examples/own_tool.py] \\
               tools=[paint,knock]
"""

from semagram import register


@register("tool", "knock")
def knock(body) -> str:
    """Knock against a joint that does not move."""
    jammed = body is not None and body.has_wrapper_attr("mend") and body.get_wrapper_attr("mend")("jam")
    return "it moves again" if jammed else "nothing changed"


@register("tool", "paint")
def paint() -> str:
    """Paint it, which helps nothing."""
    return "painted"
