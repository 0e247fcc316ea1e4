package command

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/cli/internal/term"
	"weir.dev/extauthz/record"
	"weir.dev/kit/authzexpr"
	"weir.dev/policy"
)

// Bounds of a replay, whatever the size of the log.
const (
	// maxLogLine is the longest line that is read; longer ones are skipped.
	maxLogLine = 256 << 10
	// maxRemembered is how many different requests are remembered, so that a
	// request like an earlier one costs nothing.
	maxRemembered = 50_000
	// maxGroups is how many different changes are told apart.
	maxGroups = 1000
	// maxExamples is how many requests are shown of each.
	maxExamples = 3
)

type replayOptions struct {
	against string
	each    bool
	alone   bool
	format  *string
}

func (a *App) replayCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "replay LOG PATH...", Short: "Send recorded requests through the running and a proposed policy, and list what would change",
		Long: "Send recorded requests through the running policy and a proposed one, without sending anything, and list those\n" +
			"whose route, authorization, limits or destination would change. LOG is Envoy's access log (JSON lines, also\n" +
			"compressed with gzip; - is standard input), as in `weir logs envoy`; lines of other kinds are skipped.\n" +
			"Headers, query strings and credentials are not recorded. The recorded route tells which of the running\n" +
			"policy's header and query matches held; where a proposed one asks for something else, the request is listed as\n" +
			"unknown. Whether a caller passes a changed authorization rule an access log does not tell; records of decisions do:\n" +
			"the audit log (weir audit export), or extauthz's own log with decisions.sample. Of those, the requests are listed\n" +
			"that would be allowed or refused otherwise, and those of which the record does not have what a rule reads.\n" +
			"Exits with 0 when nothing would change, with 2 when something would or is unknown, and with 1 on failure.",
		Example: "  weir logs envoy -n 100000 -o json | weir replay - ./policies\n  weir replay access.log.gz --against ./old ./new\n" +
			"  weir audit export | weir replay - ./policies",
		Args:        arguments(2, 100),
		Annotations: map[string]string{answersDiffer: "yes"},
	}
	var o replayOptions
	c.Flags().StringVar(&o.against, "against", "", "take this `folder` for the running policy")
	c.Flags().BoolVar(&o.each, "each", false, "print every request that would change, as a JSON line, instead of a summary")
	c.Flags().BoolVar(&o.alone, "alone", false, "leave out what weir up adds")
	o.format = formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error { return a.replay(c.Context(), args[0], args[1:], o) }
	return c
}

// replayed is the outcome of a replay.
type replayed struct {
	Requests int `json:"requests"`
	// Same, Changed and Unknown add up to Requests.
	Same    int `json:"same"`
	Changed int `json:"changed"`
	Unknown int `json:"unknown"`
	// Skipped lines are no access log.
	Skipped int           `json:"skipped,omitempty"`
	Groups  []replayGroup `json:"groups,omitempty"`
	// MoreGroups counts requests whose change is of a kind not listed.
	MoreGroups int `json:"moreGroups,omitempty"`
}

// replayGroup is requests that would change in the same way.
type replayGroup struct {
	Flips    []policy.Flip `json:"flips"`
	Count    int           `json:"count"`
	Examples []string      `json:"examples"`
}

// accessLine is what replay reads of a line of the access log.
type accessLine struct {
	Log    string          `json:"log"`
	Time   string          `json:"time"`
	Method string          `json:"method"`
	Host   string          `json:"host"`
	Path   string          `json:"path"`
	Route  string          `json:"route"`
	Port   json.RawMessage `json:"port"`
	Fleet  string          `json:"fleet"`
	SNI    string          `json:"sni"`
	Status json.RawMessage `json:"status"`
	// Of records of decisions, bare or in a line of extauthz's log.
	Record json.RawMessage `json:"record"`
	Reason string          `json:"reason"`
}

// request reads a line; ok is false for lines of other kinds.
func (l *accessLine) request() (policy.Recorded, bool) {
	if l.Log != "access" || l.Method == "" || l.Path == "" {
		return policy.Recorded{}, false
	}
	port, _ := strconv.ParseInt(strings.Trim(string(l.Port), `"`), 10, 32)
	return policy.Recorded{
		Method: l.Method, Host: l.Host, Path: l.Path, SNI: l.SNI, Fleet: l.Fleet, Port: int32(port), Route: l.Route, //nolint:gosec // 32 bits
	}, true
}

