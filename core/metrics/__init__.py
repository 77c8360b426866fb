"""Networks that metrics are taken with, each from a file that the user brings; `networks.load` makes one."""
