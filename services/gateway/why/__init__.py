"""Why and why not: answers made of recorded events and refusals only. Pure, but for `ask`, which reads them from the log."""
