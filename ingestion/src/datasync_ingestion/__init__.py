"""The supervisor behind `run-ingestion.sh`.

It decides what stands in for what is missing, starts it, runs Meltano, shows
how far it is, restarts what failed, and says how it ended.
"""
