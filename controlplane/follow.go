package controlplane

import (
	"context"
	"fmt"

	"weir.dev/controlplane/source"
)

// Follow runs a source and hands its newest update to the returned channel.
func Follow(ctx context.Context, from source.Source) (<-chan source.Update, <-chan error) {
	updates, failed := make(chan source.Update, 1), make(chan error, 1)
	go func() {
		failed <- from.Run(ctx, func(update source.Update) {
			for {
				select {
				case updates <- update:
					return
				default:
				}
				select {
				case <-updates:
				default:
				}
			}
		})
	}()
	return updates, failed
}

// errSource wraps why a source ended.
func errSource(err error) error { return fmt.Errorf("policy source: %w", err) }
