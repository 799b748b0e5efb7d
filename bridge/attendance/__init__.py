"""Attendance from the log: reports, the source's own record, tamper evidence, privacy."""
