"""What the node remembers of its slivers: actions, flows and figures, each bounded, and the search through them."""
