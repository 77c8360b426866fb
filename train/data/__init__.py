"""The data of training: procedural heads, multi-view sets and clip stores."""
