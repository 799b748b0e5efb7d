"""Delivery: claim due cursors (T3), sign, POST, record what came of it (T4)."""
