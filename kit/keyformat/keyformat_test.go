package keyformat_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/keyformat"
)

const id = "x0abcdefgh"

func TestKeysParse(t *testing.T) {
	pattern := regexp.MustCompile("^" + keyformat.Pattern + "$")
	seen := map[string]bool{}
	for range 200 {
		key, err := keyformat.New(id)
		require.NoError(t, err)
		require.False(t, seen[key])
		seen[key] = true
		got, ok := keyformat.Parse(key)
		require.True(t, ok, key)
		require.Equal(t, id, got)
		require.True(t, keyformat.Looks(key))
		require.Regexp(t, pattern, key)
	}
}

// Any one character changed is noticed: CRC-32 finds every burst of up to 32
// bits.
func TestEveryCharacterIsChecked(t *testing.T) {
	key, err := keyformat.New(id)
	require.NoError(t, err)
	for i := range len(key) {
		for _, c := range []byte("aZ0_-") {
			if key[i] == c {
				continue
			}
			_, ok := keyformat.Parse(key[:i] + string(c) + key[i+1:])
			require.False(t, ok, "place %d", i)
		}
	}
}

func TestBadForms(t *testing.T) {
	good, err := keyformat.New(id)
	require.NoError(t, err)
	for _, key := range []string{
		"", "weir_", "weir_" + id, "weir__" + strings.Repeat("a", 38), strings.ToUpper(good), " " + good, good + " ", good + "\n",
		strings.Replace(good, "weir", "wier", 1), good[:len(good)-1], good + "0",
	} {
		_, ok := keyformat.Parse(key)
		require.False(t, ok, "%q", key)
	}
	for _, bad := range []string{"", "short", "0bcdefgh", "with_underscore", "With-Case", strings.Repeat("a", 64)} {
		_, err := keyformat.New(bad)
		require.Error(t, err, bad)
	}
}

// Each character is as likely as the next: of 32,000 drawn, each of 62 comes
// about 516 times.
func TestSecretIsEven(t *testing.T) {
	counts := map[rune]int{}
	for range 1000 {
		key, err := keyformat.New(id)
		require.NoError(t, err)
		for _, c := range strings.Split(key, "_")[2][:32] {
			counts[c]++
		}
	}
	require.Len(t, counts, 62)
	for c, n := range counts {
		require.InDelta(t, 516, n, 150, "%c", c) // more than six standard deviations
	}
}

func FuzzParse(f *testing.F) {
	good, err := keyformat.New(id)
	require.NoError(f, err)
	f.Add(good)
	f.Add("weir_x0_0")
	f.Fuzz(func(t *testing.T, key string) {
		if got, ok := keyformat.Parse(key); ok {
			require.Equal(t, "weir_"+got+"_", key[:len(key)-38])
		}
	})
}
