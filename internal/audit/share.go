package audit

import (
	"time"

	"golang.org/x/time/rate"
)

// What each organisation may write, callers without one among them, and what all may
// together who could not prove who they are: lines a second, and how many at once. It is
// more than any number of pulls makes, and keeps a program that asks without end from
// filling the disk that everybody's lines are on.
const (
	linesPerSecond, linesAtOnce                = 100, 2000
	linesOfStrangersPerSecond, strangersAtOnce = 1, 100
	leftOutSaid                                = time.Minute
	strangersShare, nobodysShare               = "(no login)", "-" // as what the log calls them
)

// share is what one of them wrote.
type share struct {
	*rate.Limiter

	leftOut int       // since it was said
	said    time.Time // when that was
}

// shareOf is the name of the share that e's line counts against.
func (e *Entry) shareOf() string {
	switch {
	case e.Stranger:
		return strangersShare
	case e.Organisation == "":
		return nobodysShare
	}
	return e.Organisation
}

// mayWrite says whether there is room for e in its share; what is left out is counted.
// Caller holds mu.
func (l *Log) mayWrite(e *Entry) bool {
	name := e.shareOf()
	s := l.shares[name]
	if s == nil {
		s = &share{Limiter: rate.NewLimiter(linesPerSecond, linesAtOnce)}
		if e.Stranger {
			s.Limiter = rate.NewLimiter(linesOfStrangersPerSecond, strangersAtOnce)
		}
		l.shares[name] = s
	}
	if s.Allow() {
		return true
	}
	l.lost.Inc()
	s.leftOut++
	if now := time.Now(); now.Sub(s.said) >= leftOutSaid {
		l.log.Warn("the audit leaves out lines, since one caller makes too many: pulls go on, and what is left out is counted",
			"organisation", name, "lines", s.leftOut)
		s.leftOut, s.said = 0, now
	}
	return false
}
