package meshcerts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir.dev/kit/certs"
)

// Authority is the name that the authority is stored under.
const Authority = "authority"

// ErrChanged says that somebody else wrote what was to be written.
var ErrChanged = errors.New("somebody else has changed it meanwhile")

// Store keeps bundles by name. The names are those of parts, and Authority.
type Store interface {
	// Read returns a bundle and its version, none and "" where there is none.
	Read(ctx context.Context, name string) (bundle certs.Bundle, version string, err error)
	// Write replaces the bundle of that version; ErrChanged if it is of another by
	// now. It leaves a whole bundle, the old or the new, whatever happens.
	Write(ctx context.Context, name, version string, bundle certs.Bundle) error
}

// Options of Ensure.
type Options struct {
	// Parts that get a certificate each, such as "extauthz".
	Parts []string
	// Lifetime of certificates.
	Lifetime time.Duration
	// Rotate begins a change of authority.
	Rotate bool
	Now    func() time.Time
	// Report is told what was written, and why.
	Report func(name, why string)
}

// tries is how often what was changed by somebody else is looked at again.
const tries = 5

// Ensure makes what is missing, renews what is due and does the next step of a
// change of authority, if there is one. Calls at once, from anywhere, are safe.
func Ensure(ctx context.Context, store Store, o Options) error {
	var err error
	for range tries {
		if err = ensure(ctx, store, &o); !errors.Is(err, ErrChanged) {
			return err
		}
	}
	return err
}

func ensure(ctx context.Context, store Store, o *Options) error {
	mesh, version, err := open(ctx, store, o)
	if err != nil {
		return err
	}
	changed, err := issue(ctx, store, mesh, o)
	if err != nil {
		return err
	}
	done := ""
	switch {
	case o.Rotate:
		if err = mesh.Rotate(o.Now()); errors.Is(err, certs.ErrRotating) {
			return fmt.Errorf("%w; it takes two days", err)
		}
		done = "the next authority is trusted from now on"
	case !changed:
		// The next step is only done after a run in which everybody had the one
		// before: were a successor to sign before it is trusted, parts would part.
		done, err = mesh.Advance(o.Now())
	}
	if err != nil || done == "" {
		return err
	}
	if err := keep(ctx, store, mesh, version); err != nil {
		return err
	}
	o.Rotate = false // in case of another try
	o.Report(Authority, done)
	_, err = issue(ctx, store, mesh, o)
	return err
}

// open reads the authority, or makes it.
func open(ctx context.Context, store Store, o *Options) (*certs.Mesh, string, error) {
	held, version, err := store.Read(ctx, Authority)
	if err != nil {
		return nil, "", err
	}
	if version != "" {
		mesh, err := certs.ParseMesh(held)
		return mesh, version, err
	}
	mesh, err := certs.NewMesh(o.Now())
	if err != nil {
		return nil, "", err
	}
	if err := keep(ctx, store, mesh, ""); err != nil {
		return nil, "", err
	}
	o.Report(Authority, "there was none")
	_, version, err = store.Read(ctx, Authority)
	return mesh, version, err
}

func keep(ctx context.Context, store Store, mesh *certs.Mesh, version string) error {
	bundle, err := mesh.Bundle()
	if err != nil {
		return err
	}
	return store.Write(ctx, Authority, version, bundle)
}

// issue writes what is due of the parts' bundles, and says whether any was.
func issue(ctx context.Context, store Store, mesh *certs.Mesh, o *Options) (changed bool, err error) {
	for _, part := range o.Parts {
		held, version, err := store.Read(ctx, part)
		if err != nil {
			return changed, err
		}
		bundle, why, err := mesh.Ensure(part, held, o.Lifetime, o.Now())
		if err != nil {
			return changed, err
		}
		if why == "" {
			continue
		}
		if err := store.Write(ctx, part, version, bundle); err != nil {
			return changed, err
		}
		changed = true
		o.Report(part, why)
	}
	return changed, nil
}
