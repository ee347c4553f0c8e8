"""The functions: parse, call the engine, answer. They decide nothing."""
