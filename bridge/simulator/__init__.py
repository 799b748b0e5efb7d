"""The simulated upstream: a Huddle01 to develop, demonstrate, test and measure against (upstream.md section 6).

A room of its own: only the CLI opens its door, and of the rest of the bridge it knows nothing but the errors.
"""

from bridge.simulator.clock import Clock
from bridge.simulator.model import DEFAULT_API_KEY, Simulation

__all__ = ["DEFAULT_API_KEY", "Clock", "Simulation"]
