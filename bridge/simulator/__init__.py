"""The simulated upstream: a Huddle01 to develop, demonstrate and measure against.

A package of its own: only the CLI imports it, and it imports nothing of the bridge but the errors and the web server.
"""

from bridge.simulator.simulation import DEFAULT_API_KEY, Simulation

__all__ = ["DEFAULT_API_KEY", "Simulation"]
