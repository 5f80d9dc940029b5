"""How long does a set-up take? Round trips, and what a lost packet costs.

    laptop --- internet --- broker --- server

A set-up is a row of questions, each waiting for its answer: over UDP four without a password, five with PLAIN, six
with DIGEST-MD5 (RFC 5572 section 4.3). TCP connects first, but reads two answers at once and waits for none at the
end. A lost packet costs no round trip but a timer: the client resends after a second, then after two, four ...
(RFC 6298), so that one loss outweighs everything else. Vary the parameters and see which of them matters.

Try:  scripts/lab run setup_time --on virtual --set transport=tcp --set mechanism=PLAIN
      scripts/lab run setup_time --on virtual --set loss_pct=10 --trials 20
"""

from typing import Literal

from lab import Lab, Network, Run


def build(
    net: Network,
    delay_ms: float = 25,
    loss_pct: float = 0,
    transport: Literal["udp", "tcp"] = "udp",
    mechanism: Literal["ANONYMOUS", "PLAIN", "DIGEST-MD5"] = "ANONYMOUS",
    initial_rto_s: float = 1,
) -> None:
    laptop = net.client("laptop")
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, internet, delay_ms=delay_ms, loss_pct=loss_pct)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    ask = net.parameters
    user, password = (None, None) if ask["mechanism"] == "ANONYMOUS" else ("ann", "secret")
    await net["laptop"].attempt_tunnel(
        "broker",
        transport=ask["transport"],
        user=user,
        password=password,
        mechanism=ask["mechanism"],
        initial_rto_s=ask["initial_rto_s"],
        min_rto_s=ask["initial_rto_s"],
    )


def check(run: Run) -> None:
    setup = run.tunnel("laptop")
    if run.parameters["loss_pct"] == 0:
        assert setup.outcome == "ready"
        assert setup.retransmissions == 0
        assert setup.total_s >= setup.round_trips * 2 * run.parameters["delay_ms"] / 1000
