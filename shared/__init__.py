"""The engine: a pure core, ports with their backends, and the use cases over them."""
