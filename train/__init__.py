"""How the weights come to be: the two training stages of the paper grow here."""
