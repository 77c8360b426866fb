"""Lists of tensor names and shapes (null: any size), one JSON file per published network."""
