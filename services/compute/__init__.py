"""compute: the life of VMs and the nodes they may live on.

Owns: what a VM is, its generation, what it is wanted to do, where it runs and why there. Never does: promise memory (memory),
make devices or touch images (io), start a process (the node agents).
"""
