"""Measures the lanes of the project beside their peers, and says what was reached."""
