"""Polling: claim due rooms (T1), ask their source, record the result (T2).

- `poller`: one poll from top to bottom, and the loop around it
- `claim`: the statements that claim due rooms
- `plan`, `record`: T2, load → plan → write
- `rooms`, `source_state`: rooms and sources as rows
- `poll_now`: one poll that an operator asked for
"""
