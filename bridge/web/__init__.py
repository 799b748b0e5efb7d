"""The web server: probes and pages."""