func (a *App) replay(ctx context.Context, log string, paths []string, o replayOptions) error {
	if err := checkFormat(*o.format); err != nil {
		return err
	}
	before, after, err := a.plans(ctx, paths, o)
	if err != nil {
		return err
	}
	input, err := a.openLog(log)
	if err != nil {
		return err
	}
	defer input.Close()
	r := &replayer{replay: policy.NewReplay(before, after), known: map[policy.Recorded][]policy.Flip{}, groups: map[string]*replayGroup{}}
	if o.each {
		r.each = json.NewEncoder(a.Stdout)
		r.each.SetEscapeHTML(false)
	}
	progress := term.NewProgress(a.Stderr)
	err = r.run(ctx, input, func(lines int) { progress.Set(fmt.Sprintf("%d lines read", lines)) })
	progress.Stop()
	if err != nil {
		return fmt.Errorf("%s: %w", log, err)
	}
	return a.showReplayed(r.result(), o)
}

func (a *App) showReplayed(result *replayed, o replayOptions) error {
	if result.Requests == 0 {
		return errors.New("the log has no line of Envoy's access log (JSON with \"log\": \"access\") and no record of a decision")
	}
	var err error
	if o.each {
		fmt.Fprintln(a.Stderr, result.summary())
	} else {
		err = write(a.Stdout, *o.format, result, func(w io.Writer) { printReplayed(w, result) })
	}
	if err == nil && result.Changed+result.Unknown > 0 {
		return differError{}
	}
	return err
}

// plans are the running Plan, or that of --against, and the proposed one.
func (a *App) plans(ctx context.Context, paths []string, o replayOptions) (before, after *policy.Plan, err error) {
	l, err := newLoader(o.alone)
	if o.against == "" {
		l, err = a.runningLoader(o.alone)
	}
	if err != nil {
		return nil, nil, err
	}
	next, err := l.load(paths)
	if err != nil {
		return nil, nil, err
	}
	if o.against == "" {
		before, err = a.askPlan(ctx)
		return before, next.plan, err
	}
	old, err := l.load([]string{o.against})
	if err != nil {
		return nil, nil, err
	}
	return old.plan, next.plan, nil
}

