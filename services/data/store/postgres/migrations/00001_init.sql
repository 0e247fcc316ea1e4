-- +goose Up
-- Keys and texts compare byte by byte, as they do in SQLite.
CREATE TABLE data_collections (
    tenant       text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    revision     bigint           NOT NULL,
    display_name text COLLATE "C" NOT NULL,
    schema       text,
    created_at   bigint           NOT NULL,
    updated_at   bigint           NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE data_records (
    tenant     text COLLATE "C" NOT NULL,
    collection text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    revision   bigint           NOT NULL,
    data       jsonb            NOT NULL,
    created_at bigint           NOT NULL,
    updated_at bigint           NOT NULL,
    PRIMARY KEY (tenant, collection, id),
    FOREIGN KEY (tenant, collection) REFERENCES data_collections (tenant, id)
);

CREATE TABLE data_results (
    tenant      text COLLATE "C" NOT NULL,
    request_id  text COLLATE "C" NOT NULL,
    fingerprint text             NOT NULL,
    response    text             NOT NULL,
    created_at  bigint           NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
CREATE INDEX data_results_created_at ON data_results (created_at);

CREATE TABLE data_secrets (
    name  text NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- +goose Down
DROP TABLE data_secrets;
DROP TABLE data_results;
DROP TABLE data_records;
DROP TABLE data_collections;
