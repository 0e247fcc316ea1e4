package selftest_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/envoyauth"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/selftest"
)

type fixed struct{ rules *extauthz.Rules }

func (f fixed) Current() *extauthz.Rules { return f.rules }

// open lets everybody through.
func open(t *testing.T) envoyauth.Checker {
	c, err := extauthz.NewCompiler()
	require.NoError(t, err)
	set, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", authtest.Anonymous())})
	require.NoError(t, err)
	consumers, err := c.Consumers(nil)
	require.NoError(t, err)
	return envoyauth.NewServer(fixed{extauthz.NewRules(set, consumers)}, &authtest.Counter{}, slog.New(slog.DiscardHandler), time.Now)
}

// proxy reads a request, tidies it up or answers by itself, and asks. It stands
// for an Envoy; the real one is in e2e.
type proxy struct {
	address string
	tidy    func(target, host string) (string, string, int)
	ask     atomic.Pointer[func(*extauthz.Request) int]
}

func newProxy(t *testing.T, tidy func(target, host string) (string, string, int)) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	p := &proxy{address: listener.Addr().String(), tidy: tidy}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

func (p *proxy) serve(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // a test's
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	if err != nil {
		return
	}
	words := strings.Fields(line)
	if len(words) < 2 {
		return
	}
	target := words[1]
	rest, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader("GET / HTTP/1.1\r\n"), reader)))
	if err != nil {
		return
	}
	// Somebody else's question may come to a port that was just another's.
	ask := p.ask.Load()
	if ask == nil {
		return
	}
	target, host, status := p.tidy(target, rest.Host)
	if status == 0 {
		request := &extauthz.Request{Route: "r", Method: "GET", Target: target, Authority: host, Protocol: "HTTP/1.1"}
		for name, values := range rest.Header {
			for _, value := range values {
				request.Headers = append(request.Headers, extauthz.Header{Name: strings.ToLower(name), Value: value})
			}
		}
		status = (*ask)(request)
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status)
}

// asks has the proxy ask a checker.
func (p *proxy) asks(t *testing.T, checker envoyauth.Checker) {
	ask := func(request *extauthz.Request) int {
		if checker.Answer(t.Context(), request).Allowed() {
			return 200
		}
		return 503
	}
	p.ask.Store(&ask)
}

// advised tidies up as Envoy does with what extauthz advises.
func advised(target, host string) (string, string, int) {
	bare, query, found := strings.Cut(target, "?")
	if strings.Contains(strings.ToLower(bare), "%2f") || strings.Contains(strings.ToLower(bare), "%5c") {
		return "", "", http.StatusBadRequest
	}
	bare = path.Clean(strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(bare, "%2e", "."), "%2E", "."), `\`, "/"))
	if found {
		bare += "?" + query
	}
	return bare, host, 0
}

// run runs a test until it has an outcome, and then until told.
func run(t *testing.T, p *proxy, url string) (test *selftest.Test, outcome <-chan error, log *bytes.Buffer, stop func()) {
	outcomes, log := make(chan error, 100), &bytes.Buffer{}
	test, err := selftest.New(open(t), selftest.Options{
		URL: url, Host: "api.example", Logger: slog.New(slog.NewTextHandler(log, nil)), Passed: func(err error) { outcomes <- err }, Every: time.Millisecond,
	})
	require.NoError(t, err)
	if p != nil {
		p.asks(t, test)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- test.Run(ctx) }()
	stop = func() {
		cancel()
		require.NoError(t, <-ended)
	}
	t.Cleanup(cancel)
	return test, outcomes, log, stop
}

func ask(t *testing.T, test *selftest.Test, headers ...extauthz.Header) bool {
	return test.Answer(t.Context(), &extauthz.Request{Route: "r", Method: "GET", Target: "/", Authority: "api.example", Headers: headers}).Allowed()
}

func TestPasses(t *testing.T) {
	p := newProxy(t, advised)
	test, outcome, log, stop := run(t, p, "http://"+p.address)
	require.NoError(t, <-outcome)
	require.Eventually(t, func() bool { return ask(t, test) }, time.Minute, time.Millisecond)
	require.True(t, ask(t, test, extauthz.Header{Name: selftest.Header, Value: "guessed.0"}), "another's header says nothing")
	stop()
	require.Contains(t, log.String(), "self-test passed")
}

// Each proxy differs from one that passes in one thing.
func TestFails(t *testing.T) {
	for name, c := range map[string]struct {
		tidy func(target, host string) (string, string, int)
		says string
	}{
		"nothing tidied up":  {func(target, host string) (string, string, int) { return target, host, 0 }, "set normalize_path"},
		"not asked":          {func(string, string) (string, string, int) { return "", "", 200 }, "did not ask extauthz"},
		"everything refused": {func(string, string) (string, string, int) { return "", "", 400 }, "did not ask extauthz"},
		"another host": {func(target, host string) (string, string, int) {
			target, _, status := advised(target, host)
			return target, "fixed.example", status
		}, `reads the host "fixed.example"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, c.tidy)
			test, outcome, log, stop := run(t, p, "http://"+p.address)
			require.ErrorContains(t, <-outcome, c.says)
			require.ErrorContains(t, <-outcome, c.says, "tested again")
			require.False(t, ask(t, test))
			stop()
			require.Equal(t, 1, strings.Count(log.String(), "self-test failed"), "said once")
		})
	}
	t.Run("let through all the same", func(t *testing.T) {
		p := newProxy(t, advised)
		_, outcome, _, _ := run(t, p, "http://"+p.address)
		require.NoError(t, <-outcome)
		test, outcome, _, _ := run(t, nil, "http://"+p.address)
		open := func(request *extauthz.Request) int {
			test.Answer(t.Context(), request)
			return 200
		}
		p.ask.Store(&open)
		for err := range outcome {
			if strings.Contains(fmt.Sprint(err), "failure_mode_allow") {
				return
			}
		}
	})
}

// A proxy that isn't there yet is waited for.
func TestWaits(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	test, outcome, _, _ := run(t, nil, "http://"+listener.Addr().String())
	require.ErrorContains(t, <-outcome, "does not answer")
	require.False(t, ask(t, test))
}

// Checks that go to other processes are sent again.
func TestSeveralProcesses(t *testing.T) {
	p := newProxy(t, advised)
	test, outcome, _, _ := run(t, nil, "http://"+p.address)
	var turn atomic.Int64
	ask := func(request *extauthz.Request) int {
		if turn.Add(1)%3 == 0 {
			test.Answer(t.Context(), request)
		}
		return 503
	}
	p.ask.Store(&ask)
	for err := range outcome {
		if err == nil {
			return
		}
	}
}

func TestURL(t *testing.T) {
	for _, text := range []string{"", "127.0.0.1:80", "https://a", "http://", "http://u@a", "http://a?b", "http://[::1"} {
		require.Error(t, selftest.Validate(text), text)
	}
	require.NoError(t, selftest.Validate("http://127.0.0.1:8080/"))
	require.NoError(t, selftest.Validate("http://envoy"))
}
