package livekeys_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	"weir.dev/extauthz/livekeys"
)

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// world is a store whose clock a test moves.
type world struct {
	*livekeys.Store
	path   string
	now    time.Time
	failed int
}

func (w *world) IssuedKeys(int) {}
func (w *world) KeyFeed(error)  {}
func (w *world) KeysSaved(err error) {
	if err != nil {
		w.failed++
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{path: filepath.Join(t.TempDir(), "keys"), now: start()}
	w.restart(t)
	return w
}

func (w *world) restart(t *testing.T) {
	t.Helper()
	var err error
	w.Store, err = livekeys.Open(livekeys.Options{Path: w.path, Events: w, Clock: func() time.Time { return w.now }})
	require.NoError(t, err)
}

func digest(id string) [32]byte { return sha256.Sum256([]byte("key " + id)) }

func key(id string) *keysv1.KeyEntry {
	sum := digest(id)
	return &keysv1.KeyEntry{Id: id, Sha256: sum[:], Tenant: "acme", Consumer: "default/shop", Scopes: []string{"read"}}
}

func revoked(id string) *keysv1.KeyEntry {
	k := key(id)
	k.Revoked = true
	return k
}

func batch(version int64, keys ...*keysv1.KeyEntry) *keysv1.WatchApiKeysResponse {
	return &keysv1.WatchApiKeysResponse{Epoch: "e", Version: version, Keys: keys}
}

func reset(version int64, keys ...*keysv1.KeyEntry) *keysv1.WatchApiKeysResponse {
	b := batch(version, keys...)
	b.Reset_ = true
	return b
}

// state is what the store says of a key: unknown, absent, good or revoked.
func (w *world) state(id string) string {
	found, known := w.Find(digest(id), w.now)
	switch {
	case found != nil && found.Revoked:
		return "revoked"
	case !known:
		return "unknown"
	case found == nil:
		return "absent"
	default:
		return "good"
	}
}

func TestRevokedKeysStayRefusedAfterARestart(t *testing.T) {
	w := newWorld(t)
	require.Equal(t, "unknown", w.state("a"), "nothing was heard of the service")
	require.NoError(t, w.Apply(reset(3, key("a"), key("b"))))
	require.NoError(t, w.Apply(batch(4, revoked("a"))))
	require.Equal(t, "revoked", w.state("a"))
	w.restart(t) // and the service is away
	require.Equal(t, "revoked", w.state("a"))
	require.Equal(t, "good", w.state("b"), "the control")
	require.Equal(t, "absent", w.state("c"))
	epoch, version := w.Resume()
	require.Equal(t, "e", epoch)
	require.EqualValues(t, 4, version)

	// Without the file nothing is known, and nothing accepted.
	require.NoError(t, os.Remove(w.path))
	w.restart(t)
	require.Equal(t, "unknown", w.state("b"))
}

func TestKeysAreGoneByForSoLong(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Apply(reset(1, key("a"), revoked("b"))))
	w.now = w.now.Add(livekeys.DefaultMaxAge)
	require.Equal(t, "good", w.state("a"))
	w.now = w.now.Add(time.Second)
	require.Equal(t, "unknown", w.state("a"))
	require.Equal(t, "revoked", w.state("b"), "for good")
	w.restart(t)
	require.Equal(t, "unknown", w.state("a"), "a restart makes nothing younger")
	require.NoError(t, w.Apply(batch(1)))
	require.Equal(t, "good", w.state("a"), "a sign of life is enough")
	w.restart(t)
	require.Equal(t, "good", w.state("a"), "and is kept")
}

func TestResets(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Apply(reset(1, key("a"), key("b"))))
	first := reset(5, key("b"))
	first.Epoch, first.More = "f", true
	require.NoError(t, w.Apply(first))
	require.Equal(t, "good", w.state("a"), "the old set until the new one is whole")
	require.Equal(t, "absent", w.state("c"))
	last := batch(9, key("c"))
	last.Epoch = "f"
	require.NoError(t, w.Apply(last))
	require.Equal(t, []string{"absent", "good", "good"}, []string{w.state("a"), w.state("b"), w.state("c")})
	require.Equal(t, 2, w.Len())

	require.NoError(t, w.Apply(first))
	w.Resume() // the stream broke off
	require.NoError(t, w.Apply(&keysv1.WatchApiKeysResponse{Epoch: "f", Version: 10, Keys: []*keysv1.KeyEntry{key("d")}}))
	require.Equal(t, "good", w.state("c"), "a reset that was not finished changes nothing")
	w.restart(t)
	require.Equal(t, 3, w.Len())
}

