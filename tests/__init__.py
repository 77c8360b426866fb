"""How we know; a package, so that no other of this name in an environment (torch-fidelity installs one) takes its place."""
