-- Puts a notice (a conversation was renamed, deleted ...) into a user's feed.
-- KEYS: 1 feed:<user>, 2 live:<user>
-- ARGV: 1 channel, 2 feed name, 3 event
-- Returns: offset
-- include: feed
return feed_append(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
