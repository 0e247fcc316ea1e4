package storetest

import "context"

// background is used in place of the test's context so that a failure in one
// goroutine does not show up as cancellations in the others.
func background() context.Context { return context.Background() }
