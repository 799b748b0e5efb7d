"""LiveKit as a source."""
