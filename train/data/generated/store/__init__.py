"""A store of generated heads: what GenHead drew, in shards, for trainings that do not run it themselves."""
