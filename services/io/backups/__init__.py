"""Backups of VMs, and the recoveries that stand on them (streams `backups-VM`); why so: docs/decisions/0045-backups.md, 0046.

model       what is decided, drawn; its parts: taking, removing (and verifying), recovering
states      the catalogue, what is under way, what is held
chain       what stands on what: pure arithmetic
evolving    how it leads on
orders      what the agents are told
views       what io knows of VMs when it decides; enriching: how a command gets that
"""
