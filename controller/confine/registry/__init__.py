"""The registry client: fetches documents over HTTP or from a directory, walks them, keeps the last good state."""
