"""The people's side of jaxengine: the command line, and what serves over a network."""
