"""Stores in shards: a tar of files and a table of numbers each, streamed to the disk, and resumed after a kill."""
