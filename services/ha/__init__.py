"""ha: decides whether nodes and VMs are alive, and what proves that they are not. It never runs or places a VM: compute does, upon
its events. It never touches a node: agents and their watchdogs do.

states lease main     what is recorded of nodes and of the whole: streams `lease-NODE` and `ha-main`
grantor               the stepper that grants, suspects, proves and declares; beside it signs, taking, judging, rules, pathways
"""
