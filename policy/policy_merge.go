package policy

import (
	"cmp"
	"slices"
	"strings"
)

// level is a place in the hierarchy of targets (GEP-713), the most specific
// first.
type level uint8

const (
	levelRule level = iota
	levelRoute
	levelListener
	levelSet
	levelGateway
	levelCount
)

func (l level) String() string {
	return [levelCount]string{"rule", "route", "listener", "listenerset", "gateway"}[l]
}

// cause is why something that a policy says is not in effect.
type cause uint8

const (
	moreSpecific cause = iota + 1
	lessSpecific
	older
	stronger
)

// sameTarget is why one policy loses to another on its target.
func sameTarget(loser, winner *statement) cause {
	if winner.overrides && !loser.overrides {
		return stronger
	}
	return older
}

// loss is to whom and why.
type loss struct {
	by  *layer
	why cause
}

// layer is one policy on one level, while its kind is merged.
type layer struct {
	*statement
	level level
	// order of precedence among the layers; see mergeLevels.
	order int
	kept  int
	// keys of what is lost, and to whom
	keys   []string
	losses []loss
}

// wonPiece is a piece that is in effect.
type wonPiece struct {
	*piece
	from *layer
}

// effective is what the policies of a kind come to.
type effective struct {
	// pieces are in order of precedence: overrides, the least specific first, and
	// then defaults, the most specific first.
	pieces []wonPiece
	// layers are all policies that took part, in the same order.
	layers []*layer
}

// mergeLevels merges the policies on the levels of a hierarchy, each level's the
// oldest first, into what is in effect (GEP-713, "Abstract process for
// calculating Effective metaresources", from the bottom up as Kuadrant does).
func mergeLevels(levels [levelCount][]*statement) effective {
	var e effective
	for at, statements := range levels {
		for i := range statements {
			// The youngest is the most specific of its level.
			e.layers = append(e.layers, &layer{statement: statements[len(statements)-1-i], level: level(at)}) //nolint:gosec // at most levelCount
		}
	}
	apart := false
	var current, alone []wonPiece
	for _, next := range e.layers {
		current = next.onto(current, false)
		apart = apart || slices.ContainsFunc(next.pieces, func(p piece) bool { return p.apart })
	}
	if apart {
		for _, next := range e.layers {
			alone = next.onto(alone, true)
		}
	}
	e.pieces = append(current, alone...)
	slices.SortStableFunc(e.layers, compareLayers)
	for i, layer := range e.layers {
		layer.order = i
	}
	for _, won := range e.pieces {
		won.from.kept++
	}
	slices.SortStableFunc(e.pieces, func(a, b wonPiece) int { return cmp.Compare(a.from.order, b.from.order) })
	return e
}

// compareLayers puts overrides before defaults, the least specific override and
// the most specific default first, and on a level the older first.
func compareLayers(a, b *layer) int {
	switch {
	case a.overrides != b.overrides && a.overrides:
		return -1
	case a.overrides != b.overrides:
		return 1
	case a.level != b.level && a.overrides:
		return -cmp.Compare(a.level, b.level)
	case a.level != b.level:
		return cmp.Compare(a.level, b.level)
	default:
		return comparePrecedenceOf(a.statement, b.statement)
	}
}

// onto merges a layer with what the more specific ones came to.
func (l *layer) onto(current []wonPiece, apart bool) []wonPiece {
	var mine []wonPiece
	for i := range l.pieces {
		if l.pieces[i].apart == apart {
			mine = append(mine, wonPiece{&l.pieces[i], l})
		}
	}
	atomic := l.atomic && !apart
	switch {
	case len(mine) == 0:
		return current
	case atomic && l.overrides:
		for _, theirs := range current {
			theirs.lose(l, lessSpecific)
		}
		return mine
	case atomic && len(current) > 0:
		for _, piece := range mine {
			for _, theirs := range current {
				piece.lose(theirs.from, moreSpecific)
			}
		}
		return current
	}
	for _, piece := range mine {
		i := slices.IndexFunc(current, func(other wonPiece) bool { return other.key == piece.key })
		switch {
		case i < 0:
			current = append(current, piece)
		case current[i].from.level == l.level:
			current[i].lose(l, sameTarget(current[i].from.statement, l.statement))
			current[i] = piece
		case l.overrides:
			current[i].lose(l, lessSpecific)
			current[i] = piece
		default:
			piece.lose(current[i].from, moreSpecific)
		}
	}
	return current
}

// lose notes that a piece is not in effect. A policy on several levels does not
// lose to itself.
func (p wonPiece) lose(to *layer, why cause) {
	if p.from.statement == to.statement {
		return
	}
	if !slices.Contains(p.from.keys, p.key) {
		p.from.keys = append(p.from.keys, p.key)
	}
	if lost := (loss{to, why}); !slices.Contains(p.from.losses, lost) {
		p.from.losses = append(p.from.losses, lost)
	}
}

// winners are those in effect in place of what the layer lost: who beat it, or
// who beat those.
func (l *layer) winners() []loss {
	var found []loss
	seen := map[*layer]bool{l: true}
	var follow func(*layer)
	follow = func(from *layer) {
		for _, lost := range from.losses {
			if seen[lost.by] {
				continue
			}
			seen[lost.by] = true
			if lost.by.kept > 0 {
				found = append(found, lost)
				continue
			}
			follow(lost.by)
		}
	}
	follow(l)
	slices.SortStableFunc(found, func(a, b loss) int { return cmp.Compare(a.by.order, b.by.order) })
	return found
}

// use is the layer's part in a route, for people. ok is false when the same
// policy is in effect from a more specific level.
func (l *layer) use() (use PolicyUse, ok bool) {
	use = PolicyUse{Policy: l.origin, Level: l.level.String(), Overrides: l.overrides, Effect: PolicyApplied, Reason: "all of it is in effect"}
	if l.closing != nil {
		use.Reason = "is broken, so that every request is refused"
	}
	if l.kept == 0 && len(l.losses) == 0 {
		return use, false
	}
	if len(l.losses) == 0 {
		return use, true
	}
	winners := l.winners()
	reasons := make([]string, len(winners))
	for i, lost := range winners {
		use.By = append(use.By, lost.by.origin)
		reasons[i] = lost.reason()
	}
	use.Effect, use.Reason = PolicyOverridden, strings.Join(reasons, "; ")
	if l.kept > 0 {
		use.Effect, use.Reason = PolicyPartly, strings.Join(l.keys, ", ")+": "+use.Reason
	}
	return use, true
}

func (l loss) reason() string {
	who := l.by.origin.Object.String()
	switch l.why {
	case lessSpecific:
		return who + " overrides it from the " + l.by.level.String()
	case older:
		return who + " is on the same target and comes first (the older, then the first by namespace and name)"
	case stronger:
		return who + " is on the same target and overrides it"
	default:
		return who + " is attached more specifically, to the " + l.by.level.String()
	}
}
