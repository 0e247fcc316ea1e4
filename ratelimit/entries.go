package ratelimit

import (
	"context"
	"math/bits"
	"strconv"
	"strings"

	"weir.dev/kit/limitexpr"
)

// Entries that say something of the request and are not counted by: their names
// begin with reservedPrefix, and they are no part of a key.
const (
	reservedPrefix = "weir."
	// EntryClass is the tier for which parts of a limit are kept; see Reserve.
	EntryClass = "weir.class"
	// EntryRequests replaces the rule's requests, up to its MaxOverride.
	EntryRequests = "weir.requests"
	// EntryCost is what the request costs, or has cost when it is over; see Cost.
	EntryCost = "weir.cost"
	// EntryTicket says that the request is over and what was charged for it: it
	// is the Ticket of its Status.
	EntryTicket = "weir.ticket"
	// EntryInput begins the names of entries that a Cost's Expression reads; what
	// follows is limitexpr.Input.String.
	EntryInput = "weir.in."
)

// hints are what the reserved entries of a descriptor say; empty for those that
// it lacks.
type hints struct {
	tier, class, requests, cost, ticket string
	// inputs are all entries where one of them begins with EntryInput; else nil.
	inputs []Entry
}

// readEntries separates what is counted by from what is said of the request. The
// entries are not changed.
func readEntries(entries []Entry) (counted []Entry, said hints) {
	n, apart := 0, false
	for i, entry := range entries {
		switch entry.Name {
		case EntryClass:
			said.class = entry.Value
		case EntryRequests:
			said.requests = entry.Value
		case EntryCost:
			said.cost = entry.Value
		case EntryTicket:
			said.ticket = entry.Value
		case tierEntry:
			said.tier = entry.Value
		default:
			if said.inputs == nil && strings.HasPrefix(entry.Name, EntryInput) {
				said.inputs = entries
			}
		}
		if !strings.HasPrefix(entry.Name, reservedPrefix) {
			apart = apart || n < i
			n++
		}
	}
	if !apart {
		return entries[:n], said
	}
	counted = make([]Entry, 0, n)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name, reservedPrefix) {
			counted = append(counted, entry)
		}
	}
	return counted, said
}

// limitFor is the limit of a request: its tier's or its own number, less what is
// kept for more important ones.
func (r *Rule) limitFor(said hints) Limit {
	limit := r.LimitFor(said.tier)
	if said.requests != "" && r.MaxOverride > 0 && !limit.Unlimited {
		if own, err := strconv.ParseUint(said.requests, 10, 32); err == nil {
			limit.Requests, limit.Burst = min(uint32(own), r.MaxOverride), 0
		}
	}
	if len(r.Reserves) > 0 {
		limit = r.reserved(limit, said.class)
	}
	return limit
}

// costOf is what hits of the request cost when it comes; 0 looks only.
func (r *Rule) costOf(hits uint64, said hints) uint64 {
	if r.Cost.Max == 0 {
		return min(hits, MaxCost)
	}
	cost := r.Cost.Number
	if said.cost != "" {
		cost = max(cost, r.Cost.parse(said.cost))
	}
	if r.Cost.Expression != nil {
		cost = max(cost, r.Cost.expressed(said.inputs))
	}
	high, low := bits.Mul64(hits, cost)
	if high > 0 {
		return MaxCost
	}
	return min(low, MaxCost)
}

// parse reads a cost; what is no number costs the most.
func (c Cost) parse(text string) uint64 {
	cost, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return c.Max
	}
	return min(cost, c.Max)
}

// expressed evaluates the cost's expression; what has no value costs the most.
func (c Cost) expressed(entries []Entry) uint64 {
	inputs := make(map[string]string, limitexpr.MaxInputs)
	for _, entry := range entries {
		if name, ok := strings.CutPrefix(entry.Name, EntryInput); ok {
			if name == string(limitexpr.Path) {
				entry.Value, _, _ = strings.Cut(entry.Value, "?")
			}
			inputs[name] = entry.Value
		}
	}
	cost, err := c.Expression.Eval(context.Background(), inputs) // bounded by its own work limit
	if err != nil {
		return c.Max
	}
	return min(cost, c.Max)
}

// Ticket is what is to be known of a charge when its request is over.
type Ticket struct {
	Receipt Receipt
	// Cost is what was charged.
	Cost uint64
}

const ticketBase = 36

// String is the ticket's form in an entry: letters, digits and dots.
func (t Ticket) String() string {
	buffer := make([]byte, 0, 40)
	buffer = strconv.AppendInt(buffer, t.Receipt.At, ticketBase)
	buffer = append(buffer, '.')
	buffer = strconv.AppendInt(buffer, t.Receipt.Back, ticketBase)
	buffer = append(buffer, '.')
	return string(strconv.AppendUint(buffer, t.Cost, ticketBase))
}

// maxReceipt keeps what a ticket says within what float64 holds exactly.
const maxReceipt = 1 << 53

// ParseTicket reads what String wrote; ok is false for anything else.
func ParseTicket(text string) (ticket Ticket, ok bool) {
	at, rest, _ := strings.Cut(text, ".")
	back, cost, _ := strings.Cut(rest, ".")
	var errs [3]error
	ticket.Receipt.At, errs[0] = strconv.ParseInt(at, ticketBase, 64)
	ticket.Receipt.Back, errs[1] = strconv.ParseInt(back, ticketBase, 64)
	ticket.Cost, errs[2] = strconv.ParseUint(cost, ticketBase, 64)
	return ticket, errs == [3]error{} && ticket.Cost <= MaxCost &&
		ticket.Receipt.At >= 0 && ticket.Receipt.At < maxReceipt && ticket.Receipt.Back >= 0 && ticket.Receipt.Back < maxReceipt
}

// settlement makes of charge what is to be done when the request is over: a
// place is given back, and of a settled cost the difference is charged or given
// back. What a response does not say, or says badly, leaves what was charged at
// the request. It returns whether there is anything to do.
func (r *Rule) settlement(charge *Charge, said hints) bool {
	ticket, ok := ParseTicket(said.ticket)
	if !ok {
		return false
	}
	charge.Look, charge.Shadow, charge.Receipt = false, true, ticket.Receipt
	if r.Algorithm == Concurrency {
		charge.Refund, charge.Force, charge.Cost = true, false, ticket.Cost
		return ticket.Cost > 0
	}
	actual, err := strconv.ParseUint(said.cost, 10, 64)
	if !r.Cost.Settles || err != nil {
		return false
	}
	actual = min(actual, r.Cost.Max)
	charge.Refund, charge.Force = actual < ticket.Cost, actual > ticket.Cost
	charge.Cost = max(actual, ticket.Cost) - min(actual, ticket.Cost)
	return charge.Cost > 0
}
