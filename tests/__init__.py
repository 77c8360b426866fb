"""How we know. A package, so that no other of its name takes its place: torch-fidelity installs one."""
