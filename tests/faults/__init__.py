"""Faults injected on purpose: each function tries some, and says how many were noticed, recovered, lost.

The short forms run in `make test` (test_faults.py), the long ones by `make torture`, which keeps their table.
"""
