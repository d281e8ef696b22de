"""Discovery: what a model associates with a name, said as records to forget, before anything is forgotten."""
