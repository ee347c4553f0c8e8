"""The engine: a pure core, ports with their backends, and the use cases over them."""

VERSION = "0.1.0"
