"""Rules without I/O: values in, values out. Imports nothing of the project but `shared.errors`."""
