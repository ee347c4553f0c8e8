"""The command line: speaks to the API over HTTP, and only `dev` and `demo` hold an engine of their own."""
