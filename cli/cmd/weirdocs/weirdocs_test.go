package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

func TestCodesOfSource(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       []coded
		problem    string
	}{
		{
			name: "text", body: `func f() error { return fault.New(codes.NotFound, "X_NOT_FOUND", "x/%s does not exist", id) }`,
			want: []coded{{module: "m", reason: "X_NOT_FOUND", message: "x/… does not exist", code: codes.NotFound}},
		},
		{
			name: "constant", body: "const r = \"X\"\nfunc f() error { return fault.New(codes.Internal, string(r), \"a \"+\"b\") }",
			want: []coded{{module: "m", reason: "X", message: "a b", code: codes.Internal}},
		},
		{
			name: "each of a case", body: "const a, b = \"A\", \"B\"\nfunc f(r string) error { switch r { case a, b: return fault.New(codes.Aborted, string(r), \"t\") }; return nil }",
			want: []coded{{module: "m", reason: "A", message: "t", code: codes.Aborted}, {module: "m", reason: "B", message: "t", code: codes.Aborted}},
		},
		{name: "variable reason", body: `func f(r string) error { return fault.New(codes.Internal, r, "t") }`, problem: "as constants"},
		{name: "unknown code", body: `func f() error { return fault.New(codes.Odd, "X", "t") }`, problem: "no gRPC code Odd"},
		{name: "not ours", body: `func f() error { return errors.New("X") }`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "m"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "m", "m.go"), []byte("package m\n"+c.body), 0o644))
			found, err := codesOf(dir, "m")
			if c.problem != "" {
				require.ErrorContains(t, err, c.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, found)
		})
	}
}

func TestPagesHoldTheirSource(t *testing.T) {
	require.Contains(t, problemsPage(), "`WEIR3007`")
	require.Contains(t, answersPage(), "`RATE_LIMITED`")
	commands := commandsPage()
	require.Contains(t, commands, "## weir credentials")
	require.Contains(t, commands, "--detach")
	require.NotContains(t, commands, "report-fd", "hidden")
}
