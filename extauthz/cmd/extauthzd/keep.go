package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/audit"
	"weir.dev/extauthz/record"
	"weir.dev/extauthz/telemetry"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
)

// auditSettings say where the audit log is kept. The bounds are those of
// audit.Config, with its defaults.
type auditSettings struct {
	// Dir holds the log; empty keeps none, and policies that require one refuse.
	// Each extauthzd needs a folder of its own.
	Dir string `yaml:"dir"`
	// KeyDir holds audit.key, which signs the log's checkpoints, and audit.pub; a
	// key is made when there is none. Default: the folder beside dir whose name
	// ends in ".keys".
	KeyDir string `yaml:"keyDir"`
	// Origin names the log in its checkpoints. Default
	// "weir.local/extauthz/" and the node id.
	Origin          string          `yaml:"origin"`
	SegmentBytes    int64           `yaml:"segmentBytes"`
	SegmentAge      config.Duration `yaml:"segmentAge"`
	KeepBytes       int64           `yaml:"keepBytes"`
	KeepAge         config.Duration `yaml:"keepAge"`
	CheckpointEvery config.Duration `yaml:"checkpointEvery"`
	WarnFreeBytes   int64           `yaml:"warnFreeBytes"`
	MinFreeBytes    int64           `yaml:"minFreeBytes"`
	// Timeout bounds how long a request waits for its record. Default 500ms.
	Timeout config.Duration `yaml:"timeout"`
}

// SetDefaults fills in what the fields document.
func (s *auditSettings) SetDefaults() {
	var defaults audit.Config
	defaults.SetDefaults()
	*s = auditSettings{
		SegmentBytes: defaults.SegmentBytes, SegmentAge: config.Duration(defaults.SegmentAge),
		KeepBytes: defaults.KeepBytes, KeepAge: config.Duration(defaults.KeepAge), CheckpointEvery: config.Duration(defaults.CheckpointEvery),
		WarnFreeBytes: defaults.WarnFreeBytes, MinFreeBytes: defaults.MinFreeBytes, Timeout: config.Duration(500 * time.Millisecond),
	}
}

func (s *auditSettings) config() audit.Config {
	c := audit.Config{
		Dir: s.Dir, SegmentBytes: s.SegmentBytes, SegmentAge: s.SegmentAge.Std(), KeepBytes: s.KeepBytes, KeepAge: s.KeepAge.Std(),
		CheckpointEvery: s.CheckpointEvery.Std(), WarnFreeBytes: s.WarnFreeBytes, MinFreeBytes: s.MinFreeBytes,
	}
	c.SetDefaults()
	return c
}

// Validate reports every mistake. node is the process's id.
func (s *auditSettings) Validate(node string) error {
	if timeout := s.Timeout.Std(); timeout <= 0 || timeout > 30*time.Second {
		return fmt.Errorf("audit.timeout: %s is outside 0s to 30s", timeout)
	}
	if s.Dir == "" {
		return nil
	}
	if s.KeyDir == "" {
		s.KeyDir = filepath.Clean(s.Dir) + ".keys"
	}
	if s.Origin == "" {
		s.Origin = "weir.local/extauthz/" + node
	}
	var errs []error
	if strings.ContainsAny(s.Origin, " +\n\t") {
		errs = append(errs, fmt.Errorf("audit.origin: %q holds a space or a +", s.Origin))
	}
	if filepath.Clean(s.KeyDir) == filepath.Clean(s.Dir) {
		errs = append(errs, errors.New("audit.keyDir: is the log's own folder; who may copy the log must not get the key with it"))
	}
	c := s.config()
	if err := c.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("audit.%w", err))
	}
	return errors.Join(errs...)
}

// decisionSettings say what is remembered of decisions.
type decisionSettings struct {
	// Recent is how many of the newest can be asked about. Default 2000.
	Recent int `yaml:"recent"`
	// Sample is the share of decisions whose records are logged: 0, the default,
	// none, 1 all.
	Sample float64 `yaml:"sample"`
}

// SetDefaults fills in what the fields document.
func (s *decisionSettings) SetDefaults() {
	*s = decisionSettings{Recent: 2000}
}

// Validate reports every mistake.
func (s *decisionSettings) Validate() error {
	var errs []error
	if s.Recent < 0 || s.Recent > 1_000_000 {
		errs = append(errs, fmt.Errorf("decisions.recent: %d is outside 0 to 1,000,000", s.Recent))
	}
	if s.Sample < 0 || s.Sample > 1 {
		errs = append(errs, fmt.Errorf("decisions.sample: %g is outside 0 to 1", s.Sample))
	}
	return errors.Join(errs...)
}

// decisionService is what the control plane asks for decisions; whoever may is in
// server.reservedPeers, unless set the control plane.
const decisionService = "weir.decision.v1.DecisionService"

// keep makes what records decisions, and serves it to the control plane.
func keep(cfg *settings, runtime *daemon.Runtime, current func() *extauthz.Rules, server grpc.ServiceRegistrar) (keeper *record.Keeper, closeAudit func(), err error) {
	metrics, err := telemetry.NewRecords(runtime.Registry)
	if err != nil {
		return nil, nil, err
	}
	options := record.Options{
		Server: cfg.ControlPlane.NodeID, AuditTimeout: cfg.Audit.Timeout.Std(), Recent: cfg.Decisions.Recent, Sample: cfg.Decisions.Sample,
		Events: metrics, Logger: runtime.Logger, Rules: current,
	}
	closeAudit = func() {}
	if cfg.Audit.Dir != "" {
		key, err := audit.OpenKey(cfg.Audit.KeyDir, cfg.Audit.Origin)
		if err != nil {
			return nil, nil, fmt.Errorf("audit.keyDir: %w", err)
		}
		log, err := audit.Open(cfg.Audit.config(), audit.Options{Key: key, Events: metrics, Logger: runtime.Logger})
		if err != nil {
			return nil, nil, fmt.Errorf("audit: %w", err)
		}
		options.Audit, closeAudit = log, log.Close
		serveCheckpoint(runtime, filepath.Join(cfg.Audit.Dir, "checkpoint"))
	}
	if keeper, err = record.NewKeeper(options); err != nil {
		closeAudit()
		return nil, nil, err
	}
	decisionv1.RegisterDecisionServiceServer(server, record.NewService(keeper))
	return keeper, closeAudit, nil
}

// serveCheckpoint lets monitoring keep the newest checkpoint elsewhere. It holds
// no secret.
func serveCheckpoint(runtime *daemon.Runtime, path string) {
	runtime.Admin.HandleFunc("GET /audit/checkpoint", func(w http.ResponseWriter, _ *http.Request) {
		content, err := os.ReadFile(path)
		if err != nil {
			http.Error(w, "there is no checkpoint yet", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(content) // The client is gone when this fails.
	})
}
