"""What is only read: one file per kind of record that is listed, and what they share in `listing`."""
