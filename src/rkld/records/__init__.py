"""Records: read, checked, and written out as token ids and masks."""
