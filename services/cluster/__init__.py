"""The embedded cluster: PostgreSQL and nats-server from their wheels, the control plane and three agents on one machine,
kept running by one supervisor. `python -m services.cluster up|down|status|logs|destroy|lab`.

It owns processes, ports and one state folder (layout.py). It decides nothing about VMs, and never touches a running one:
VMs outlive agents, supervisor and `down`. Only `lab kill` and `destroy` end them.
"""
