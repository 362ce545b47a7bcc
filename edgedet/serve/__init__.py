"""The HTTP service: one detector behind a small interface, for a device or a box beside it (extra ``serve``)."""
