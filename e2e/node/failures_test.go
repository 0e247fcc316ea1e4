//go:build slow

package node_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// traffic is members and strangers who keep asking, and how they were answered.
type traffic struct {
	stop    context.CancelFunc
	clients sync.WaitGroup

	mu                 sync.Mutex
	members, strangers map[int]int
	firstError         error
}

// asking starts them. It ends with the test at the latest.
func (w *world) asking(s *harness.System) *traffic {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	load := &traffic{stop: stop, members: map[int]int{}, strangers: map[int]int{}}
	w.Cleanup(stop)
	ask := func(counts map[int]int, headers ...string) {
		load.clients.Go(func() {
			for ctx.Err() == nil {
				answer, err := s.TryDo(http.MethodGet, "/v1/organizations", "", headers...)
				load.mu.Lock()
				if err != nil {
					load.firstError = firstOf(load.firstError, err)
					counts[0]++
				} else {
					counts[answer.Status]++
				}
				load.mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	for range 3 {
		ask(load.members, s.Key()...)
	}
	ask(load.strangers)
	ask(load.strangers, "X-API-Key", strings.Repeat("0", len(theKey)))
	return load
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// ended stops them. Nobody was let in who may not be; with losses, members may have
// been told to come again, and without they were all served.
func (l *traffic) ended(t *testing.T, losses bool) {
	t.Helper()
	l.stop()
	l.clients.Wait()
	asked := 0
	for status, count := range l.strangers {
		asked += count
		allowed := status == http.StatusUnauthorized || losses && (status == http.StatusServiceUnavailable || status == 0)
		require.True(t, allowed, "strangers were answered %v; first error: %v", l.strangers, l.firstError)
	}
	require.Greater(t, asked, 50, "enough was asked to mean something")
	require.Greater(t, l.members[http.StatusOK], 50)
	for status := range l.members {
		allowed := status == http.StatusOK || losses && (status == http.StatusServiceUnavailable || status == 0)
		require.True(t, allowed, "members were answered %v; first error: %v", l.members, l.firstError)
	}
	t.Logf("members were answered %v, strangers %v", l.members, l.strangers)
}

// twice are the parts that there are two of; counters in memory are of one ratelimit.
var twice = []string{"controlplane", "extauthz", "ingress"}

// ports are those of servers with certificates.
var ports = map[string]string{"controlplane": "18000", "extauthz": "18002", "ratelimit": "18003"}

// installTwice installs two of each part, and returns how, and where it is asked.
func (w *world) installTwice() (install []string, s *harness.System) {
	w.Helper()
	w.kubectl("", "apply", "--server-side", "-f", gatewayCRDs(w.T, "standard"))
	charts := filepath.Join(harness.Root(w.T), "charts", "weir")
	set := "ratelimit.preStopSeconds=5,controlplane.preStopSeconds=5,extauthz.preStopSeconds=5"
	for _, part := range twice {
		set += "," + part + ".replicas=2"
	}
	// A node of two processors has to hold three of each while they are replaced.
	for _, part := range append([]string{"ratelimit"}, twice...) {
		set += "," + part + ".resources.requests.cpu=10m"
	}
	install = []string{
		"upgrade", "--install", "weir", charts, "-n", "weir-system", "--create-namespace", "--wait", "--timeout", "5m",
		"-f", filepath.Join(charts, "values", "dev.yaml"), "--set", set,
	}
	w.helm(install...)
	w.kubectl(fmt.Sprintf(edge, hashed(theKey)), "apply", "--server-side", "-f", "-")
	address := join(w.field("{.spec.clusterIP}", "service", "weir-ingress", "-n", "weir-system"), "8080")
	s = w.system(address, theKey)
	w.eventually("members are served by every proxy", 2*time.Minute, func() bool {
		for range 10 {
			answer, err := s.TryDo(http.MethodGet, "/v1/organizations", "", s.Key()...)
			if err != nil || answer.Status != http.StatusOK {
				return false
			}
		}
		return true
	})
	return install, s
}

// pods are the names of a part's pods that serve.
func (w *world) pods(part string) []string {
	return strings.Fields(w.field("{.items[?(@.status.phase=='Running')].metadata.name}", "pods", "-n", "weir-system", "-l", "app.kubernetes.io/name="+part))
}

// settled waits until all of a part's pods are ready.
func (w *world) settled(part string) {
	w.Helper()
	w.kubectl("", "rollout", "status", "deployment/weir-"+part, "-n", "weir-system", "--timeout=2m")
}

// What is done to pods on purpose loses no request, and what befalls them lets
// nobody in.
func TestSlowFailures(t *testing.T) {
	w := newWorld(t)
	install, s := w.installTwice()

	for _, part := range append([]string{"ratelimit"}, twice...) {
		t.Run("a pod of "+part+" is deleted", func(t *testing.T) {
			load := w.asking(s)
			w.kubectl("", "delete", "pod", w.pods(part)[0], "-n", "weir-system", "--wait=true", "--timeout=2m")
			w.settled(part)
			load.ended(t, false)
		})
	}
	for _, part := range []string{"controlplane", "extauthz", "ratelimit"} {
		t.Run("all of "+part+" are killed at once", func(t *testing.T) {
			load := w.asking(s)
			victims := w.pods(part)
			require.NotEmpty(t, victims)
			w.kubectl("", append([]string{"delete", "pod", "-n", "weir-system", "--grace-period=0", "--force"}, victims...)...)
			w.eventually("others come", 2*time.Minute, func() bool {
				return !slices.ContainsFunc(w.pods(part), func(pod string) bool { return slices.Contains(victims, pod) })
			})
			w.settled(part)
			w.eventually("members are served again", time.Minute, func() bool {
				answer, err := s.TryDo(http.MethodGet, "/v1/organizations", "", s.Key()...)
				return err == nil && answer.Status == http.StatusOK
			})
			load.ended(t, part == "extauthz") // Without the others nothing is lost.
		})
	}
	t.Run("the node is drained", func(t *testing.T) {
		load := w.asking(s)
		before := w.pods("ingress")
		drained := make(chan error, 1)
		go func() {
			_, err := w.tryKubectl("", "drain", "node1", "--pod-selector", "app.kubernetes.io/name in ("+strings.Join(twice, ",")+")", "--delete-emptydir-data", "--timeout=4m")
			drained <- err
		}()
		// There is no other node to go to: it takes pods again, while it is drained.
		w.eventually("the node is closed", time.Minute, func() bool { return w.field("{.spec.unschedulable}", "node", "node1") == "true" })
		w.kubectl("", "uncordon", "node1")
		require.NoError(t, <-drained)
		for _, part := range twice {
			w.settled(part)
		}
		require.NotSubset(t, before, w.pods("ingress"))
		load.ended(t, false)
	})
	t.Run("certificates change", func(t *testing.T) {
		load := w.asking(s)
		w.rotate()
		load.ended(t, false)
	})
	t.Run("an upgrade is rolled back", func(t *testing.T) {
		load := w.asking(s)
		w.helm(append(install, "--set", "extauthz.podLabels.round=two,ingress.podLabels.round=two")...)
		w.helm("rollback", "weir", "-n", "weir-system", "--wait", "--timeout", "5m")
		require.Empty(t, w.field("{.spec.template.metadata.labels.round}", "deployment", "weir-ingress", "-n", "weir-system"))
		load.ended(t, false)
	})
}

// rotate makes the servers new certificates, and waits until they serve with them.
func (w *world) rotate() {
	w.Helper()
	before := map[string]string{}
	for part := range ports {
		before[part] = w.served(part)
		require.NotEmpty(w.T, before[part])
		w.kubectl("", "delete", "secret", "weir-"+part+"-tls", "-n", "weir-system")
	}
	w.kubectl("", "create", "job", "again", "--from=cronjob/weir-certificates", "-n", "weir-system")
	// Kubernetes brings what changed into the pods within a minute or so.
	w.eventually("each server has another certificate", 4*time.Minute, func() bool {
		for part := range ports {
			now := w.served(part)
			if now == "" {
				return false
			}
			for at := 0; at < len(now); at += sha256.Size * 2 {
				if strings.Contains(before[part], now[at:at+sha256.Size*2]) {
					return false
				}
			}
		}
		return true
	})
}

// served is the hashes of the certificates that a part's pods show, one after the
// other; empty while one of them does not answer.
func (w *world) served(part string) (all string) {
	addresses := strings.Fields(w.field("{.items[?(@.status.phase=='Running')].status.podIP}", "pods", "-n", "weir-system", "-l", "app.kubernetes.io/name="+part))
	for _, address := range addresses {
		shown := ""
		dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: &tls.Config{
			NextProtos:         []string{"h2"},
			InsecureSkipVerify: true, //nolint:gosec // it is only looked at
			VerifyConnection: func(state tls.ConnectionState) error {
				sum := sha256.Sum256(state.PeerCertificates[0].Raw)
				shown = hex.EncodeToString(sum[:])
				return nil
			},
		}}
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		conn, err := dialer.DialContext(ctx, "tcp", join(address, ports[part]))
		if err == nil { // Without a certificate of its own it is let go afterwards.
			_ = conn.Close()
		}
		cancel()
		if shown == "" {
			return ""
		}
		all += shown
	}
	return all
}
