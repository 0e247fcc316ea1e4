package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/services/internal/servicetest"
	"weir.dev/services/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(servicetest.RunMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestRestart checks that the daemon serves, stops in order, and finds its data
// and its page tokens again, on both databases.
func TestRestart(t *testing.T) {
	url, err := pgtest.New(t).Database(t.Context())
	require.NoError(t, err)
	for name, child := range map[string]*servicetest.Child{
		"sqlite":   servicetest.NewChild(t, "user", "{sqlite: {path: "+filepath.Join(t.TempDir(), "user.db")+"}}"),
		"postgres": servicetest.NewChild(t, "user", "{}", "WEIR_POSTGRES_URL="+url),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := servicetest.As(t.Context(), "acme")
			client := userv1.NewUserServiceClient(child.Start(t))
			user, err := client.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: "ada@example.com"}})
			require.NoError(t, err)
			page, err := client.ListRoles(ctx, &userv1.ListRolesRequest{PageSize: 3})
			require.NoError(t, err)
			require.NoError(t, child.Signal(t, syscall.SIGTERM))

			client = userv1.NewUserServiceClient(child.Start(t))
			again, err := client.GetUser(ctx, &userv1.GetUserRequest{Name: user.GetName()})
			require.NoError(t, err)
			require.Equal(t, user.String(), again.String())
			page, err = client.ListRoles(ctx, &userv1.ListRolesRequest{PageSize: 3, PageToken: page.GetNextPageToken()})
			require.NoError(t, err)
			require.Len(t, page.GetRoles(), 1)
			require.NoError(t, child.Signal(t, syscall.SIGTERM))
		})
	}
}
