"""ha: decides whether nodes and VMs are alive, and what proves that they are not. It never runs or places a VM: compute does, upon
its events."""
