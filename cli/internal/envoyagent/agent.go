package envoyagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is asked of Envoy and of who asks here.
const (
	askTimeout = 3 * time.Second
	// metricsTimeout and maxMetrics are for one scrape.
	metricsTimeout = 20 * time.Second
	maxMetrics     = 256 << 20
	headerTimeout  = 5 * time.Second
	// maxWaiting bounds who waits for the end of draining: the kubelet does.
	maxWaiting = 256
	// guardsWithin bounds how long an Envoy is kept unready for want of addresses of
	// the servers that requests are checked by. It looks them up every 5 seconds.
	guardsWithin = 15 * time.Second
	// goneEvery and goneTimeout are for the wait for Envoy's own end.
	goneEvery   = 200 * time.Millisecond
	goneTimeout = 30 * time.Second
)

// Config of an Agent.
type Config struct {
	// Admin is host:port of Envoy's admin interface.
	Admin string
	// Delay is how long Envoy is given at least before it is said to be drained:
	// whoever sends connections here has to learn first that it should not any more.
	Delay time.Duration
	// Timeout is how long requests may run on at most.
	Timeout time.Duration
	Logger  *slog.Logger
}

// Agent serves
//
//	GET /ready    200 while Envoy is ready, has had its configuration, and the pod is not ending;
//	              first when Envoy knows where extauthz and ratelimit are, or has asked for 15 s
//	GET /live     200 while Envoy answers
//	GET /metrics  Envoy's, for Prometheus
//	GET /drained  200 when draining is over; it waits for that. It begins nothing: only the end of Serve's context does
//
// and nothing that changes anything, since everybody who reaches the pod may ask.
type Agent struct {
	config   Config
	draining atomic.Bool
	drained  chan struct{}
	waiting  chan struct{}

	mu sync.Mutex
	// configured is when Envoy was seen with its configuration first, and guarded
	// says that it was seen to know its guards, or waited for them long enough.
	configured time.Time
	guarded    bool
}

// New makes an Agent, for one call of Serve.
func New(config Config) *Agent {
	return &Agent{config: config, drained: make(chan struct{}), waiting: make(chan struct{}, maxWaiting)}
}

// Serve serves on listener. When ctx ends it drains Envoy, and returns when Envoy
// has ended, or can be taken to have. Closing kill cuts that short.
func (a *Agent) Serve(ctx context.Context, kill <-chan struct{}, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", a.serveReady)
	mux.HandleFunc("GET /live", a.serveLive)
	mux.HandleFunc("GET /metrics", a.serveMetrics)
	mux.HandleFunc("GET /drained", a.serveDrained)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.config.Logger.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("agent: %w", err)
	case <-ctx.Done():
	}
	a.draining.Store(true)
	ending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() {
		select {
		case <-kill:
			cancel()
		case <-ending.Done():
		}
	}()
	a.drain(ending)
	close(a.drained)
	a.awaitEnd(ending)
	return server.Close()
}

func (a *Agent) drain(ctx context.Context) {
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	_, err := ask(ctx, http.MethodPost, "http://"+a.config.Admin+"/drain_listeners?graceful&skip_exit")
	if err == nil {
		select {
		case <-time.After(a.config.Delay):
		case <-ctx.Done():
		}
		err = idle(ctx, a.config.Admin)
	}
	took := time.Since(started).Round(time.Millisecond).String()
	if err != nil {
		a.config.Logger.Warn("Envoy is not drained", "after", took, "error", err)
		return
	}
	a.config.Logger.Info("Envoy is drained", "after", took)
}

// awaitEnd returns when Envoy does not answer any more: until then the kubelet may
// still ask whether it is drained.
func (a *Agent) awaitEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(goneEvery):
		}
		if _, err := ask(ctx, http.MethodGet, "http://"+a.config.Admin+"/ready"); err != nil {
			var refused *net.OpError
			if errors.As(err, &refused) {
				return
			}
		}
	}
}

func (a *Agent) serveReady(w http.ResponseWriter, r *http.Request) {
	answer(w, a.ready(r.Context()))
}

func (a *Agent) ready(ctx context.Context) error {
	if a.draining.Load() {
		return errors.New("the pod is ending")
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := ask(ctx, http.MethodGet, "http://"+a.config.Admin+"/ready"); err != nil {
		return err
	}
	// Envoy calls itself ready, too, when it has waited for the control plane in vain.
	updates, err := total(ctx, a.config.Admin, `^listener_manager\.lds\.update_success$`)
	if err == nil && updates == 0 {
		err = errors.New("the control plane has not sent any listeners yet")
	}
	if err != nil {
		return err
	}
	return a.knowsGuards(ctx)
}

// knowsGuards says which of the servers that requests are checked by Envoy has no
// address of: one whose pods became ready after Envoy asked for them, mostly.
// Requests would be let in unlimited, or be refused, until it asks again. Once it
// is nil it stays so: who goes away later must not take the proxies along.
func (a *Agent) knowsGuards(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.guarded {
		return nil
	}
	if a.configured.IsZero() {
		a.configured = time.Now()
	}
	members, err := stats(ctx, a.config.Admin, `^cluster\.weir/(extauthz|ratelimit)\.membership_total$`)
	if err != nil {
		return err
	}
	var unknown []string
	for name, count := range members {
		if count == 0 {
			unknown = append(unknown, strings.TrimSuffix(strings.TrimPrefix(name, "cluster."), ".membership_total"))
		}
	}
	slices.Sort(unknown)
	waited := time.Since(a.configured)
	switch {
	case len(unknown) == 0:
	case waited < guardsWithin:
		return fmt.Errorf("no address of %s is known to Envoy yet", strings.Join(unknown, " and "))
	default:
		a.config.Logger.Warn("Envoy is ready without the address of a server that requests are checked by: they are answered as when it is down",
			"clusters", unknown, "waited", waited.Round(time.Millisecond).String())
	}
	a.guarded = true
	return nil
}

func (a *Agent) serveLive(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	_, err := ask(ctx, http.MethodGet, "http://"+a.config.Admin+"/server_info")
	answer(w, err)
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n") // The client is gone when this fails.
}

func (a *Agent) serveMetrics(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), metricsTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.config.Admin+"/stats/prometheus?usedonly", nil)
	if err != nil {
		answer(w, err)
		return
	}
	response, err := client().Do(request)
	if err != nil {
		answer(w, err)
		return
	}
	defer response.Body.Close()
	w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(response.Body, maxMetrics)) // as above
}

func (a *Agent) serveDrained(w http.ResponseWriter, r *http.Request) {
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
	default:
		http.Error(w, "too many wait already", http.StatusServiceUnavailable)
		return
	}
	select {
	case <-a.drained:
		answer(w, nil)
	case <-r.Context().Done():
	}
}