func TestBadBatchesChangeNothing(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Apply(reset(1, key("a"))))
	short, nameless, scoped, late := key("x"), key("x"), key("x"), key("x")
	short.Sha256, nameless.Id, scoped.Scopes, late.ExpireTime = []byte("short"), "", []string{"two words"}, &timestamppb.Timestamp{Nanos: -1}
	for _, bad := range []*keysv1.KeyEntry{short, nameless, scoped, late} {
		require.Error(t, w.Apply(batch(2, revoked("a"), bad)))
		require.Equal(t, "good", w.state("a"))
	}
	_, version := w.Resume()
	require.EqualValues(t, 1, version)
}

// Cut anywhere, the file gives a state that was in effect once, or none; changed
// anywhere, none.
func TestFileIsNeverMisread(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Apply(reset(1, key("a"), key("b"))))
	whole, err := os.Stat(w.path)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, whole.Mode().Perm())
	require.NoError(t, w.Apply(batch(2, revoked("a"))))
	require.NoError(t, w.Apply(batch(3, revoked("b"))))
	content, err := os.ReadFile(w.path)
	require.NoError(t, err)
	outcomes := map[string]int{}
	for cut := range len(content) {
		require.NoError(t, os.WriteFile(w.path, content[:cut], 0o600))
		w.restart(t)
		outcomes[w.state("a")+" "+w.state("b")]++
		if w.state("a") != "unknown" { // what is added later is kept
			require.NoError(t, w.Apply(batch(4, key("c"))))
			w.restart(t)
			require.Equal(t, "good", w.state("c"))
		}
	}
	require.Len(t, outcomes, 3, "%v", outcomes)
	for _, outcome := range []string{"unknown unknown", "good good", "revoked good"} {
		require.Positive(t, outcomes[outcome], "%v", outcomes)
	}
	for at := range content {
		damaged := append([]byte{}, content...)
		damaged[at] ^= 0x40
		require.NoError(t, os.WriteFile(w.path, damaged, 0o600))
		w.restart(t)
		require.Equal(t, "unknown unknown", w.state("a")+" "+w.state("b"), "byte %d", at)
	}
	require.Positive(t, w.failed, "damage is reported")
	require.NoError(t, w.Apply(reset(4, key("a"))))
	w.restart(t)
	require.Equal(t, "good", w.state("a"), "the next batch makes a good file")
}

func TestDiskTroubleIsReportedAndMended(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Apply(reset(1, key("a"))))
	require.NoError(t, os.Remove(w.path))
	require.NoError(t, os.Mkdir(w.path, 0o700))
	require.NoError(t, w.Apply(batch(2, revoked("a"))))
	require.Equal(t, "revoked", w.state("a"), "in effect all the same")
	require.Equal(t, 1, w.failed)
	require.NoError(t, os.Remove(w.path))
	require.NoError(t, w.Apply(batch(2)))
	w.restart(t)
	require.Equal(t, "revoked", w.state("a"))
}

func TestFileIsWrittenAnewWhenItGrows(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.Apply(reset(1)))
	many := func() []*keysv1.KeyEntry {
		keys := make([]*keysv1.KeyEntry, 0, 1000)
		for i := range 1000 {
			keys = append(keys, key(fmt.Sprintf("key%d", i)))
		}
		return keys
	}
	size := int64(0)
	for round := range int64(80) {
		require.NoError(t, w.Apply(batch(round+2, many()...)))
		info, err := os.Stat(w.path)
		require.NoError(t, err)
		size = max(size, info.Size())
	}
	require.Less(t, size, int64(6<<20))
	w.restart(t)
	require.Equal(t, 1000, w.Len())
}

func BenchmarkFind100k(b *testing.B) {
	s, err := livekeys.Open(livekeys.Options{})
	require.NoError(b, err)
	keys := make([]*keysv1.KeyEntry, 0, 100_000)
	for i := range cap(keys) {
		keys = append(keys, key(fmt.Sprintf("key%d", i)))
	}
	require.NoError(b, s.Apply(reset(1, keys...)))
	wanted, now := digest("key500"), time.Now()
	b.Run("find", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if found, _ := s.Find(wanted, now); found == nil {
				b.Fatal("not found")
			}
		}
	})
	b.Run("change", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, s.Apply(batch(2, key("key500"))))
		}
	})
}
