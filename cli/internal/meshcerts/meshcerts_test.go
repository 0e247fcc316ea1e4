package meshcerts_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/internal/meshcerts"
	"weir.dev/kit/certs"
)

// memory is a store whose writes can be made to fail.
type memory struct {
	mu      sync.Mutex
	bundles map[string]certs.Bundle
	version map[string]int
	fail    func(name string) error
}

func newMemory() *memory {
	return &memory{bundles: map[string]certs.Bundle{}, version: map[string]int{}}
}

func (m *memory) Read(_ context.Context, name string) (certs.Bundle, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bundles[name] == nil {
		return nil, "", nil
	}
	return maps.Clone(m.bundles[name]), strconv.Itoa(m.version[name]), nil
}

func (m *memory) Write(_ context.Context, name, version string, bundle certs.Bundle) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(name); err != nil {
			return err
		}
	}
	current := ""
	if m.bundles[name] != nil {
		current = strconv.Itoa(m.version[name])
	}
	if current != version {
		return meshcerts.ErrChanged
	}
	m.bundles[name] = maps.Clone(bundle)
	m.version[name]++
	return nil
}

// clock is what the tests call now.
type clock struct{ time.Time }

func run(t *testing.T, store meshcerts.Store, now *clock, rotate bool) map[string]string {
	t.Helper()
	written := map[string]string{}
	err := meshcerts.Ensure(t.Context(), store, meshcerts.Options{
		Parts: []string{"extauthz", "ingress"}, Lifetime: certs.CertificateLifetime, Rotate: rotate,
		Now: func() time.Time { return now.Time }, Report: func(name, why string) { written[name] = why },
	})
	require.NoError(t, err)
	return written
}

func TestEnsureWritesWhatIsDue(t *testing.T) {
	folder, unlock, err := meshcerts.OpenFolder(t.TempDir())
	require.NoError(t, err)
	defer unlock()
	for name, store := range map[string]meshcerts.Store{"memory": newMemory(), "folder": folder} {
		t.Run(name, func(t *testing.T) {
			now := &clock{time.Now()}
			require.Len(t, run(t, store, now, false), 3)
			require.Empty(t, run(t, store, now, false), "nothing is due")
			now.Time = now.Add(certs.CertificateLifetime * 3 / 4)
			require.Equal(t, map[string]string{
				"extauthz": "less than a third of its life was left", "ingress": "less than a third of its life was left",
			}, run(t, store, now, false))

			trust := func() int {
				bundle, _, err := store.Read(t.Context(), "ingress")
				require.NoError(t, err)
				return len(bundle[certs.CAFileName])
			}
			one := trust()
			require.Len(t, run(t, store, now, true), 3)
			require.Greater(t, trust(), one+one/2, "two are trusted")
			require.Empty(t, run(t, store, now, false), "it is too early for the next step")
			now.Time = now.Add(certs.Overlap)
			require.Equal(t, "it was signed by another authority", run(t, store, now, false)["ingress"])
			require.Greater(t, trust(), one+one/2)
			now.Time = now.Add(certs.Overlap + time.Second)
			require.Equal(t, "the authorities have changed", run(t, store, now, false)["ingress"])
			require.Less(t, trust(), one+one/2, "the old one is forgotten")
			require.Empty(t, run(t, store, now, false))
		})
	}
}

// A successor must not sign before everybody has been told to trust it, however
// long ago it was made.
func TestNoStepIsSkipped(t *testing.T) {
	store, now := newMemory(), &clock{time.Now()}
	run(t, store, now, false)
	store.fail = func(name string) error {
		if name == "ingress" {
			return context.DeadlineExceeded
		}
		return nil
	}
	options := meshcerts.Options{
		Parts: []string{"extauthz", "ingress"}, Lifetime: certs.CertificateLifetime, Rotate: true,
		Now: func() time.Time { return now.Time }, Report: func(string, string) {},
	}
	require.ErrorIs(t, meshcerts.Ensure(t.Context(), store, options), context.DeadlineExceeded)
	store.fail = nil
	now.Time = now.Add(2 * certs.Overlap)
	require.Equal(t, map[string]string{"ingress": "the authorities have changed"}, run(t, store, now, false))
	require.Equal(t, "the next authority signs from now on", run(t, store, now, false)[meshcerts.Authority])
}

func TestSeveralAtOnceMakeOneAuthority(t *testing.T) {
	store, now := newMemory(), time.Now()
	var group sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		group.Go(func() {
			errs <- meshcerts.Ensure(t.Context(), store, meshcerts.Options{
				Parts: []string{"extauthz", "ingress"}, Lifetime: certs.CertificateLifetime,
				Now: func() time.Time { return now }, Report: func(string, string) {},
			})
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, map[string]int{meshcerts.Authority: 1, "extauthz": 1, "ingress": 1}, store.version)
}

func TestADamagedAuthorityStopsEverything(t *testing.T) {
	store, now := newMemory(), &clock{time.Now()}
	run(t, store, now, false)
	store.bundles[meshcerts.Authority][certs.KeyFileName] = []byte("?")
	before := maps.Clone(store.version)
	err := meshcerts.Ensure(t.Context(), store, meshcerts.Options{
		Parts: []string{"extauthz", "data"}, Lifetime: certs.CertificateLifetime, Now: time.Now, Report: func(string, string) {},
	})
	require.ErrorContains(t, err, "the authority is damaged (delete it")
	require.Equal(t, before, store.version)
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	folder, unlock, err := meshcerts.OpenFolder(dir)
	require.NoError(t, err)
	_, _, err = meshcerts.OpenFolder(dir)
	require.ErrorContains(t, err, "in use by another weir certs")
	require.NoError(t, folder.Write(t.Context(), "data", "", certs.Bundle{"tls.crt": []byte("c"), "tls.key": []byte("k"), "next.crt": []byte("n")}))
	require.ErrorIs(t, folder.Write(t.Context(), "data", "", certs.Bundle{}), meshcerts.ErrChanged)
	info, err := os.Stat(filepath.Join(dir, "data", "tls.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, version, err := folder.Read(t.Context(), "data")
	require.NoError(t, err)
	require.NoError(t, folder.Write(t.Context(), "data", version, certs.Bundle{"tls.crt": []byte("c"), "tls.key": []byte("l")}))
	bundle, _, err := folder.Read(t.Context(), "data")
	require.NoError(t, err)
	require.Equal(t, certs.Bundle{"tls.crt": []byte("c"), "tls.key": []byte("l")}, bundle)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "big"), make([]byte, 2<<20), 0o600))
	_, _, err = folder.Read(t.Context(), "data")
	require.ErrorContains(t, err, "at most")
	unlock()
	_, unlock, err = meshcerts.OpenFolder(dir)
	require.NoError(t, err)
	unlock()
}
