"""The embedded PostgreSQL: its programs, its data directory, and the server."""
