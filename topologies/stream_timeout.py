"""A question and its answer leave a short-lived mapping; two seconds later they would have left a long one.

    laptop --- nat --- internet --- server

Linux has two timeouts for UDP: one for a fresh flow and a longer one for a stream (30 and 120 seconds, here 6 and 20).
A flow becomes a stream when a packet passes although the flow is more than two seconds old and was answered. A quick
exchange, however complete, stays fresh: a tunnel that is set up in 200 ms and then has nothing to say is forgotten
after 30 seconds, not 120. That decides how often the client must speak at first (RFC 5572 section 4.6; RFC 4787
REQ-5 would have any mapping live for two minutes).

From port 5001 the laptop asks once and is answered. From port 5002 it asks, is answered, and asks again after 2.2
seconds. Then both are silent for longer than the fresh timeout, and the server speaks.

Try:  scripts/lab run stream_timeout
      scripts/lab run stream_timeout --on virtual --set udp_timeout_s=30 --set udp_stream_timeout_s=120
"""

import asyncio

from lab import Lab, Network, Run


def build(net: Network, udp_timeout_s: int = 6, udp_stream_timeout_s: int = 20) -> None:
    laptop = net.client("laptop")
    nat = net.nat("nat", udp_timeout_s=udp_timeout_s, udp_stream_timeout_s=udp_stream_timeout_s)
    internet = net.router("internet")
    server = net.host("server")
    net.link(laptop, nat)
    net.link(nat, internet)
    net.link(internet, server)


async def scenario(net: Lab) -> None:
    await asyncio.gather(once(net, 5001), twice(net, 5002))


async def once(net: Lab, port: int) -> None:
    await ask(net, port)
    await net.sleep(net.parameters["udp_timeout_s"] + 1)
    await speak(net, port)


async def twice(net: Lab, port: int) -> None:
    await ask(net, port)
    await net.sleep(2.2)
    await ask(net, port)
    await net.sleep(net.parameters["udp_timeout_s"] + 1)
    await speak(net, port)


async def ask(net: Lab, port: int) -> None:
    await net["laptop"].send_udp("server", 4000, source_port=port)
    await speak(net, port)


async def speak(net: Lab, port: int) -> None:
    await net["server"].send_udp("nat", port, source_port=4000, listener="laptop", timeout_s=0.5)


def check(run: Run) -> None:
    spoken = run.datagrams("server", "nat")
    assert [said.seen_as is not None for said in spoken if said.port == 5001] == [True, False]
    assert [said.seen_as is not None for said in spoken if said.port == 5002] == [True, True, True]
