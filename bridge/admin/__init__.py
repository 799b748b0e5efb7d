"""Queries for people and programs, and changes that an operator or the configuration makes."""
