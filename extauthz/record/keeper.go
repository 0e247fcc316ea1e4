package record

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Auditor is where records that policies ask for are written.
type Auditor interface {
	// Append returns once the record is on disk, never after ctx.
	Append(ctx context.Context, record []byte) error
	// Offer has it written soon, and reports false where that is not to be.
	Offer(record []byte) bool
}

// Events hears what happens, for metrics. It must not block.
type Events interface {
	// AuditLost counts a decision that is not in the audit log: of a policy with
	// best effort, or one that was refused for it.
	AuditLost(required bool)
	// Candidate counts one comparison. outcome is "dropped" or of extauthz.Outcome.
	Candidate(policy, outcome, rule string)
}

// Options of a Keeper.
type Options struct {
	// Server is the node id.
	Server string
	// Audit is nil where there is no audit log: policies that require one refuse.
	Audit Auditor
	// AuditTimeout bounds the wait for the audit log. Default 500 ms.
	AuditTimeout time.Duration
	// Rules are those in force, whose candidates are listed; nil lists all that
	// were counted.
	Rules func() *extauthz.Rules
	// Recent is how many decisions are remembered; 0 for none.
	Recent int
	// Sample is the share of decisions whose records go to the log: 0 none, 1 all.
	Sample float64
	Events Events
	Logger *slog.Logger
	// Clock is time.Now outside tests.
	Clock func() time.Time
}

// Keeper gives decisions to those who read them. Safe for concurrent use.
type Keeper struct {
	options Options
	prefix  string
	count   atomic.Uint64
	ring    *ring
	shadow  *shadow
	buffers sync.Pool
}

// NewKeeper makes a keeper. Run compares candidates.
func NewKeeper(options Options) (*Keeper, error) {
	var unique [6]byte
	if _, err := rand.Read(unique[:]); err != nil {
		return nil, fmt.Errorf("id of this process: %w", err)
	}
	if options.AuditTimeout <= 0 {
		options.AuditTimeout = 500 * time.Millisecond
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{
		options: options, prefix: "d-" + hex.EncodeToString(unique[:]) + "-", ring: newRing(options.Recent),
		buffers: sync.Pool{New: func() any { return new([]byte) }},
	}
	k.shadow = newShadow(k)
	return k, nil
}

// Run compares candidates until ctx ends.
func (k *Keeper) Run(ctx context.Context) error { return k.shadow.run(ctx) }

// Record gives a decision its id and, where its policy asks for it, writes it to
// the audit log. A decision that must be written and cannot be becomes a denial.
// It comes before the answer.
func (k *Keeper) Record(ctx context.Context, made *Made) {
	decision := made.Decision
	var id [48]byte
	decision.ID = string(strconv.AppendUint(append(id[:0], k.prefix...), k.count.Add(1), 36))
	switch decision.Audit {
	case rulesv1.Audit_AUDIT_UNSPECIFIED:
	case rulesv1.Audit_AUDIT_BEST_EFFORT:
		// The log keeps the bytes until they are written, so they are its own.
		if k.options.Audit == nil || !k.options.Audit.Offer(AppendJSON(nil, Of(k.options.Server, made))) {
			k.options.Events.AuditLost(false)
		}
	default:
		if err := k.audit(ctx, made); err != nil {
			k.options.Events.AuditLost(true)
			decision.Unrecorded(err)
		}
	}
}

func (k *Keeper) audit(ctx context.Context, made *Made) error {
	if k.options.Audit == nil {
		return errors.New("the policy requires an audit log, and this extauthzd keeps none: set audit.dir in its configuration")
	}
	ctx, cancel := context.WithTimeout(ctx, k.options.AuditTimeout)
	defer cancel()
	return k.options.Audit.Append(ctx, AppendJSON(nil, Of(k.options.Server, made)))
}

// Answered remembers a decision and has it compared. It comes after the answer is
// made, takes the request over and blanks its credentials.
func (k *Keeper) Answered(made Made) {
	if k.options.Sample > 0 && (k.options.Sample >= 1 || mathrand.Float64() < k.options.Sample) { //nolint:gosec // a sample needs no secrecy
		k.log(&made)
	}
	compared, some := toCompare(&made)
	made.Request.Forget(made.Decision)
	if some {
		k.shadow.offer(compared)
	}
	k.ring.add(made)
}

func (k *Keeper) log(made *Made) {
	buffer, ok := k.buffers.Get().(*[]byte)
	if !ok {
		return
	}
	*buffer = AppendJSON((*buffer)[:0], Of(k.options.Server, made))
	k.options.Logger.LogAttrs(context.Background(), slog.LevelInfo, "decision record",
		slog.String("log", "decision"), slog.Any("record", json.RawMessage(*buffer)))
	k.buffers.Put(buffer)
}
