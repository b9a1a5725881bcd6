"""The contract of the node agent: orders, questions, facts, telemetry over the real bus, with nobody but its watchdog beside it."""
