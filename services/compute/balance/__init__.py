"""The rebalancer: which VMs would sit better elsewhere, and whether that is worth their moves. Pure.

board     a cluster as columns of numbers: its score, what fits where
search    an end state that is worth its moves
plan      the moves in an order in which each fits, with reasons and gains
demand    CPU demand as it counts: smoothed
facts     what is known of the cluster, folded from the log and telemetry
model     whether to act now: hysteresis, rest after a move, at most so many at once
"""
