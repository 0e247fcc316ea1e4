// Package sqldb is the SQL under the services' stores: opening SQLite and
// PostgreSQL through database/sql, transactions, migrations, the translation of
// checked queries to SQL, and a generic table of versioned rows. It knows no
// resource of any service.
//
// Both databases take the placeholders $1, $2, ... Times are integers:
// microseconds since 1970, UTC.
package sqldb
