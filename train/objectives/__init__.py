"""What training wants: the terms of Eq. 2 and Eq. 5, and the networks that they ask."""
