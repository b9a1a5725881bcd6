"""The watchdog of a node (docs/watchdog.md): a small process beside the agent that keeps the node's lease, and what must not run
without it. It lives whether or not the agent does. Standard library only, so that nothing else can break it and it starts in
milliseconds."""
