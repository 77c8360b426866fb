"""Aligned pictures of faces in shards, with a table of each face's numbers beside every shard."""
