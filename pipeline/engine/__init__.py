"""The work itself, shard by shard: read, transform, judge, encode, write; on one device or several."""