func (a *App) openLog(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(a.Stdin), nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReader(file)
	if magic, _ := buffered.Peek(2); string(magic) != "\x1f\x8b" {
		return readCloser{buffered, file}, nil
	}
	unpacked, err := gzip.NewReader(buffered)
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return readCloser{unpacked, file}, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// replayer goes through a log in memory that does not grow with it.
type replayer struct {
	replay *policy.Replay
	known  map[policy.Recorded][]policy.Flip
	groups map[string]*replayGroup
	total  replayed
	// each receives every change; nil to join them.
	each *json.Encoder
}

// tellEvery is how many lines lie between reports of progress.
const tellEvery = 5000

func (r *replayer) run(ctx context.Context, input io.Reader, progress func(lines int)) error {
	reader := bufio.NewReaderSize(input, maxLogLine)
	for lines := 1; ; lines++ {
		line, err := reader.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = reader.ReadSlice('\n')
		}
		switch {
		case long:
			r.total.Skipped++
		case len(line) > 0:
			if err := r.line(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if lines%tellEvery == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			progress(lines)
		}
	}
}

func (r *replayer) line(raw []byte) error {
	var line accessLine
	if json.Unmarshal(raw, &line) != nil {
		r.total.Skipped++
		return nil
	}
	if line.Record != nil || line.Reason != "" {
		return r.decision(raw, line.Record)
	}
	request, ok := line.request()
	if !ok {
		r.total.Skipped++
		return nil
	}
	r.total.Requests++
	if request.Route == "" && strings.Trim(string(line.Status), `"`) == "400" {
		r.total.Same++ // refused before any route
		return nil
	}
	flips, known := r.known[request]
	if !known {
		flips = r.replay.Request(request)
		if len(r.known) >= maxRemembered {
			clear(r.known)
		}
		r.known[request] = flips
	}
	if len(flips) == 0 {
		r.total.Same++
		return nil
	}
	if flips[0].Kind == policy.FlipUnknown {
		r.total.Unknown++
	} else {
		r.total.Changed++
	}
	if r.each != nil {
		return r.each.Encode(map[string]any{
			"time": line.Time, "method": request.Method, "host": request.Host, "path": request.Path, "route": request.Route, "flips": flips,
		})
	}
	r.group(request, flips)
	return nil
}

// decision takes a record of a decision.
func (r *replayer) decision(line []byte, inner json.RawMessage) error {
	if inner == nil {
		inner = line
	}
	d, err := record.Parse(inner)
	if err != nil || d.GetReason() == "" || d.GetRequest() == nil {
		r.total.Skipped++
		return nil
	}
	r.total.Requests++
	flips := r.replay.Decision(recordedDecision(d))
	switch {
	case len(flips) == 0:
		r.total.Same++
		return nil
	case flips[0].Kind == policy.FlipUnknown:
		r.total.Unknown++
	default:
		r.total.Changed++
	}
	request := d.GetRequest()
	if r.each != nil {
		return r.each.Encode(map[string]any{
			"time": d.GetTime().AsTime(), "method": request.GetMethod(), "host": request.GetHost(), "path": request.GetPath(),
			"route": d.GetRoute(), "decision": d.GetId(), "flips": flips,
		})
	}
	r.groupAs(request.GetMethod()+" "+request.GetHost()+request.GetPath()+" ("+d.GetId()+")", flips)
	return nil
}

func recordedDecision(d *decisionv1.Decision) *policy.RecordedDecision {
	request, headers := d.GetRequest(), authzexpr.MapValues{}
	for name, value := range request.GetHeaders() {
		headers[name] = []string{value}
	}
	recorded := &policy.RecordedDecision{
		Route: d.GetRoute(), Allowed: d.GetAllowed(), Reason: d.GetReason(), Authenticator: d.GetAuthenticator(), Rule: d.GetRule(),
		Request: authzexpr.Request{
			Method: request.GetMethod(), Path: request.GetPath(), RawQuery: request.GetQuery(), Host: request.GetHost(), Protocol: request.GetProtocol(), Headers: headers,
		},
		Source: request.GetSource(), Time: d.GetTime().AsTime(), Missing: d.GetMissing(), Digest: d.GetDigest(), Outcomes: map[string]string{},
	}
	for _, step := range d.GetRules() {
		recorded.Outcomes[step.GetName()] = step.GetOutcome()
	}
	if caller := d.GetCaller(); caller != nil {
		recorded.Caller = &authzexpr.Identity{
			Consumer: caller.GetConsumer(), Subject: caller.GetSubject(), Tenant: caller.GetTenant(), Tier: caller.GetTier(),
			Scopes: caller.GetScopes(), Issuer: caller.GetIssuer(), Claims: caller.GetClaims(),
		}
	}
	return recorded
}

// group counts a change with those like it.
func (r *replayer) group(request policy.Recorded, flips []policy.Flip) {
	r.groupAs(request.Method+" "+request.Host+request.Path, flips)
}

func (r *replayer) groupAs(example string, flips []policy.Flip) {
	key := fmt.Sprintf("%q", flips)
	group := r.groups[key]
	if group == nil {
		if len(r.groups) >= maxGroups {
			r.total.MoreGroups++
			return
		}
		group = &replayGroup{Flips: flips}
		r.groups[key] = group
	}
	group.Count++
	if len(group.Examples) < maxExamples && !slices.Contains(group.Examples, example) {
		group.Examples = append(group.Examples, example)
	}
}

// result sorts the groups by how many requests are in them.
func (r *replayer) result() *replayed {
	for _, group := range r.groups {
		r.total.Groups = append(r.total.Groups, *group)
	}
	slices.SortFunc(r.total.Groups, func(a, b replayGroup) int {
		return cmp.Or(-cmp.Compare(a.Count, b.Count), cmp.Compare(fmt.Sprint(a.Flips), fmt.Sprint(b.Flips)))
	})
	return &r.total
}

func (r *replayed) summary() string {
	text := fmt.Sprintf("%s: %d as before, %d would change, %d unknown", plural(r.Requests, "request"), r.Same, r.Changed, r.Unknown)
	if r.Skipped > 0 {
		text += fmt.Sprintf("; %s of other kinds skipped", plural(r.Skipped, "line"))
	}
	return text
}

func printReplayed(w io.Writer, r *replayed) {
	for _, group := range r.Groups {
		fmt.Fprintf(w, "%s\n", plural(group.Count, "request"))
		for _, flip := range group.Flips {
			fmt.Fprintf(w, "  %s\n    now   %s\n    then  %s\n", flip.Kind, flip.Old, flip.New)
		}
		for _, example := range group.Examples {
			fmt.Fprintf(w, "  e.g. %s\n", example)
		}
	}
	if r.MoreGroups > 0 {
		fmt.Fprintf(w, "%s that change in further ways\n", plural(r.MoreGroups, "request"))
	}
	fmt.Fprintln(w, r.summary())
}
