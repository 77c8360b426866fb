"""How frames flow: pictures and videos in, the network, videos out; and the command line."""
