package controlplane

// TurnQuarantineOff is the negative control of looking for culprits.
func (l *Loop) TurnQuarantineOff() { l.noQuarantine = true }
