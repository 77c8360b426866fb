"""The live server, measured from outside by a client that does what the page does."""
