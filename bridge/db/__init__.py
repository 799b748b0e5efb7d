"""The database: engine, tables, migration, group commit, encryption, and the event log."""
