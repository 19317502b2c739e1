"""The gate between sampled shards and a published dataset."""
