"""Packets of every transition mechanism of RFC 7123, and of innocent traffic beside them.  Bytes only.

`packets` builds headers, `mechanisms` says which packets there are (`MECHANISMS`).  `lab.actors.generators` sends
them from a node and counts what arrives.
"""
