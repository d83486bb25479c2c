"""What a model keeps of its past, one module per kind of memory. Today: full attention over pages."""
