// Command peer is a workload of the suites: it answers HTTP with the headers that it
// was sent, as JSON, and echoes TCP, and
// calls others on and on and writes each second what came of it, as a line of JSON.
//
//	peer --http :8080 --tcp :9000 [--call URL] [--hold host:port]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// each is the pause between two calls.
const each = 20 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

// peer counts answers by status, "0" where there was none, and bytes that came back
// over the connection that is held.
type peer struct {
	mu     sync.Mutex
	counts map[string]int
}

func (p *peer) count(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[what]++
}

func run(ctx context.Context) error {
	web := flag.String("http", ":8080", "where HTTP is served")
	raw := flag.String("tcp", ":9000", "where TCP is echoed")
	call := flag.String("call", "", "URL that is asked on and on")
	hold := flag.String("hold", "", "host:port that is spoken with over one TCP connection")
	flag.Parse()
	p := &peer{counts: map[string]int{}}
	listener, err := net.Listen("tcp", *raw)
	if err != nil {
		return err
	}
	defer listener.Close() //nolint:errcheck // ends with the process
	go echo(listener)
	if *call != "" {
		go p.ask(ctx, *call)
	}
	if *hold != "" {
		go p.hold(ctx, *hold)
	}
	go p.tell(ctx)
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(r.Header) })
	server := &http.Server{Addr: *web, Handler: answer, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (p *peer) tell(ctx context.Context) {
	for ctx.Err() == nil {
		p.mu.Lock()
		_ = json.NewEncoder(os.Stdout).Encode(p.counts) //nolint:errchkjson // a map of numbers
		p.mu.Unlock()
		pause(ctx, time.Second)
	}
}

func echo(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer connection.Close() //nolint:errcheck // it has ended
			_, _ = io.Copy(connection, connection)
		}()
	}
}

func (p *peer) ask(ctx context.Context, url string) {
	client := &http.Client{Timeout: 20 * time.Second}
	for ctx.Err() == nil {
		p.count(get(ctx, client, url))
		pause(ctx, each)
	}
}

func get(ctx context.Context, client *http.Client, url string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "0"
	}
	answer, err := client.Do(request)
	if err != nil {
		return "0"
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	_, _ = io.Copy(io.Discard, answer.Body)
	return fmt.Sprint(answer.StatusCode)
}

// hold says a word a second over a connection that it opens anew when it ends.
func (p *peer) hold(ctx context.Context, address string) {
	for ctx.Err() == nil {
		connection, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			p.count("tcp refused")
			pause(ctx, time.Second)
			continue
		}
		p.count("tcp opened")
		word := []byte("are you there?\n") // TLS inspection waits for some bytes
		for ctx.Err() == nil {
			_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err = connection.Write(word); err != nil {
				break
			}
			if _, err = io.ReadFull(connection, word); err != nil {
				break
			}
			p.count("tcp echoed")
			pause(ctx, time.Second)
		}
		p.count("tcp ended")
		_ = connection.Close()
		pause(ctx, time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
