package extauthz

import (
	"slices"
	"sync/atomic"
	"time"
)

// IssuedKey is one API key that was issued. All fields are set before it is
// shared and never changed. Safe for concurrent use.
type IssuedKey struct {
	// ID is of the key's resource, and not a secret.
	ID string
	// Tenant is what the key was issued in, Consumer the "namespace/name" of who
	// calls with it. The consumer has to be one of the rules, of the same tenant.
	Tenant, Consumer string
	Scopes           []string
	// Expires is zero for never.
	Expires time.Time
	Revoked bool

	// used is the second of the last acceptance.
	used atomic.Int64
	// proved remembers what the key proves as long as the consumers stay.
	proved atomic.Pointer[provedKey]
}

type provedKey struct {
	consumers *ConsumerSet
	proof     *Proof
	reason    Reason
}

// LastUse is when the key was last accepted, to the second; zero for never.
func (k *IssuedKey) LastUse() time.Time {
	if second := k.used.Load(); second != 0 {
		return time.Unix(second, 0)
	}
	return time.Time{}
}

// Inherit takes over when an earlier version of the key was last accepted.
func (k *IssuedKey) Inherit(earlier *IssuedKey) { k.used.Store(earlier.used.Load()) }

// prove returns who calls, or why nobody does.
func (k *IssuedKey) prove(call *Call) (*Proof, Reason) {
	switch {
	case k.Revoked:
		return nil, ReasonAPIKeyRevoked
	case !k.Expires.IsZero() && !call.Now.Before(k.Expires):
		return nil, ReasonAPIKeyExpired
	}
	known := k.proved.Load()
	if known == nil || known.consumers != call.Consumers {
		known = k.resolve(call.Consumers)
		k.proved.Store(known)
	}
	if second := call.Now.Unix(); known.reason == "" && k.used.Load() != second {
		k.used.Store(second)
	}
	return known.proof, known.reason
}

func (k *IssuedKey) resolve(consumers *ConsumerSet) *provedKey {
	owner := consumers.ByName(k.Consumer)
	if owner == nil || k.Tenant == "" || owner.Tenant != k.Tenant {
		return &provedKey{consumers: consumers, reason: ReasonAPIKeyConsumer}
	}
	return &provedKey{consumers: consumers, proof: &Proof{
		Consumer: owner, Subject: "apiKeys/" + k.ID, Tenant: owner.Tenant, Scopes: slices.Clone(k.Scopes),
	}}
}
