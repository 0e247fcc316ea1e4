package stack

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"syscall"

	"weir.dev/cli/process"
	"weir.dev/cli/state"
)

// Uses of ports, besides the ingress's.
const (
	useGRPC  = "/grpc"
	useAdmin = "/admin"
	useREST  = "/rest"
)

// How far ports may shift, and from where they are taken: below what systems
// use for outgoing connections (32768 on Linux), above what services register.
const (
	maxShift       = 50
	rangeFirst     = 20_000
	rangeSize      = 10_000
	privilegedStep = 8000
	maxPort        = 65_535
)

// Claimer takes a port for this process's lifetime as far as the system can.
type Claimer interface {
	// Claim returns an error that says who holds the port when it is not free.
	// Closing the claim lets another Weir have it.
	Claim(port int) (io.Closer, error)
}

// Allocation is which port each use got.
type Allocation struct {
	// Ingress maps a listener's port to the one that is bound.
	Ingress map[int]int
	// Internal maps a use such as "datad/grpc" to its port.
	Internal state.Ports
	// Notes say which ports shifted, and why.
	Notes  []string
	claims []io.Closer
}

// Release gives all claims back.
func (a *Allocation) Release() {
	for _, claim := range a.claims {
		_ = claim.Close()
	}
	a.claims = nil
}

// Allocate claims a port for each listener, the declared one if possible, and
// for each internal use, the remembered one if possible and one counted from
// base otherwise.
func Allocate(claimer Claimer, listeners []Listener, uses []string, remembered state.Ports, base int) (*Allocation, error) {
	a := &Allocation{Ingress: map[int]int{}, Internal: state.Ports{}}
	for _, listener := range listeners {
		if err := a.ingress(claimer, listener.Port); err != nil {
			a.Release()
			return nil, err
		}
	}
	next := base
	for _, use := range uses {
		if err := a.internal(claimer, use, remembered[use], &next); err != nil {
			a.Release()
			return nil, err
		}
	}
	return a, nil
}

func (a *Allocation) ingress(claimer Claimer, declared int) error {
	var first error
	candidate := declared
	for range maxShift {
		claim, err := claimer.Claim(candidate)
		if err == nil {
			a.claims = append(a.claims, claim)
			a.Ingress[declared] = candidate
			if first != nil {
				a.Notes = append(a.Notes, fmt.Sprintf("%v, using %d", first, candidate))
			}
			return nil
		}
		if first == nil {
			first = err
		}
		if errors.Is(err, syscall.EACCES) && candidate < 1024 {
			candidate += privilegedStep
		} else {
			candidate++
		}
		if candidate > maxPort {
			break
		}
	}
	return fmt.Errorf("no port for the ingress: %w, and so are the next %d; free one, or change the Gateway's listener", first, maxShift)
}

func (a *Allocation) internal(claimer Claimer, use string, remembered int, next *int) error {
	taken := slices.Collect(maps.Values(a.Internal))
	try := func(port int) bool {
		if port <= 0 || port > maxPort || slices.Contains(taken, port) {
			return false
		}
		claim, err := claimer.Claim(port)
		if err != nil {
			return false
		}
		a.claims = append(a.claims, claim)
		a.Internal[use] = port
		return true
	}
	if try(remembered) {
		return nil
	}
	for range 20 * maxShift {
		port := *next
		*next++
		if try(port) {
			return nil
		}
	}
	return fmt.Errorf("no free port for %s from %d on; choose another range with --port-base", use, *next-20*maxShift)
}

// DefaultBase spreads the internal ports of different state folders.
func DefaultBase(stateDir string) int {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(stateDir))
	return rangeFirst + int(hash.Sum32()%(rangeSize/20))*20
}

// SystemClaimer claims ports of 127.0.0.1.
type SystemClaimer struct{}

// Claim checks that nobody listens and, where the system offers names that
// vanish with their process, marks the port as this Weir's: two that start at
// once must not both find it free, all the more as Envoy binds with
// SO_REUSEPORT, which would let them share it.
func (SystemClaimer) Claim(port int) (io.Closer, error) {
	mark, err := markPort(port)
	if err != nil {
		return nil, fmt.Errorf("%d is held by another weir", port)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // Does not wait.
	if err == nil {
		_ = listener.Close()
		return mark, nil
	}
	_ = mark.Close()
	if errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("%d needs root: %w", port, syscall.EACCES)
	}
	if holder, ok := process.HolderOf(port); ok {
		return nil, fmt.Errorf("%d is held by %d/%s", port, holder.PID, holder.Name)
	}
	return nil, fmt.Errorf("%d is held by another program", port)
}
