"""Links of which no sample can tell all that was asked of them.

    a --- b --- c

On the first, packets that skip the delay cannot be told from others; of the second hardly any packet arrives.
"""

from lab import Lab, Network, Run


def build(net: Network) -> None:
    net.link(net.host("a"), net.router("b"), delay_ms=1.5, reorder_pct=1)
    net.link("b", net.host("c"), delay_ms=50, loss_pct=95, rate_mbit=1)


async def scenario(net: Lab) -> None:
    pass


def check(run: Run) -> None:
    pass
