package folder

import "time"

// RescanEvery sets how often all is looked at, whatever was notified.
func (s *Source) RescanEvery(every time.Duration) { s.rescan = every }
