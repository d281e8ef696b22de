"""The shipped benchmarks: one file each, of the name it is registered by."""
