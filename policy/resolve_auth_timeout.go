package policy

import (
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// Bounds of what a check may take.
const (
	// checkItself is what a check has when nobody has to be asked, and beside what
	// asking may take; it is the targets' default, too.
	checkItself     = time.Second
	maxCheckTimeout = time.Minute
	// loginQuestions are what a login's own paths may ask its provider, one after
	// the other: for tokens, keys and the user.
	loginQuestions = 3
)

// checkTimeout is how long the check of a route may take: the timeouts of whatever
// its policy asks, which may come one after the other, so that none is cut short by
// the check's own. 0 when nobody is asked.
func (c *compiledAuth) checkTimeout() time.Duration {
	var asking time.Duration
	for _, way := range c.authenticators {
		asking += max(way.GetTimeout().AsDuration(), way.GetIntrospection().GetTimeout().AsDuration(),
			way.GetKubernetes().GetTimeout().AsDuration(), way.GetLogin().GetTimeout().AsDuration())
	}
	for _, source := range c.metadata {
		asking += source.GetTimeout().AsDuration()
	}
	for _, rule := range c.rules {
		if rule.GetRequirements().GetRelationship() != nil {
			asking += c.settings.GetRelationships().GetTimeout().AsDuration()
		}
	}
	asking += c.upstream.GetExchange().GetTimeout().AsDuration()
	return withCheck(asking)
}

// loginCheckTimeout is that of a login's own paths.
func loginCheckTimeout(way *rulesv1.Authenticator) time.Duration {
	return withCheck(loginQuestions * way.GetLogin().GetTimeout().AsDuration())
}

func withCheck(asking time.Duration) time.Duration {
	if asking == 0 {
		return 0
	}
	return min(checkItself+asking, maxCheckTimeout)
}
