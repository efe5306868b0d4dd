"""Sample events: the feed, what may be wrong with it, and the rows that a table should hold."""
