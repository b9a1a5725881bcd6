"""Who the services are, by name. One list for all who start, greet, ask or watch them."""

from __future__ import annotations

SERVICES = ("compute", "memory", "io", "ha")
"""those that decide: each has streams of its own (proto.families)"""
ORDERING = ("compute", "memory", "io")
"""those of them that order agents: each is greeted after an agent's start, and then repeats its orders"""
RELAY = "relay"
"""decides nothing, and publishes what is in the log"""
CONTROL = (*SERVICES, RELAY)
"""all that `python -m services.host` can run, and a cluster has beside its gateway"""
