"""One node of a network that is up, with all that can be done on it."""

from __future__ import annotations

from lab.scenario.boxes import BoxNode
from lab.scenario.traffic import TrafficNode
from lab.scenario.tunnels import TunnelNode


class LabNode(TunnelNode, BoxNode, TrafficNode):
    """One node of a network that is up."""

    async def stop(self) -> None:
        """Stop the node's programs; safe to call twice."""
        await self.disconnect_tunnel()
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        if self._broker is not None:
            await self._broker.stop()
            self._broker = None
