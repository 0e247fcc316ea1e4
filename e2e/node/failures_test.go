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
func (w *world) asking(s *harness.System) *traffic { return w.askingEvery(s, 20*time.Millisecond) }

// askingEvery is asking with that pause after each answer.
func (w *world) askingEvery(s *harness.System, pause time.Duration) *traffic {
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
				time.Sleep(pause)
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

// answered is how many answers there were until now.
func (l *traffic) answered() (count int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, group := range []map[int]int{l.members, l.strangers} {
		for _, each := range group {
			count += each
		}
	}
	return count
}

// enough says that members were served, and strangers refused, so often that a share
// means something: few are asked on a machine with too much to do.
func (l *traffic) enough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.members[http.StatusOK] > 500 && l.strangers[http.StatusUnauthorized] > 200
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// fewLost is the share of requests that may be told to come again while pods are
// replaced on purpose. It is for checks that take longer than a second on a machine
// with too much to do; what a server that goes did not answer is asked of another.
const fewLost = 0.01

// ended stops them. Nobody was let in who may not be, members were served or told
// to come again, and no more than a share of the requests was told so.
func (l *traffic) ended(t *testing.T, lost float64) {
	t.Helper()
	for deadline := time.Now().Add(patience); !l.enough() && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	l.stop()
	l.clients.Wait()
	t.Logf("members were answered %v, strangers %v; first error: %v", l.members, l.strangers, l.firstError)
	for _, group := range []struct {
		answers map[int]int
		right   int
	}{{l.members, http.StatusOK}, {l.strangers, http.StatusUnauthorized}} {
		asked, again := 0, group.answers[0]+group.answers[http.StatusServiceUnavailable]
		for status, count := range group.answers {
			asked += count
			require.Contains(t, []int{0, http.StatusServiceUnavailable, group.right}, status)
		}
		require.Greater(t, group.answers[group.right], 50, "enough was asked to mean something")
		require.LessOrEqual(t, float64(again), lost*float64(asked))
	}
}

// killed ends both processes of a program, and waits until there are two others.
func (w *world) killed(program string) {
	w.Helper()
	var before []int
	w.eventually("two of "+program+" run", time.Minute, func() bool { // another may be on its way out
		before = w.node.Processes(program)
		return len(before) == 2
	})
	require.Equal(w.T, 2, w.node.Kill(program))
	w.eventually("the kubelet starts "+program+" again", 2*time.Minute, func() bool {
		now := w.node.Processes(program)
		return len(now) == 2 && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) })
	})
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
		set += "," + part + ".resources.requests.cpu=100m"
	}
	install = []string{
		"upgrade", "--install", "weir", charts, "-n", "weir-system", "--create-namespace", "--wait", "--timeout", "5m",
		"-f", filepath.Join(charts, "values", "dev.yaml"), "--set", set,
	}
	w.helm(install...)
	return install, w.policed()
}

// policed applies the policy of a small platform, and waits until it is served.
func (w *world) policed() *harness.System {
	w.Helper()
	w.kubectl(fmt.Sprintf(edge, hashed(theKey)), "apply", "--server-side", "-f", "-")
	s := w.system(join(w.field("{.spec.clusterIP}", "service", "weir-ingress", "-n", "weir-system"), "8080"), theKey)
	w.recovered(s)
	return s
}

// recovered waits until members are served so often in a row that every proxy
// must have been asked.
func (w *world) recovered(s *harness.System) {
	w.Helper()
	address := strings.TrimPrefix(s.URL, "http://")
	w.eventually("members are served by every proxy", 2*time.Minute, func() bool {
		for range 40 { // On a connection of its own each: one of them would be with one proxy.
			if answers(address, "/v1/organizations", s.Key()...) != http.StatusOK {
				return false
			}
		}
		return true
	})
}

// pods are the names of a part's pods that serve.
func (w *world) pods(part string) []string {
	return strings.Fields(w.field("{.items[?(@.status.phase=='Running')].metadata.name}", "pods", "-n", "weir-system", "-l", "app.kubernetes.io/name="+part))
}

// settled waits until all of a part's pods are ready.
func (w *world) settled(part string) {
	w.Helper()
	w.kubectl("", "rollout", "status", "deployment/weir-"+part, "-n", "weir-system", "--timeout=4m")
}

// Whatever is done to pods, nobody is let in who may not be; and what is done on
// purpose disturbs few.
func TestSlowFailures(t *testing.T) {
	w := newWorld(t)
	install, s := w.installTwice()

	for _, part := range append([]string{"ratelimit"}, twice...) {
		t.Run("a pod of "+part+" is deleted", func(t *testing.T) {
			load := w.asking(s)
			w.kubectl("", "delete", "pod", w.pods(part)[0], "-n", "weir-system", "--wait=true", "--timeout=4m")
			w.settled(part)
			load.ended(t, fewLost)
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
			w.recovered(s)
			if part == "extauthz" {
				load.ended(t, 1) // Nobody can be let in meanwhile.
				return
			}
			load.ended(t, fewLost)
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
		load.ended(t, fewLost)
	})
	t.Run("Kubernetes' API is killed, then the control plane, then every proxy", func(t *testing.T) {
		load := w.asking(s)
		require.Equal(t, 1, w.node.Kill("kube-apiserver"))
		w.killed("controlplaned")
		w.eventually("enough is asked without them", time.Minute, func() bool { return load.answered() > 500 })
		load.ended(t, fewLost)
		// Proxies that know nothing are told what was in force, though nobody can be asked.
		w.killed("envoy")
		w.recovered(s)
		require.Empty(t, w.node.Processes("kube-apiserver"))
		load = w.asking(s)
		require.NoError(t, w.node.StartAPI(t.Context()))
		w.settled("controlplane")
		w.eventually("enough is asked with them", time.Minute, func() bool { return load.answered() > 500 })
		load.ended(t, fewLost)
		w.kubectl(fmt.Sprintf(edge, hashed(theKey[:40])), "apply", "--server-side", "--force-conflicts", "-f", "-")
		address := strings.TrimPrefix(s.URL, "http://")
		w.eventually("what is changed now is in force everywhere", time.Minute, func() bool {
			for range 10 { // there are several extauthz, one of which may be told later
				if answers(address, "/v1/organizations", "X-API-Key", theKey[:40]) != http.StatusOK || answers(address, "/v1/organizations", s.Key()...) != http.StatusUnauthorized {
					return false
				}
			}
			return true
		})
		w.kubectl(fmt.Sprintf(edge, hashed(theKey)), "apply", "--server-side", "--force-conflicts", "-f", "-")
		w.recovered(s)
	})
	t.Run("certificates change", func(t *testing.T) {
		load := w.asking(s)
		w.rotate()
		load.ended(t, fewLost)
	})
	t.Run("an upgrade is rolled back", func(t *testing.T) {
		load := w.asking(s)
		w.helm(append(install, "--set", "extauthz.podLabels.round=two,ingress.podLabels.round=two")...)
		w.helm("rollback", "weir", "-n", "weir-system", "--wait", "--timeout", "5m")
		require.Empty(t, w.field("{.spec.template.metadata.labels.round}", "deployment", "weir-ingress", "-n", "weir-system"))
		load.ended(t, fewLost)
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
