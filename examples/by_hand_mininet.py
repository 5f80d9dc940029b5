"""The question of home_nat asked by hand, with stock Mininet: how long does a tunnel take behind a NAT at 40 ms?

    laptop --- nat --- internet --- broker

Nothing of the lab is used but its two programs, `lab broker` and `lab client`, as any broker and client would be.  Read
it beside topologies/home_nat.py, and see docs/by_hand.md for what came out of both.

    scripts/lab mn examples/by_hand_mininet.py        or as root: python3 examples/by_hand_mininet.py
"""

import json
import os
import time
from pathlib import Path

from mininet.link import TCLink
from mininet.net import Mininet
from mininet.node import Node

LAB = str(Path(__file__).resolve().parent.parent / "scripts" / "lab")

net = Mininet(controller=None, link=TCLink)
laptop, nat, internet, broker = (net.addHost(name, cls=Node, inNamespace=True) for name in
                                 ("laptop", "nat", "internet", "broker"))  # fmt: skip
net.addLink(laptop, nat, intfName1="laptop-eth0", intfName2="nat-eth0")
net.addLink(nat, internet, intfName1="nat-eth1", intfName2="inet-eth0", delay="20ms")
net.addLink(internet, broker, intfName1="inet-eth1", intfName2="broker-eth0")
net.build()

# Addresses, forwarding and routes, node by node: Mininet gives every host one address in 10/8 and nothing else.
for node in (laptop, nat, internet, broker):
    for intf in node.intfList():
        node.cmd(f"ip address flush dev {intf}")
    node.cmd("sysctl -w net.ipv4.ip_forward=1")
laptop.cmd("ip address add 192.168.0.2/24 dev laptop-eth0; ip route add default via 192.168.0.1")
nat.cmd("ip address add 192.168.0.1/24 dev nat-eth0; ip address add 192.0.2.2/24 dev nat-eth1")
nat.cmd("ip route add default via 192.0.2.1")
nat.cmd("nft add table ip nat")
nat.cmd("nft 'add chain ip nat post { type nat hook postrouting priority 100 ; }'")
nat.cmd("nft add rule ip nat post oifname nat-eth1 masquerade")
internet.cmd("ip address add 192.0.2.1/24 dev inet-eth0; ip address add 198.51.100.1/24 dev inet-eth1")
broker.cmd("ip address add 198.51.100.2/24 dev broker-eth0; ip route add default via 198.51.100.1")

environment = {**os.environ, "LAB_PASSWORD": "secret"}
Path("users.txt").write_text("ann:secret\n")
serving = broker.popen([LAB, "broker", "--pool", "2001:db8:f000::/36", "--users", "users.txt"])
deadline = time.monotonic() + 20
while ":3653" not in broker.cmd("ss -lun"):  # popen does not say when it is up, or that it failed
    if time.monotonic() > deadline or serving.poll() is not None:
        raise SystemExit(f"the broker did not start: {serving.stderr.read().decode()}")
    time.sleep(0.1)
asking = laptop.popen([LAB, "client", "198.51.100.2", "--user", "ann", "--json"], env=environment)
try:
    setup = json.loads(asking.stdout.readline())
    print(f"{setup['type']} over {setup['transport']} in {setup['total_s'] * 1000:.1f} ms")
    print("expected with 20 ms each way and 6 round trips: 240 ms")
finally:
    for program in (asking, serving):
        program.terminate()
        program.wait()
    net.stop()
    Path("users.txt").unlink()
