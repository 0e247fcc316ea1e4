package guard

import (
	"context"

	"weir.dev/ratelimit"
)

// Forget implements ratelimit.Forgetter. It goes past the breaker, since an
// operator asks for it and wants the store's own answer.
func (g *Guard) Forget(ctx context.Context, charges []ratelimit.Charge) error {
	next, able := g.next.(ratelimit.Forgetter)
	if !able {
		return ratelimit.ErrCannotForget
	}
	return next.Forget(ctx, charges)
}
