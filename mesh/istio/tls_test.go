package istio

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeet(t *testing.T) {
	for _, c := range []struct {
		a, b []string
		want bool
	}{
		{nil, nil, true},
		{nil, []string{"a.example"}, true},
		{[]string{"a.example"}, []string{"b.example"}, false},
		{[]string{"b.example", "a.example"}, []string{"a.example"}, true},
		{[]string{"*.example"}, []string{"a.example"}, true},
		{[]string{"a.b.example"}, []string{"*.example"}, true},
		{[]string{"*.b.example"}, []string{"*.example"}, true},
		{[]string{"*.example"}, []string{"example"}, false},
		{[]string{"*.a.example"}, []string{"*.b.example"}, false},
	} {
		require.Equal(t, c.want, meet(c.a, c.b), "%v %v", c.a, c.b)
		require.Equal(t, c.want, meet(c.b, c.a), "%v %v", c.b, c.a)
	}
}
