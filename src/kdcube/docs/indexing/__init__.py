"""The index of a folder: found files, what is read from them, and where that is kept."""
