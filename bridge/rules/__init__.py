"""Rules without I/O, clock or chance: the files to read first.

- `presence`: joins, leaves and sessions, from one snapshot to the next; which `joinTime` is plausible
- `polling`: when a room is polled next, when a whole source is paused
- `delivery`: the meaning of a response (410, for example), retries, dead letters, the circuit, disabling
- `egress`: the addresses that may be called
- `signing`: secrets, signatures, reserved headers
- `rate`, `backoff`, `chain`: request budgets, waiting, the hashes of a log
"""
