package stack

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/state"
)

// fakeClaimer has some ports taken and counts the open claims.
type fakeClaimer struct {
	busy map[int]error
	open map[int]bool
}

type fakeClaim struct {
	from *fakeClaimer
	port int
}

func (c fakeClaim) Close() error { delete(c.from.open, c.port); return nil }

func (f *fakeClaimer) Claim(port int) (io.Closer, error) {
	if err := f.busy[port]; err != nil {
		return nil, err
	}
	if f.open[port] {
		return nil, fmt.Errorf("%d is held by another weir", port)
	}
	f.open[port] = true
	return fakeClaim{f, port}, nil
}

func busy(ports ...int) *fakeClaimer {
	f := &fakeClaimer{busy: map[int]error{}, open: map[int]bool{}}
	for _, port := range ports {
		f.busy[port] = fmt.Errorf("%d is held by 7/nginx", port)
	}
	return f
}

func TestAllocate(t *testing.T) {
	privileged := busy()
	privileged.busy[80] = fmt.Errorf("80 needs root: %w", syscall.EACCES)
	manyBusy := busy()
	for port := 8080; port < 8200; port++ {
		manyBusy.busy[port] = fmt.Errorf("%d is held by 7/nginx", port)
	}
	for name, tc := range map[string]struct {
		claimer    *fakeClaimer
		listeners  []Listener
		remembered state.Ports
		ingress    map[int]int
		internal   state.Ports
		notes      []string
		err        string
	}{
		"all free": {
			claimer: busy(), listeners: []Listener{{Port: 8080}, {Port: 8443}},
			ingress: map[int]int{8080: 8080, 8443: 8443}, internal: state.Ports{"a": 20000, "b": 20001},
		},
		"shifts past the busy ones": {
			claimer: busy(8080, 8081, 20000), listeners: []Listener{{Port: 8080}},
			ingress: map[int]int{8080: 8082}, internal: state.Ports{"a": 20001, "b": 20002},
			notes: []string{"8080 is held by 7/nginx, using 8082"},
		},
		"neighbours do not collide": {
			claimer: busy(8080), listeners: []Listener{{Port: 8080}, {Port: 8081}},
			ingress: map[int]int{8080: 8081, 8081: 8082}, internal: state.Ports{"a": 20000, "b": 20001},
			notes: []string{"8080 is held by 7/nginx, using 8081", "8081 is held by another weir, using 8082"},
		},
		"privileged ports move": {
			claimer: privileged, listeners: []Listener{{Port: 80}},
			ingress: map[int]int{80: 8080}, internal: state.Ports{"a": 20000, "b": 20001},
			notes: []string{"80 needs root: permission denied, using 8080"},
		},
		"remembered": {
			claimer: busy(), listeners: []Listener{{Port: 8080}}, remembered: state.Ports{"b": 31000, "a": -1},
			ingress: map[int]int{8080: 8080}, internal: state.Ports{"a": 20000, "b": 31000},
		},
		"remembered and busy or twice": {
			claimer: busy(31000), listeners: []Listener{{Port: 8080}}, remembered: state.Ports{"a": 20001, "b": 31000},
			ingress: map[int]int{8080: 8080}, internal: state.Ports{"a": 20001, "b": 20000},
		},
		"nothing left": {
			claimer: manyBusy, listeners: []Listener{{Port: 8080}}, err: "no port for the ingress: 8080 is held by 7/nginx",
		},
		"end of the range": {
			claimer: busy(65535), listeners: []Listener{{Port: 65535}}, err: "no port for the ingress",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := Allocate(tc.claimer, tc.listeners, []string{"a", "b"}, tc.remembered, 20000)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				require.Empty(t, tc.claimer.open, "claims must be given back")
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.ingress, a.Ingress)
			require.Equal(t, tc.internal, a.Internal)
			require.Equal(t, tc.notes, a.Notes)
			a.Release()
			require.Empty(t, tc.claimer.open)
		})
	}
}

func TestSystemClaimer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	_, err = SystemClaimer{}.Claim(port)
	require.ErrorContains(t, err, fmt.Sprintf("%d is held by %d/", port, os.Getpid()))
	require.NoError(t, listener.Close())
	claim, err := SystemClaimer{}.Claim(port)
	require.NoError(t, err)
	_, err = SystemClaimer{}.Claim(port)
	require.EqualError(t, err, strconv.Itoa(port)+" is held by another weir")
	require.NoError(t, claim.Close())
	claim, err = SystemClaimer{}.Claim(port)
	require.NoError(t, err)
	require.NoError(t, claim.Close())
}

func TestDefaultBaseIsStableAndInRange(t *testing.T) {
	for i := range 100 {
		base := DefaultBase(fmt.Sprintf("/state/%d", i))
		require.Equal(t, base, DefaultBase(fmt.Sprintf("/state/%d", i)))
		require.GreaterOrEqual(t, base, rangeFirst)
		require.Less(t, base+len(uses()), rangeFirst+rangeSize)
	}
}

// gatewayYAML is a Gateway with the given listeners, in YAML's flow style.
func gatewayYAML(name, class, listeners string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s}\nspec: {gatewayClassName: %s, listeners: [%s]}\n", name, class, listeners)
}

func TestListeners(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []Listener
		err   string
	}{
		"several files and documents": {
			files: map[string]string{
				"a.yaml":      gatewayYAML("a", "weir", "{name: x, protocol: HTTP, port: 8080}, {name: y, protocol: HTTP, port: 8080, hostname: x.org}") + "---\n" + gatewayYAML("b", "weir", "{name: x, protocol: HTTP, port: 7070}"),
				"deep/b.yml":  gatewayYAML("c", "weir", "{name: x, protocol: TLS, port: 9090, tls: {mode: Passthrough}}"),
				"c.json":      `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"j"},"spec":{"gatewayClassName":"weir","listeners":[{"name":"x","protocol":"HTTP","port":6060}]}}`,
				".git/g.yaml": gatewayYAML("hidden", "weir", "{name: x, protocol: HTTP, port: 1}"),
				"other.yaml":  gatewayYAML("other", "istio", "{name: x, protocol: HTTP, port: 2}"),
			},
			want: []Listener{{6060, false}, {7070, false}, {8080, false}, {9090, true}},
		},
		"broken neighbours": {
			files: map[string]string{"a.yaml": "kind: [", "b.yaml": "kind: Gateway\n---\n" + gatewayYAML("a", "weir", "{name: x, protocol: HTTP, port: 81}")},
			want:  []Listener{{81, false}},
		},
		"no HTTP":     {files: map[string]string{"a.yaml": gatewayYAML("a", "weir", "{name: x, protocol: TLS, port: 1}")}, err: "no Gateway of class weir"},
		"other class": {files: map[string]string{"a.yaml": gatewayYAML("a", "istio", "{name: x, protocol: HTTP, port: 1}")}, err: "no Gateway of class weir"},
		"no files":    {err: "no Gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for path, content := range tc.files {
				full := filepath.Join(dir, path)
				require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o700))
				require.NoError(t, os.WriteFile(full, []byte(content), 0o600))
			}
			got, err := Listeners(dir)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
	_, err := Listeners("/nonexistent")
	require.ErrorContains(t, err, "name one with --dir")
}
