"""memory: what each node's memory is promised to, one ledger a node.

Owns: capacity, reservations, the overhead of a VM's process. Never does: choose a node (compute), move or stop a VM.
"""
