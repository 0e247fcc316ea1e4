package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of waiting.
const (
	requestTimeout = 2 * time.Second
	pollEvery      = time.Millisecond
	// afterFirst requests follow the first good one of each change, to see
	// whether it stays good.
	afterFirst = 20
	loadEvery  = 5 * time.Millisecond
	churnEvery = 100 * time.Millisecond
)

// phase is what was measured of one product under one condition.
type phase struct {
	Latencies []time.Duration
	// Late counts requests to a changed route that failed after its first 200.
	Late int
	// Requests and Failed are those of the load on unchanged routes.
	Requests, Failed int64
	// TimedOut counts changes that were not served in time.
	TimedOut int
}

func (p *phase) quantile(q float64) time.Duration {
	if len(p.Latencies) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(p.Latencies))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// prober asks one gateway over kept connections.
type prober struct {
	client *http.Client
	base   string
}

func newProber(port int) *prober {
	transport := &http.Transport{MaxIdleConnsPerHost: 4, DialContext: (&net.Dialer{Timeout: requestTimeout}).DialContext}
	return &prober{client: &http.Client{Transport: transport, Timeout: requestTimeout}, base: "http://127.0.0.1:" + strconv.Itoa(port)}
}

// ok reports whether the path answers 200.
func (p *prober) ok(ctx context.Context, path string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return false
	}
	response, err := p.client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	return response.StatusCode == http.StatusOK
}

// await polls until the path answers 200.
func (p *prober) await(ctx context.Context, path string, most time.Duration) (time.Duration, bool) {
	started := time.Now()
	for time.Since(started) < most && ctx.Err() == nil {
		if p.ok(ctx, path) {
			return time.Since(started), true
		}
		time.Sleep(pollEvery)
	}
	return most, false
}

// changes gives one route another path again and again, and times each change
// from its file's rename to its first 200.
func changes(ctx context.Context, d dialect, dir string, p *prober, name string, routes, count int, most time.Duration) (*phase, error) {
	result := &phase{}
	file := "probe-" + name + ".yaml"
	if err := save(dir, file, d.route("probe-"+name, "/probe/"+name+"/first")); err != nil {
		return nil, err
	}
	if _, served := p.await(ctx, "/probe/"+name+"/first", 2*most); !served {
		return nil, fmt.Errorf("the route to be changed is not served within %s", 2*most)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	var requests, failed atomic.Int64
	group.Go(func() { load(ctx, stop, p, min(routes, perFile), &requests, &failed) })
	defer func() { close(stop); group.Wait(); result.Requests, result.Failed = requests.Load(), failed.Load() }()
	for i := range count {
		path := "/probe/" + name + "/" + strconv.Itoa(i)
		if err := save(dir, file, d.route("probe-"+name, path)); err != nil {
			return nil, err
		}
		latency, served := p.await(ctx, path, most)
		if !served {
			result.TimedOut++
			continue
		}
		result.Latencies = append(result.Latencies, latency)
		for range afterFirst {
			if !p.ok(ctx, path) {
				result.Late++
			}
		}
		progress("%s: %d/%d, last %s", name, i+1, count, latency.Round(100*time.Microsecond))
	}
	return result, nil
}

// load asks unchanged routes at a steady pace.
func load(ctx context.Context, stop <-chan struct{}, p *prober, routes int, requests, failed *atomic.Int64) {
	ticker := time.NewTicker(loadEvery)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		requests.Add(1)
		if !p.ok(ctx, fmt.Sprintf("/r/%05d", i%routes)) {
			failed.Add(1)
		}
	}
}

// churn changes ten other routes a second until stop is closed.
func churn(d dialect, dir string, stop <-chan struct{}) {
	ticker := time.NewTicker(churnEvery)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		name := fmt.Sprintf("churn-%02d", i%50)
		_ = save(dir, name+".yaml", d.route(name, fmt.Sprintf("/churn/%d", i)))
	}
}

// memory is a process's resident set in MiB, and its CPU time.
func memory(pid int) (mib int, cpu time.Duration) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.Atoi(strings.Fields(rest)[0])
			mib = kib / 1024
		}
	}
	raw, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return mib, 0
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return mib, time.Duration(user+system) * 10 * time.Millisecond // the kernel's USER_HZ is 100
}
