package apikey

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFind(t *testing.T) {
	index, _, _ := NewIndex([]Key[string]{
		{Digest: sha256.Sum256([]byte("one")), Owner: "a"},
		{Digest: sha256.Sum256([]byte("two")), Owner: "b"},
	})
	require.NotNil(t, index)
	require.Equal(t, 2, index.Len())
	require.Equal(t, "a", index.Find("one").Owner)
	require.Equal(t, "b", index.Find("two").Owner)
	for _, key := range []string{"", "One", "one ", "one,one", "three", strings.Repeat("x", MaxKeyBytes+1), string(make([]byte, 32))} {
		require.Nil(t, index.Find(key), "%q", key)
	}
}

// The digest itself is not a key: whoever reads the rules cannot call.
func TestFindNotByDigest(t *testing.T) {
	digest := sha256.Sum256([]byte("one"))
	index, _, _ := NewIndex([]Key[string]{{Digest: digest}})
	require.Nil(t, index.Find(string(digest[:])))
	require.Nil(t, index.Find(fmt.Sprintf("%x", digest)))
}

func TestKeysThatShareAPrefixAreToldApart(t *testing.T) {
	var keys []Key[int]
	for i := range 5 {
		digest := Digest{1, 2, 3, 4, 5, 6, 7, 8}
		digest[31] = byte(i)
		keys = append(keys, Key[int]{Digest: digest, Owner: i})
	}
	index, _, _ := NewIndex(keys)
	require.NotNil(t, index)
	for i := range 5 {
		require.Equal(t, i, index.FindDigest(keys[i].Digest).Owner)
	}
	require.Nil(t, index.FindDigest(Digest{1, 2, 3, 4, 5, 6, 7, 8, 9}))
}

func TestNewIndexRefusesOneKeyTwice(t *testing.T) {
	keys := []Key[int]{{Digest: Digest{1}}, {Digest: Digest{2}}, {Digest: Digest{1}}}
	index, first, second := NewIndex(keys)
	require.Nil(t, index)
	require.Equal(t, []int{0, 2}, []int{first, second})
}

func TestExpired(t *testing.T) {
	now := time.Unix(1000, 0)
	for at, want := range map[time.Time]bool{{}: false, now.Add(time.Nanosecond): false, now: true, now.Add(-time.Hour): true} {
		require.Equal(t, want, (&Key[int]{Expires: at}).Expired(now), at)
	}
}

func BenchmarkFind100k(b *testing.B) {
	keys := make([]Key[int], 100_000)
	for i := range keys {
		keys[i] = Key[int]{Digest: sha256.Sum256(fmt.Appendf(nil, "wk_%032d", i)), Owner: i}
	}
	index, _, _ := NewIndex(keys)
	key := fmt.Sprintf("wk_%032d", 77_777)
	b.ReportAllocs()
	for b.Loop() {
		if index.Find(key) == nil {
			b.Fatal("not found")
		}
	}
}
