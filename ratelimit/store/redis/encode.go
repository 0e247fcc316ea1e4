package redis

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"weir.dev/ratelimit"
)

// The script's flags.
const (
	flagLook = 1 << iota
	flagShadow
	flagRefuse
	flagRefund
	flagForce
)

// What the script says of a request.
const (
	verdictRefused = iota
	verdictAdmitted
	verdictBroken
	verdictClock
	verdictWhole // of all requests of a call together
)

// The bytes that the values of algorithms.lua begin with.
const (
	formFixed = 1
	formGCRA  = 2
	formLog   = 3
)

// Of a charge, chargeHead bytes come before its numbers, the last of them their
// length; its key's place is at chargePlace and known when the call is made.
const (
	chargePlace = 2
	chargeHead  = 5
	// chargeMost is how long one with its numbers is at most.
	chargeMost = chargeHead + 8*ratelimit.MaxNumbers
)

// maxCharges is what the byte that counts a request's charges can say.
const maxCharges = 255

// appendRequest appends what the script needs to know of a request's charges,
// its keys and their places left out; clock is the caller's.
func appendRequest(buffer []byte, clock ratelimit.Time, charges []ratelimit.Charge) []byte {
	buffer = append(buffer, byte(len(charges)))
	for i := range charges {
		buffer = appendCharge(buffer, clock, &charges[i])
	}
	return buffer
}

func appendCharge(buffer []byte, clock ratelimit.Time, charge *ratelimit.Charge) []byte {
	letter, numbers, count, possible := charge.Numbers(clock)
	flags := byte(0)
	for _, flag := range [...]struct {
		set  bool
		flag byte
	}{
		{charge.Look, flagLook},
		{charge.Shadow, flagShadow},
		{!possible && !charge.Refund, flagRefuse},
		{charge.Refund, flagRefund},
		{charge.Force, flagForce},
	} {
		if flag.set {
			flags |= flag.flag
		}
	}
	buffer = append(buffer, letter, flags, 0, 0, byte(8*count))
	for _, number := range numbers[:count] {
		buffer = binary.LittleEndian.AppendUint64(buffer, math.Float64bits(float64(number)))
	}
	return buffer
}

var errForeign = errors.New("the script's answer has another form than it should; is another program using its keys?")

// cut cuts the script's answer into those of its requests, which have counts
// charges each; each part is called with the whole's time.
func cut(answer string, counts []int, each func(i int, now ratelimit.Time, part string)) error {
	if len(answer) < 8 {
		return errForeign
	}
	now := ratelimit.Time(number(answer))
	rest := answer[8:]
	parts := make([]string, len(counts))
	for i, count := range counts {
		length := 1
		for range count {
			if len(rest) < length+2 {
				return errForeign
			}
			length += 2 + int(rest[length+1])
		}
		if len(rest) < length {
			return errForeign
		}
		parts[i], rest = rest[:length], rest[length:]
	}
	if rest != "" {
		return errForeign
	}
	for i, part := range parts {
		each(i, now, part)
	}
	return nil
}

// parse reads one part of the answer, as cut cut it.
func parse(now ratelimit.Time, part string, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if part[0] == verdictBroken {
		return ratelimit.Outcome{}, errors.New("a key of ours holds another type of value; is another program using our keys?")
	}
	if part[0] == verdictClock {
		return ratelimit.Outcome{}, errors.New("its clock is more than a period of the calendar away from this one's; set both right")
	}
	outcome := ratelimit.Outcome{Now: now, Admitted: part[0] == verdictAdmitted, Results: make([]ratelimit.Result, len(charges))}
	part = part[1:]
	for i := range charges {
		length := int(part[1])
		outcome.Results[i] = ratelimit.Result{
			Allowed: part[0] == 1,
			State:   parseState(charges[i].Limit.Algorithm, part[2:2+length]),
		}
		part = part[2+length:]
	}
	return outcome, nil
}

// parseState reads what algorithms.lua wrote; another form is the zero value.
func parseState(algorithm ratelimit.Algorithm, value string) ratelimit.State {
	switch {
	case value == "":
	case algorithm == ratelimit.GCRA && len(value) == 41 && value[0] == formGCRA:
		return ratelimit.State{
			At: int64(number(value[1:])), Count: uint64(number(value[9:])), Scale: uint32(number(value[17:])), Back: int64(number(value[33:])),
		}
	case algorithm == ratelimit.FixedWindow && len(value) == 17 && value[0] == formFixed:
		return ratelimit.State{At: int64(number(value[1:])), Count: uint64(number(value[9:]))}
	case (algorithm == ratelimit.SlidingWindow || algorithm == ratelimit.Concurrency) && value[0] == formLog:
		return ratelimit.State{Log: value[1:]}
	}
	return ratelimit.State{}
}

func number(text string) float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64([]byte(text[:8])))
}

func checkCharges(charges []ratelimit.Charge) error {
	if len(charges) == 0 {
		return errors.New("no charges")
	}
	if len(charges) > maxCharges {
		return fmt.Errorf("%d charges are more than %d", len(charges), maxCharges)
	}
	return nil
}
