package selftest

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir.dev/extauthz"
	"weir.dev/extauthz/envoyauth"
)

// Header marks the requests of a self-test; its value holds a secret of the
// process. The proxy must pass it on to extauthz (over HTTP, list it in
// allowed_headers).
const Header = "weir-self-test"

// Bounds of a test.
const (
	askTimeout = 2 * time.Second
	// attempts for one probe, since a proxy may spread checks over several
	// processes and only this one knows its own.
	attempts = 30
	// patience between tests that did not pass.
	patience = 2 * time.Second
)

// Options of a Test.
type Options struct {
	// URL is where the proxy listens for plain HTTP, http://host:port; a path is not
	// used.
	URL string
	// Host is the authority that is asked for; empty means that of URL.
	Host   string
	Logger *slog.Logger
	// Passed is told of each outcome, nil when the test passed.
	Passed func(err error)
	// Every is the time between tests that did not pass; zero means 2 s.
	Every time.Duration
}

// Test is one process's self-test. It is a Checker that refuses until Run has
// seen it pass. Safe for concurrent use.
type Test struct {
	envoyauth.Checker
	options Options
	address string
	token   string
	passed  atomic.Bool

	mu   sync.Mutex
	seen map[string]reading
}

// reading is a request as it came here.
type reading struct{ host, target string }

// New puts a test before a server.
func New(inner envoyauth.Checker, options Options) (*Test, error) {
	address, host, err := parse(options.URL)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	if options.Host == "" {
		options.Host = host
	}
	if options.Every <= 0 {
		options.Every = patience
	}
	return &Test{Checker: inner, options: options, address: address, token: hex.EncodeToString(secret), seen: map[string]reading{}}, nil
}

// Validate says what is wrong with a URL.
func Validate(text string) error {
	_, _, err := parse(text)
	return err
}

func parse(text string) (address, host string, err error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Scheme != "http" || parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" {
		return "", "", fmt.Errorf("selfTest.url: %q is not of the form http://host:port", text)
	}
	port := parsed.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(parsed.Hostname(), port), parsed.Host, nil
}

// Answer implements envoyauth.Checker.
func (t *Test) Answer(ctx context.Context, request *extauthz.Request) *envoyauth.Answer {
	if value, presence := request.Credential(Header); presence == extauthz.Present {
		token, probe, _ := strings.Cut(value, ".")
		if subtle.ConstantTimeCompare([]byte(token), []byte(t.token)) == 1 {
			t.mu.Lock()
			t.seen[probe] = reading{request.Authority, request.Target}
			t.mu.Unlock()
			return t.Refuse(ctx, request, extauthz.ReasonSelfTest)
		}
	}
	if !t.passed.Load() {
		return t.Refuse(ctx, request, extauthz.ReasonSelfTest)
	}
	return t.Checker.Answer(ctx, request)
}

// Run tests until the test passes or ctx ends.
func (t *Test) Run(ctx context.Context) error {
	last := ""
	for {
		err := t.test(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // The process ends.
		}
		t.options.Passed(err)
		if err == nil {
			t.options.Logger.InfoContext(ctx, "self-test passed: the proxy reads paths and hosts as extauthz does", "proxy", t.address)
			t.passed.Store(true)
			<-ctx.Done()
			return nil
		}
		if text := err.Error(); text != last {
			last = text
			t.options.Logger.ErrorContext(ctx, "self-test failed; every check is refused until it passes", "proxy", t.address, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.options.Every):
		}
	}
}

// test sends every probe, and lists what differs.
func (t *Test) test(ctx context.Context) error {
	var differences []error
	for i, probe := range probes() {
		status, got, arrived, err := t.ask(ctx, strconv.Itoa(i), probe)
		if err != nil {
			return fmt.Errorf("the proxy at %s does not answer: %w", t.address, err)
		}
		if err := probe.judge(t.options.Host, status, got, arrived); err != nil {
			differences = append(differences, err)
		}
	}
	return errors.Join(differences...)
}

// ask sends a probe until it comes here or the proxy refuses it by itself.
func (t *Test) ask(ctx context.Context, name string, p probe) (status int, got reading, arrived bool, err error) {
	for range attempts {
		if status, err = t.send(ctx, name, p); err != nil {
			return 0, got, false, err
		}
		t.mu.Lock()
		got, arrived = t.seen[name]
		delete(t.seen, name)
		t.mu.Unlock()
		if arrived || refusesByItself(status) || ctx.Err() != nil {
			break
		}
	}
	return status, got, arrived, nil
}

// refusesByItself are the answers of a proxy that doesn't take a path: it says so,
// or sends the client to a better one.
func refusesByItself(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusTemporaryRedirect || status == http.StatusPermanentRedirect || status == http.StatusMovedPermanently
}

// send writes the request itself, since Go's client would tidy it up.
func (t *Test) send(ctx context.Context, name string, p probe) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
	request := "GET " + p.target + " HTTP/1.1\r\nHost: " + p.hostOf(t.options.Host) + "\r\n" + Header + ": " + t.token + "." + name + "\r\nConnection: close\r\n\r\n"
	if _, err := conn.Write([]byte(request)); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	_ = answer.Body.Close()
	return answer.StatusCode, nil
}
