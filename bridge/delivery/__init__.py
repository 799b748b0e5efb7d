"""Delivery: claim due cursors (T3), sign, POST, record the result (T4).

- `sender`: one delivery from top to bottom, and the loops around it
- `claim`, `limits`: the statements that claim due cursors and redeliveries, and how many of an endpoint
- `plan`, `record`: T4, load → plan → write
- `client`, `connect`, `redact`: the POST, the check of its addresses, secrets kept out of its result
- `endpoints`, `secrets`: endpoints as rows
- `redeliver`, `replay`, `skip`, `snapshots`: redeliveries, requests for them, giving up, `room.snapshot`
"""
