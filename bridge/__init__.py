"""Presence bridge: polls rooms, keeps a log of who came and went, delivers it as signed webhooks."""

__version__ = "0.1.0"
