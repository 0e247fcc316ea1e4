package sqldb

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// Secret returns the secret of this name from table (columns name and value),
// making it on first use: every process on the database gets the same.
func (db *DB) Secret(ctx context.Context, table, name string) ([]byte, error) {
	fresh := make([]byte, 32)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	var value string
	err := db.Write(ctx, func(ctx context.Context, q Querier) error {
		if _, err := q.ExecContext(ctx, "INSERT INTO "+table+" (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
			name, hex.EncodeToString(fresh)); err != nil {
			return err
		}
		return q.QueryRowContext(ctx, "SELECT value FROM "+table+" WHERE name = $1", name).Scan(&value)
	})
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	secret, err := hex.DecodeString(value)
	if err != nil || len(secret) != len(fresh) {
		return nil, fmt.Errorf("secret %s in table %s is damaged: delete the row, and page tokens start anew", name, table)
	}
	return secret, nil
}
