"""What we ask a chain's nodes, and which of their answers we believe."""
