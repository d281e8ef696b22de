"""Every stopping rule, one file each."""
