"""Sources of presence: the protocol, and a folder for each kind."""
