-- +goose Up
-- Keys and texts compare byte by byte, as they do in SQLite.
CREATE TABLE user_organizations (
    tenant       text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    display_name text COLLATE "C" NOT NULL,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE user_users (
    tenant       text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    email        text COLLATE "C" NOT NULL,
    email_key    text COLLATE "C" NOT NULL,
    display_name text COLLATE "C" NOT NULL,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX user_users_email ON user_users (tenant, email_key);

-- Roles of the empty tenant are everyone's.
CREATE TABLE user_roles (
    tenant       text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    display_name text COLLATE "C" NOT NULL,
    permissions  text COLLATE "C" NOT NULL,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE user_memberships (
    tenant       text COLLATE "C" NOT NULL,
    organization text COLLATE "C" NOT NULL,
    member       text COLLATE "C" NOT NULL,
    revision     bigint NOT NULL,
    roles        text COLLATE "C" NOT NULL,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    PRIMARY KEY (tenant, organization, member),
    FOREIGN KEY (tenant, organization) REFERENCES user_organizations (tenant, id),
    FOREIGN KEY (tenant, member) REFERENCES user_users (tenant, id)
);
CREATE INDEX user_memberships_member ON user_memberships (tenant, member);

CREATE TABLE user_membership_roles (
    tenant       text COLLATE "C" NOT NULL,
    organization text COLLATE "C" NOT NULL,
    member       text COLLATE "C" NOT NULL,
    role         text COLLATE "C" NOT NULL,
    role_tenant  text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, organization, member, role),
    FOREIGN KEY (tenant, organization, member) REFERENCES user_memberships (tenant, organization, member) ON DELETE CASCADE,
    FOREIGN KEY (role_tenant, role) REFERENCES user_roles (tenant, id)
);
CREATE INDEX user_membership_roles_role ON user_membership_roles (role_tenant, role);

CREATE TABLE user_secrets (
    name  text COLLATE "C" NOT NULL PRIMARY KEY,
    value text COLLATE "C" NOT NULL
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
