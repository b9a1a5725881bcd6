"""The lease of a node as the node holds it (docs/watchdog.md): its figures, the pure machine that holds it, its records on shared
pools, and the words of agent and watchdog. Standard library only, and little of that: the watchdog is to start in milliseconds."""
