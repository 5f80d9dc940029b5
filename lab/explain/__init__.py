"""What became of one packet: probes, what was seen of them, and the story told from that.  Pure: bytes and text in.

probe.py      a packet that can be recognised everywhere, and what answers it
evidence.py   what was seen: packets on interfaces, nft's trace, connection tracking; as data, JSON both ways
nft_trace.py  the text of `nft monitor trace`, and of /proc/net/nf_conntrack, read
story.py      evidence joined, hop by hop
tell.py       the story as text and as a table
"""
