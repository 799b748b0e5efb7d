"""Polling: claim due rooms (T1), ask their source, record what was seen (T2)."""
