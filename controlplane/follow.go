package controlplane

import (
	"context"
	"fmt"

	"weir.dev/controlplane/folder"
)

// Follow runs a source and hands its newest update to the returned channel.
func Follow(ctx context.Context, source *folder.Source) (<-chan folder.Update, <-chan error) {
	updates, failed := make(chan folder.Update, 1), make(chan error, 1)
	go func() {
		failed <- source.Run(ctx, func(update folder.Update) {
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
