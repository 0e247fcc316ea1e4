-- +goose Up
-- Ids are unique among all tenants: they are part of the keys.
CREATE TABLE user_api_keys (
    tenant       text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    display_name text COLLATE "C" NOT NULL,
    consumer     text COLLATE "C" NOT NULL,
    scopes       text COLLATE "C" NOT NULL,
    sha256       text COLLATE "C" NOT NULL,
    lifetime     bigint NOT NULL,
    expires_at   bigint NOT NULL,
    revoked_at   bigint NOT NULL,
    last_used_at bigint NOT NULL,
    replaced_by  text COLLATE "C" NOT NULL,
    change       bigint NOT NULL,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX user_api_keys_id ON user_api_keys (id);
CREATE UNIQUE INDEX user_api_keys_change ON user_api_keys (change);

-- One row, locked by whoever changes a key: changes become visible in the order
-- of their numbers.
CREATE TABLE user_key_feed (
    id      bigint NOT NULL PRIMARY KEY,
    version bigint NOT NULL,
    purged  bigint NOT NULL
);
INSERT INTO user_key_feed (id, version, purged) VALUES (1, 0, 0);

-- +goose Down
DROP TABLE user_key_feed;
DROP TABLE user_api_keys;
