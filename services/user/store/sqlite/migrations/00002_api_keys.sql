-- +goose Up
-- Ids are unique among all tenants: they are part of the keys.
CREATE TABLE user_api_keys (
    tenant       TEXT NOT NULL,
    id           TEXT NOT NULL,
    revision     INTEGER NOT NULL,
    display_name TEXT NOT NULL,
    consumer     TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    lifetime     INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    revoked_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    replaced_by  TEXT NOT NULL,
    change       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX user_api_keys_id ON user_api_keys (id);
CREATE UNIQUE INDEX user_api_keys_change ON user_api_keys (change);

-- One row, locked by whoever changes a key: changes become visible in the order
-- of their numbers.
CREATE TABLE user_key_feed (
    id      INTEGER NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    purged  INTEGER NOT NULL
);
INSERT INTO user_key_feed (id, version, purged) VALUES (1, 0, 0);

-- +goose Down
DROP TABLE user_key_feed;
DROP TABLE user_api_keys;
