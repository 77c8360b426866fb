"""What training looks at: procedural heads, and how they lie on a disk."""
