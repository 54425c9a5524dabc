"""A server of tools that the ladder may use: one mends a jam by a file that the simulation awaits, one does nothing.

semagram-bench suite=stuck checkpoint=<run> 'faults=[jam@60:/tmp/knocked,dead@60]' \\
               "tools=['mcp:python docs/examples/own_mcp_server.py /tmp/knocked']"
"""

import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("drawer")


@server.tool()
def paint() -> str:
    """Paint it, which helps nothing."""
    return "painted"


@server.tool()
def knock() -> str:
    """Knock against a joint that does not move."""
    Path(sys.argv[1]).touch()
    return "knocked"


if __name__ == "__main__":
    server.run("stdio")
