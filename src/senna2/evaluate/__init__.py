"""Consistency, open loop, closed loop and control, by the definitions of `metrics.DEFINITIONS`.

Sees only `Samples`, `Plans` and `Rollout`; it neither drives nor trains.
"""
