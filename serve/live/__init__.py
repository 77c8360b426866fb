"""`triportrait live`: a face before a camera drives a portrait in a browser."""
