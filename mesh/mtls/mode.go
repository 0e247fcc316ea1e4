package mtls

import (
	"fmt"
	"slices"
	"strings"
)

// Mode is one of a PeerAuthentication. The zero value is UNSET, which inherits.
type Mode string

// Modes, in the order in which they are gone through.
const (
	Unset      Mode = ""
	Disable    Mode = "DISABLE"
	Permissive Mode = "PERMISSIVE"
	Strict     Mode = "STRICT"
)

// ParseMode reads one in any case. Unset is none that can be asked for.
func ParseMode(text string) (Mode, error) {
	mode := Mode(strings.ToUpper(text))
	if mode.rank() < 0 {
		return Unset, fmt.Errorf("%q is no mode; use DISABLE, PERMISSIVE or STRICT", text)
	}
	return mode, nil
}

// rank orders modes by what they refuse; -1 is no mode.
func (m Mode) rank() int { return slices.Index([]Mode{Disable, Permissive, Strict}, m) }

// stricter reports whether m refuses what other takes.
func (m Mode) stricter(other Mode) bool { return m == Strict && other != Strict }

// oneStep reports whether the modes are neighbours.
func (m Mode) oneStep(other Mode) bool {
	away := m.rank() - other.rank()
	return away == 1 || away == -1
}
