"""Where shards run. Nothing else in doppel knows."""
