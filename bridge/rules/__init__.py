"""Rules without I/O, clock or chance: the files to read first."""
