package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir.dev/cli/development"
	"weir.dev/cli/internal/envoyagent"
	"weir.dev/cli/internal/logs"
	"weir.dev/cli/process"
	"weir.dev/cli/state"
	"weir.dev/cli/supervisor"
)

// Options of a run.
type Options struct {
	State state.Dir
	// PolicyDir is served.
	PolicyDir string
	// BinDir holds the daemons' executables.
	BinDir string
	// EnvoyPath is Envoy's executable.
	EnvoyPath string
	// Env is the user's environment.
	Env []string
	// Kubernetes is followed beside PolicyDir; nil for none.
	Kubernetes *Kubernetes
	// Zone is where the ingress says it is; empty is nowhere.
	Zone      string
	Bootstrap Bootstrap
	Claimer   Claimer
	// PortBase is where internal ports are counted from; 0 leaves it to the
	// state folder.
	PortBase int
	// StartTimeout bounds one component's start.
	StartTimeout time.Duration
	Logger       *slog.Logger
	// Output is told of every line that a component writes, from several
	// goroutines; nil for nobody.
	Output func(component string, line []byte)
	// Progress is told of every change, one call at a time; nil for nobody.
	Progress func(state.Record)
	// Ready is called once, with everything ready.
	Ready func(state.Record)
}

// ErrRunning says that a supervisor holds the state folder already.
var ErrRunning = errors.New("already running")

// Run brings everything up and returns when ctx ended and everything has
// stopped, with nothing left but what is kept on purpose; or with the reason why
// it could not be brought up. Closing kill cuts the stop short.
func Run(ctx context.Context, kill <-chan struct{}, o Options) error {
	if err := o.State.Prepare(); err != nil {
		return err // Before the lock, which must not litter a foreign folder.
	}
	lock, err := o.State.LockWithin(lockWait)
	if errors.Is(err, state.ErrLocked) {
		return ErrRunning
	}
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	defer lock.Unlock() //nolint:errcheck // Closing a lock file cannot lose anything.
	EndStale(o.State, o.Logger)
	if err := o.State.Prepare(); err != nil {
		return err
	}
	defer o.State.ClearRun() //nolint:errcheck // The next start clears it, too.
	r, err := prepare(o)
	if err != nil {
		return err
	}
	defer r.close()
	background, stop := context.WithCancel(ctx)
	defer stop()
	go renewCertificates(background, o.State, o.Logger)
	s := supervisor.New(r.specs(), supervisor.Options{
		StartTimeout: o.StartTimeout, Logger: o.Logger, Changed: r.changed,
	})
	return s.Run(ctx, kill, r.ready)
}

// EndStale kills children that a crashed supervisor left behind. The caller
// holds the lock, so no supervisor runs.
func EndStale(dir state.Dir, logger *slog.Logger) {
	record, err := dir.ReadRecord()
	if err != nil {
		return // Nothing is known of an earlier run.
	}
	for _, c := range record.Components {
		if c.Process.StartTime == 0 || !c.Process.Alive() {
			continue // Without a start time the number may be anyone's.
		}
		logger.Warn("ending a process that an earlier run left", "component", c.Name, "pid", c.Process.PID)
		_ = c.Process.Signal(killSignal)
		c.Process.AwaitEnd(staleWait)
	}
	_ = dir.ClearRun()
}

// run is one run in progress.
type run struct {
	Options
	layout  layout
	outputs map[string]*logs.Rotating
	httpURL string

	mu     sync.Mutex
	record state.Record
}

func prepare(o Options) (*run, error) {
	listeners, err := Listeners(o.PolicyDir)
	if err != nil {
		return nil, err
	}
	if err := CheckBinaries(o.BinDir); err != nil {
		return nil, err
	}
	if _, err := ensureCertificates(o.State, time.Now()); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	base := o.PortBase
	remembered := o.State.ReadPorts()
	if base == 0 {
		base = DefaultBase(o.State.Root())
	} else {
		remembered = nil // The wish is newer than the memory.
	}
	ports, err := Allocate(o.Claimer, listeners, uses(), remembered, base)
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, outputs: map[string]*logs.Rotating{}, layout: layout{
		dir: o.State, policyDir: o.PolicyDir, ports: ports, otlp: otlpAddress(o.Env),
		kubernetes: o.Kubernetes, zone: o.Zone,
	}}
	main := first(listeners)
	r.httpURL = main.url(ports.Ingress[main.Port])
	var secured []string
	for _, listener := range listeners {
		if listener.TLS {
			secured = append(secured, listener.url(ports.Ingress[listener.Port]))
		}
	}
	r.record = state.Record{
		Supervisor: process.Identify(os.Getpid()), PolicyDir: o.PolicyDir,
		Started: time.Now().UTC(), IngressHTTP: r.httpURL, IngressHTTPS: secured, Notes: ports.Notes,
	}
	if err := r.write(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// write leaves every file that the components read.
func (r *run) write() error {
	if err := r.State.WritePorts(r.layout.ports.Internal); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if err := WriteDevelopment(r.State, r.layout.ports.Internal); err != nil {
		return fmt.Errorf("development objects: %w", err)
	}
	if err := r.layout.writeConfigs(r.Bootstrap); err != nil {
		return err
	}
	if err := r.State.WriteRecord(r.record); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	for _, name := range Names() {
		output, err := logs.OpenRotating(logs.Path(r.State.Logs(), name), logs.DefaultMaxBytes)
		if err != nil {
			return err
		}
		r.outputs[name] = output
	}
	return nil
}

func (r *run) close() {
	r.layout.ports.Release()
	for _, output := range r.outputs {
		_ = output.Close()
	}
}

// WriteDevelopment leaves the development objects in the state folder.
func WriteDevelopment(dir state.Dir, ports state.Ports) error {
	credentials, err := development.EnsureCredentials(dir.Credentials())
	if err != nil {
		return err
	}
	jwks, err := credentials.JWKS()
	if err != nil {
		return err
	}
	files, err := development.Objects(development.Input{
		APIKeySHA256: credentials.APIKeySHA256(), JWKS: jwks,
		UserPort: ports[User+useGRPC], DataPort: ports[Data+useGRPC],
	})
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := state.WriteFile(filepath.Join(dir.Development(), file.Name), file.Content); err != nil {
			return err
		}
	}
	return nil
}

