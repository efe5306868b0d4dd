"""The DataSync API: access, cursors, pages, faults, and the HTTP server."""
