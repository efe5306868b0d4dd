"""What `run-ingestion.sh` runs: sandbox, Meltano, restarts, progress and summary."""
