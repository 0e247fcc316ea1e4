// Command ratelimit takes the place of envoyproxy/ratelimit: the same
// environment, configuration files, ports and metric names. See
// docs/ratelimit-compatibility.md for what it answers differently, on purpose.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"weir.dev/kit/buildinfo"
	"weir.dev/kit/heap"
	"weir.dev/ratelimit/ersettings"
	"weir.dev/ratelimit/store/redis"
)

const help = `usage: ratelimit

Takes the place of envoyproxy/ratelimit and is configured by the same environment variables, such as
  RUNTIME_ROOT, RUNTIME_SUBDIRECTORY  the limits are the files in RUNTIME_ROOT/RUNTIME_SUBDIRECTORY/config
  REDIS_SOCKET_TYPE, REDIS_URL        where the counters are (tcp and host:port, or unix and a path)
  PORT, GRPC_PORT, DEBUG_PORT         8080, 8081 and 6070 where they are not set
What differs on purpose: docs/ratelimit-compatibility.md. To check files: ratelimitd check-config DIR.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stderr, nil))
}

// run is the process; listening, which may be nil, is told the bound addresses.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), stderr io.Writer, listening func(addresses)) int {
	if len(args) > 0 {
		if args[0] == "--version" || args[0] == "-version" {
			fmt.Fprintf(stderr, "ratelimit %s\n", buildinfo.String())
			return 0
		}
		if args[0] == "--help" || args[0] == "-help" || args[0] == "-h" {
			fmt.Fprint(stderr, help)
			return 0
		}
		fmt.Fprintf(stderr, "ratelimit: unexpected argument %q; it is configured by the environment variables of envoyproxy/ratelimit\n", args[0])
		return 2
	}
	settings, err := ersettings.Read(lookup)
	if err != nil {
		fmt.Fprintf(stderr, "ratelimit: the environment is wrong:\n%v\n", err)
		return 1
	}
	logger := newLogger(settings, stderr)
	redis.UseLogger(logger)
	for _, ignored := range settings.Ignored {
		logger.Warn("a variable is set that changes nothing here", "variable", ignored)
	}
	defer heap.NewFloor().Release()
	server, err := newServer(settings, logger)
	if err == nil {
		err = server.run(ctx, listening)
	}
	if err != nil {
		logger.Error("stopped", "error", err)
		return 1
	}
	logger.Info("stopped")
	return 0
}

func newLogger(settings *ersettings.Settings, w io.Writer) *slog.Logger {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "error": slog.LevelError}
	level, known := levels[strings.ToLower(settings.LogLevel)]
	if !known {
		level = slog.LevelWarn
	}
	options := &slog.HandlerOptions{Level: level}
	if strings.EqualFold(settings.LogFormat, "json") {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
