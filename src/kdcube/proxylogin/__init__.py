"""Signs people in at an OpenID provider: the browser holds an opaque cookie, tokens stay here."""
