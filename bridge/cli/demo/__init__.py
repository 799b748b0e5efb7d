"""`bridge demo`: its plan, its receiver, what is shown, and the check that what was told is what was true."""
