package user_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/services/user"
)

func TestStrandsOthers(t *testing.T) {
	owner, viewer := []string{"admin", "owner"}, []string{"viewer"}
	for _, test := range []struct {
		name            string
		before, after   []string
		owners, members int64
		want            bool
	}{
		{"the last owner leaves the others", owner, nil, 0, 2, true},
		{"the last owner is demoted", owner, viewer, 0, 1, true},
		{"another owner stays", owner, nil, 1, 1, false},
		{"nobody else is there", owner, nil, 0, 0, false},
		{"still an owner", owner, []string{"owner"}, 0, 5, false},
		{"never was an owner", viewer, nil, 0, 5, false},
	} {
		require.Equal(t, test.want, user.StrandsOthers(test.before, test.after, test.owners, test.members), test.name)
	}
}
