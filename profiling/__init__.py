"""How long it takes: the measuring bench grows here, on top of every other folder."""
