-- One file, written by one process and then never changed: an update is a new file in its place.

CREATE TABLE about (signature TEXT NOT NULL);  -- the settings that it was built with

CREATE TABLE files (
  id INTEGER PRIMARY KEY,
  path TEXT NOT NULL UNIQUE,
  size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  digest BLOB NOT NULL,
  title TEXT NOT NULL,
  left_out TEXT                                -- why nothing of it is searched; NULL when it is
);

CREATE TABLE passages (
  id INTEGER PRIMARY KEY,
  file INTEGER NOT NULL REFERENCES files,
  title TEXT NOT NULL,                         -- of the document, with the words of its path
  heading TEXT NOT NULL,                       -- from the top down, with ' › ' between
  anchor TEXT NOT NULL,
  body TEXT NOT NULL
);

CREATE INDEX passages_of_file ON passages (file);

CREATE VIRTUAL TABLE search USING fts5 (
  title, heading, body, content = 'passages', content_rowid = 'id',
  tokenize = 'porter unicode61 remove_diacritics 2'
);
