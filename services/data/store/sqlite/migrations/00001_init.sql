-- +goose Up
CREATE TABLE data_collections (
    tenant       TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    revision     INTEGER NOT NULL,
    display_name TEXT    NOT NULL,
    schema       TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

CREATE TABLE data_records (
    tenant     TEXT    NOT NULL,
    collection TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    data       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, collection, id),
    FOREIGN KEY (tenant, collection) REFERENCES data_collections (tenant, id)
);

CREATE TABLE data_results (
    tenant      TEXT    NOT NULL,
    request_id  TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    response    TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
CREATE INDEX data_results_created_at ON data_results (created_at);

CREATE TABLE data_secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- +goose Down
DROP TABLE data_secrets;
DROP TABLE data_results;
DROP TABLE data_records;
DROP TABLE data_collections;
