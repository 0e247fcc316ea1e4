package data

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A name that JSON clients write in camel case comes in as snake case; it is
// found, unless the snake case name is there itself.
func TestMaskNames(t *testing.T) {
	for _, c := range []struct {
		name             string
		into, from, want Object
		path             []string
	}{
		{"camel in the update", Object{"a": 1.0}, Object{"fooBar": 2.0}, Object{"a": 1.0, "fooBar": 2.0}, []string{"foo_bar"}},
		{"camel in the record is removed", Object{"fooBar": 1.0, "b": 2.0}, Object{}, Object{"b": 2.0}, []string{"foo_bar"}},
		{"exact wins", Object{"foo_bar": 1.0, "fooBar": 1.0}, Object{"foo_bar": 2.0, "fooBar": 3.0}, Object{"foo_bar": 2.0, "fooBar": 1.0}, []string{"foo_bar"}},
		{"nested", Object{"outerMap": Object{"x": 1.0}}, Object{"outerMap": Object{"innerKey": 5.0}}, Object{"outerMap": Object{"x": 1.0, "innerKey": 5.0}}, []string{"outer_map", "inner_key"}},
		{"plain", Object{"a": 1.0}, Object{"a": 2.0}, Object{"a": 2.0}, []string{"a"}},
		{"unknown", Object{"a": 1.0}, Object{}, Object{"a": 1.0}, []string{"no_such"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, setPath(c.into, c.from, c.path))
			require.Equal(t, c.want, c.into)
		})
	}
	kept, err := Document(`{"fooBar":1,"b":2}`).Project([][]string{{"foo_bar"}})
	require.NoError(t, err)
	require.Equal(t, Object{"fooBar": 1.0}, kept)
}
