"""A local DataSync API with its limits and failure modes, and an embedded PostgreSQL."""
