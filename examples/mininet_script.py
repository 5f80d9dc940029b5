"""A Mininet script of one's own, with the lab's boxes in it.

    laptop --- s1 --- home --- filter --- broker --- server
                      NAT     firewall    TSP        IPv6 only

Run it as anybody, in namespaces that go with it:  scripts/lab mn examples/mininet_script.py
Or in the machine's own network, as root:          sudo PYTHONPATH=. python3 examples/mininet_script.py
"""

from mininet.net import Mininet

from lab.mininet import CheckedLink, Firewall, Host, NatBox, TspBroker, TspClient, check_links, default_switch

net = Mininet(controller=None, switch=default_switch(), link=CheckedLink)
laptop = net.addHost("laptop", cls=TspClient, ip="192.168.0.2/24", defaultRoute="via 192.168.0.1")
switch = net.addSwitch("s1")
home = net.addHost("home", cls=NatBox, mapping="EIM", filtering="APDF", outside="filter", defaultRoute="via 192.0.2.2")
filter_ = net.addHost("filter", cls=Firewall, outside="broker")
broker = net.addHost(
    "broker",
    cls=TspBroker,
    pool="2001:db8:f000::/36",
    users={"ann": "secret"},
    routes=["192.0.2.0/30 via 198.51.100.1"],
)
server = net.addHost("server", cls=Host, ip=None, ip6="2001:db8::2/64", defaultRoute6="via 2001:db8::1")

net.addLink(laptop, switch)
net.addLink(switch, home, params2={"ip": "192.168.0.1/24"})
net.addLink(home, filter_, params1={"ip": "192.0.2.1/30"}, params2={"ip": "192.0.2.2/30"})
net.addLink(filter_, broker, bw=100, params1={"ip": "198.51.100.1/30"}, params2={"ip": "198.51.100.2/30"})
net.addLink(broker, server, params1={"ip6": "2001:db8::1/64"})

net.start()
try:
    for row in check_links(net):
        print(row["direction"], "asked", row["requested"], "does", row["achieved"])

    tunnel = laptop.connect_tunnel(broker, user="ann", password="secret")
    print("tunnel:", tunnel.type, "seen by the broker as", tunnel.seen_by_broker)
    print("ping:", laptop.ping(server).received, "of 3 answered; back:", server.ping(laptop).received, "of 3")
    laptop.disconnect_tunnel()

    filter_.set_policy("reject_udp_3653")
    print("with the filter:", laptop.attempt_tunnel(broker).outcome)
    print("stopped:", filter_.counters()["reject_udp_3653"][0])
finally:
    net.stop()
