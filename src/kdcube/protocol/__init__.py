"""Wire truth shared by every service: identifiers, turns, events, cursors and errors. No I/O."""
