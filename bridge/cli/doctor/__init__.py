"""`bridge doctor`: one file per thing that is examined (`database`, `sources`, `rooms`, `endpoints`, `machine`)."""
