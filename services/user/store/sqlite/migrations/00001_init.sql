-- +goose Up
CREATE TABLE user_organizations (
    tenant       TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    revision     INTEGER NOT NULL,
    display_name TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

CREATE TABLE user_users (
    tenant       TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    revision     INTEGER NOT NULL,
    email        TEXT    NOT NULL,
    email_key    TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX user_users_email ON user_users (tenant, email_key);

-- Roles of the empty tenant are everyone's.
CREATE TABLE user_roles (
    tenant       TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    revision     INTEGER NOT NULL,
    display_name TEXT    NOT NULL,
    permissions  TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

CREATE TABLE user_memberships (
    tenant       TEXT    NOT NULL,
    organization TEXT    NOT NULL,
    member       TEXT    NOT NULL,
    revision     INTEGER NOT NULL,
    roles        TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, organization, member),
    FOREIGN KEY (tenant, organization) REFERENCES user_organizations (tenant, id),
    FOREIGN KEY (tenant, member) REFERENCES user_users (tenant, id)
) WITHOUT ROWID;
CREATE INDEX user_memberships_member ON user_memberships (tenant, member);

CREATE TABLE user_membership_roles (
    tenant       TEXT NOT NULL,
    organization TEXT NOT NULL,
    member       TEXT NOT NULL,
    role         TEXT NOT NULL,
    role_tenant  TEXT NOT NULL,
    PRIMARY KEY (tenant, organization, member, role),
    FOREIGN KEY (tenant, organization, member) REFERENCES user_memberships (tenant, organization, member) ON DELETE CASCADE,
    FOREIGN KEY (role_tenant, role) REFERENCES user_roles (tenant, id)
) WITHOUT ROWID;
CREATE INDEX user_membership_roles_role ON user_membership_roles (role_tenant, role);

CREATE TABLE user_secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

INSERT INTO user_roles (tenant, id, revision, display_name, permissions, created_at, updated_at) VALUES
    ('', 'viewer', 1, 'Viewer', '["*.read"]', 1767225600000000, 1767225600000000),
    ('', 'editor', 1, 'Editor', '["*.read","*.write"]', 1767225600000000, 1767225600000000),
    ('', 'admin', 1, 'Admin', '["*.read","*.write","memberships.manage"]', 1767225600000000, 1767225600000000),
    ('', 'owner', 1, 'Owner', '["*"]', 1767225600000000, 1767225600000000);

-- +goose Down
DROP TABLE user_secrets;
DROP TABLE user_membership_roles;
DROP TABLE user_memberships;
DROP TABLE user_roles;
DROP TABLE user_users;
DROP TABLE user_organizations;
