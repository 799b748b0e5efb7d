"""`bridge doctor`: the checks are in `database`, `upstream` (sources and rooms) and `endpoints`."""
