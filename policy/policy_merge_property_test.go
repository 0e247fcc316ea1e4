package policy

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// plainMerge is what mergeLevels has to come to, key by key, said in the plainest
// way: who is in effect for each key.
func plainMerge(levels [levelCount][]*statement) map[string]string {
	type entry struct {
		value string
		level int
	}
	current := map[string]entry{}
	for level, statements := range levels {
		for _, s := range slices.Backward(statements) { // the youngest first
			switch {
			case len(s.pieces) == 0:
				continue
			case s.atomic && s.overrides:
				clear(current)
			case s.atomic && len(current) > 0:
				continue
			}
			for _, piece := range s.pieces {
				there, taken := current[piece.key]
				if !taken || s.overrides || there.level == level {
					current[piece.key] = entry{fmt.Sprint(piece.value), level}
				}
			}
		}
	}
	values := map[string]string{}
	for key, entry := range current {
		values[key] = entry.value
	}
	return values
}

func valuesOf(e effective) map[string]string {
	values := map[string]string{}
	for _, won := range e.pieces {
		values[won.key] = fmt.Sprint(won.value)
	}
	return values
}

// drawLevels makes policies on levels; what each says has its name as the value.
// On a level at most the youngest is atomic, as attachment leaves it.
func drawLevels(choose func(most int) int) [levelCount][]*statement {
	var levels [levelCount][]*statement
	for level := range levels {
		for i := range choose(3) {
			name := fmt.Sprintf("%d%c", level, 'a'+i)
			var pieces []string
			for key := range 4 {
				if choose(1) == 1 {
					pieces = append(pieces, fmt.Sprintf("k%d=%s", key, name))
				}
			}
			s := said(name, choose(1) == 1, choose(1) == 1, pieces...)
			levels[level] = append(levels[level], s)
		}
		slices.SortFunc(levels[level], comparePrecedenceOf)
		if at := slices.IndexFunc(levels[level], func(s *statement) bool { return s.atomic }); at >= 0 {
			levels[level] = levels[level][:at+1]
		}
	}
	return levels
}

func requireSound(t require.TestingT, levels [levelCount][]*statement) {
	e := mergeLevels(levels)
	require.Equal(t, plainMerge(levels), valuesOf(e))
	require.Len(t, valuesOf(e), len(e.pieces), "a key twice")
	require.True(t, slices.IsSortedFunc(e.pieces, func(a, b wonPiece) int { return compareLayers(a.from, b.from) }), "out of order")
	for _, layer := range e.layers {
		use, ok := layer.use()
		if len(layer.pieces) == 0 {
			require.False(t, ok)
			continue
		}
		// Nothing that a policy says is lost without a winner who is told.
		require.Equal(t, len(layer.pieces), layer.kept+len(layer.keys), layer.origin.String())
		require.True(t, ok)
		require.NotEmpty(t, use.Reason)
		switch {
		case layer.kept == len(layer.pieces):
			require.Equal(t, PolicyApplied, use.Effect)
			require.Empty(t, use.By)
		case layer.kept > 0:
			require.Equal(t, PolicyPartly, use.Effect)
		default:
			require.Equal(t, PolicyOverridden, use.Effect)
		}
		if use.Effect != PolicyApplied {
			require.NotEmpty(t, use.By)
			for _, winner := range layer.winners() {
				require.Positive(t, winner.by.kept, "the winner is in effect")
			}
		}
	}
}

func TestMergeIsAsPlainlySaid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		requireSound(t, drawLevels(func(most int) int { return rapid.IntRange(0, most).Draw(t, "") }))
	})
}

// Policies of one mode and strategy may be put together in any grouping.
func TestMergeOfOneKindIsAssociative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		overrides, atomic := rapid.Bool().Draw(t, "overrides"), rapid.Bool().Draw(t, "atomic")
		draw := func(name string) *statement {
			var pieces []string
			for key := range 4 {
				if rapid.Bool().Draw(t, name) {
					pieces = append(pieces, fmt.Sprintf("k%d=%s", key, name))
				}
			}
			return said(name, overrides, atomic, pieces...)
		}
		joined := func(e effective) *statement {
			var pieces []string
			for _, key := range slices.Sorted(maps.Keys(valuesOf(e))) {
				pieces = append(pieces, key+"="+valuesOf(e)[key])
			}
			return said("joined", overrides, atomic, pieces...)
		}
		a, b, c := draw("a"), draw("b"), draw("c")
		whole := mergeLevels([levelCount][]*statement{{a}, {b}, {c}})
		left := joined(mergeLevels([levelCount][]*statement{{a}, {b}}))
		right := joined(mergeLevels([levelCount][]*statement{1: {b}, 2: {c}}))
		require.Equal(t, valuesOf(whole), valuesOf(mergeLevels([levelCount][]*statement{1: {left}, 2: {c}})))
		require.Equal(t, valuesOf(whole), valuesOf(mergeLevels([levelCount][]*statement{0: {a}, 1: {right}})))
	})
}

// FuzzMerge reads choices from the input.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 0, 1, 1, 2, 0, 1, 1, 1, 0, 0})
	f.Add([]byte("\x03\x01\x01\x00\x00\x01\x00\x01\x01\x01\x01\x01\x00\x02"))
	f.Fuzz(func(t *testing.T, choices []byte) {
		requireSound(t, drawLevels(func(most int) int {
			if len(choices) == 0 {
				return 0
			}
			choice := int(choices[0]) % (most + 1)
			choices = choices[1:]
			return choice
		}))
	})
}
