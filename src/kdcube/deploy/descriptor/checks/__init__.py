"""What must hold over the whole descriptor, one named function each."""
