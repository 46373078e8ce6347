-- Pieces that several queries share.

-- name: now_ms
-- Unix milliseconds by PostgreSQL's clock.
(extract(epoch from clock_timestamp()) * 1000)::bigint

-- name: turn_columns
-- The columns of a StoredTurn, of the table t.
t.turn_id, t.client_turn_id, t.conversation_id, t.user_id, t.user_type, t.session_id, t.request_id, t.bundle_id,
t.bundle_version, t.content_hash, t.state, t.attempt, t.claim_id, t.worker_id, t.admitted_order, t.accepted_ms,
t.queued_ms, t.started_ms, t.ended_ms, t.parent_turn_id, t.steer_of, t.cancel_requested, t.message, t.answer,
t.text_by_marker, t.steps, t.services, t.error, t.bundle_state, t.usage, t.feedback_reaction, t.feedback_text

-- name: conversation_columns
-- The columns of a Conversation, of the table c.
c.conversation_id, c.user_id, c.title, c.started_ms, c.last_activity_ms, c.pinned, c.head_turn_id

-- name: login_columns
-- The columns of a StoredLogin.
login_id, user_id, claims, sealed_by, opened_ms, used_ms, idle_ms, expires_ms, confirmed_ms, ended_ms, ended_by

-- name: erasure_columns
-- The columns of an Erasure, of the table e.
e.erasure_id, e.user_id, e.requested_ms, e.done_ms, e.conversations, e.turns, e.feedback, e.api_keys, e.logins

-- name: release_columns
-- The columns of a Release, of the table r.
r.bundle_id, r.number, r.entry::text as entry, r.revision, r.state, r.origin, r.author, r.reason, r.problem,
r.created_ms, r.settled_ms
