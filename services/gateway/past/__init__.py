"""The gateway's past: its views as they were at any position of the log (docs/decisions/0041-past.md).

`moment` which position is meant · `kept` snapshots at many positions, and where they lie (`store`) · `fill` makes them from the
log ·
`model` the views at one position, each made when it is looked at · `pasts` the latest that were asked for · `answering` a gateway
that answers from them.
"""