// CheckBinaries reports a daemon that is missing from dir.
func CheckBinaries(dir string) error {
	for _, d := range daemons() {
		if info, err := os.Stat(filepath.Join(dir, d.name)); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s is not beside weir in %s: build it with make build", d.name, dir)
		}
	}
	return nil
}

// otlpAddress is host:port of the standard endpoint variable; empty when it is
// not set or not an address.
func otlpAddress(env []string) string {
	endpoint := ""
	for _, entry := range env {
		if key, value, _ := strings.Cut(entry, "="); key == "OTEL_EXPORTER_OTLP_ENDPOINT" {
			endpoint = value
		}
	}
	if endpoint == "" {
		return ""
	}
	if parsed, err := url.Parse(endpoint); err == nil && parsed.Host != "" {
		if parsed.Port() == "" {
			return parsed.Host + ":4317"
		}
		return parsed.Host
	}
	return endpoint
}

func (r *run) specs() []supervisor.Spec {
	specs := []supervisor.Spec{r.envoySpec()}
	for _, d := range daemons() {
		ready := r.probeURL(d.name)
		specs = append(specs, supervisor.Spec{
			Name: d.name, Path: filepath.Join(r.BinDir, d.name), Args: []string{"--config", r.layout.configPath(d.name)},
			Env: envFor(r.Env, d.secrets), Address: r.layout.grpc(d.name),
			StartStage: d.startStage, StopStage: d.stopStage,
			Ready:  func(ctx context.Context) error { return Probe(ctx, ready) },
			Output: r.output(d.name),
		})
	}
	return specs
}

// envoyLogFormat makes Envoy's own log lines JSON like everyone's.
const envoyLogFormat = `{"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","logger":"%n","msg":"%j"}`

func (r *run) envoySpec() supervisor.Spec {
	admin := r.layout.admin(Envoy)
	ingress := HostOf(r.httpURL)
	return supervisor.Spec{
		Name: Envoy, Path: r.EnvoyPath, Env: envFor(r.Env, nil), Address: ingress,
		Args: []string{
			"--config-path", r.layout.bootstrapPath(), "--disable-hot-restart", "--concurrency", strconv.Itoa(envoyThreads),
			"--log-format", envoyLogFormat,
			// Its notices about features of the configuration are for its developers.
			"--component-log-level", "misc:error", "--log-level", "warning",
			"--drain-time-s", strconv.Itoa(int(envoyDrain.Seconds())),
		},
		StartStage: stageLast, StopStage: stageFirst,
		Ready: func(ctx context.Context) error {
			if err := Probe(ctx, r.probeURL(Envoy)); err != nil {
				return err
			}
			// Where it listens may be edited later; that it did is enough then.
			if listening := listening(ctx, "http://"+admin); len(listening) > 0 {
				return dial(ctx, listening[0])
			}
			return dial(ctx, ingress)
		},
		Drain: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, envoyDrain)
			defer cancel()
			return envoyagent.Drain(ctx, admin)
		},
		Output: r.output(Envoy),
	}
}

// envoyThreads is enough for one machine's development and keeps Envoy small.
const envoyThreads = 2

func (r *run) probeURL(name string) string {
	if name == Envoy {
		return "http://" + r.layout.admin(name) + "/ready"
	}
	return "http://" + r.layout.admin(name) + "/readyz"
}

func (r *run) output(name string) io.Writer {
	if r.Output == nil {
		return r.outputs[name]
	}
	return io.MultiWriter(r.outputs[name], &logs.Lines{Emit: func(line []byte) { r.Output(name, line) }})
}

// changed is called by the supervisor, one call at a time.
func (r *run) changed(statuses []supervisor.Status) {
	components := make([]state.Component, 0, len(statuses))
	for _, s := range statuses {
		c := state.Component{
			Name: s.Name, State: string(s.State), Address: s.Address, Process: s.Process,
			Probe: r.probeURL(s.Name), Restarts: s.Restarts,
		}
		if s.Err != nil {
			c.Error = s.Err.Error()
		}
		components = append(components, c)
	}
	record := r.updateRecord(func(record *state.Record) { record.Components = components })
	if r.Progress != nil {
		r.Progress(record)
	}
}

// ready is called by the supervisor once, with everything ready.
func (r *run) ready() {
	record := r.updateRecord(func(record *state.Record) { record.Ready = true })
	if r.Ready != nil {
		r.Ready(record)
	}
}

// updateRecord changes the record, on disk too, and returns it.
func (r *run) updateRecord(change func(*state.Record)) state.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.record)
	if err := r.State.WriteRecord(r.record); err != nil {
		r.Logger.Error("run record not written; weir status may be wrong", "error", err)
	}
	return r.record
}
