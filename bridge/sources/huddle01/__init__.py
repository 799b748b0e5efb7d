"""Huddle01 as a source."""
