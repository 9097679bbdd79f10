"""`make bench`: what a request costs, in CPU time of the service's process as the system counts it.

Absolute times are a machine's; what holds elsewhere is the ratio of contenders that took turns.
"""
