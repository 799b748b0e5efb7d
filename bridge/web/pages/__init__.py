"""The dashboard: server-rendered pages over the queries of the API, usable without JavaScript."""
