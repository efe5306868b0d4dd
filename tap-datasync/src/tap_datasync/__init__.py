"""Singer tap for the DataSync analytics events API."""

__version__ = "0.1.0"
